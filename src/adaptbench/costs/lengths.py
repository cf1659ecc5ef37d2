"""How long the texts of a cell are: the paper's medians, or the means of a data set in a model's own tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from adaptbench.costs import paper
from adaptbench.data.batching import Shape
from adaptbench.data.example import TaskData
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.data.templates import Prompt
from adaptbench.data.tokenization import token_ids
from adaptbench.errors import InputError
from adaptbench.models.backbone import Backbone
from adaptbench.tasks import TaskType

MOST = 500  # rows looked at: means need no more


@dataclass(frozen=True)
class Lengths:
    """Tokens of a typical example.

    The paper prints two medians: 103 tokens for an input with all its choices, 98 for an example with its right
    answer. Two choices of five tokens after an input of 93 are the whole numbers that give both.
    """

    input: int = 93
    choices: int = 2
    choice: int = 5
    demonstration: int = paper.DEMONSTRATION_TOKENS
    source: str = "the paper's medians"
    windows: int = 1  # passes in which a text longer than the model's limit is read, to answer a question about it

    @property
    def prompt(self) -> int:
        """Input plus all choices, as the paper counts tokens."""
        return self.input + self.choices * self.choice

    def shape(self, rows: int, context: int = 0) -> Shape:
        """A batch of examples, each after `context` tokens of demonstrations."""
        return Shape(rows, context + self.input, self.choices, self.choice)

    def of_kind(self, task: TaskType) -> "Lengths":
        """The same text as an example of another kind of task: without choices, or with one answer to produce."""
        if task.bare:
            return replace(self, input=self.prompt, choices=0, choice=0, demonstration=0)
        return replace(self, choices=1) if task.beams is not None else self

    def changed(self, **given: int | None) -> "Lengths":
        """With what was given replaced.

        Raises:
            InputError: a length below one.
        """
        known = {name: value for name, value in given.items() if value is not None}
        for name, value in known.items():
            if value < 1:
                raise InputError(f"{name}={value}: expected at least 1")
        return replace(self, **known, source=f"{self.source}, with {', '.join(known)} as given") if known else self


def of_task(task: TaskData, backbone: Backbone, template: str, separator: str = "\n\n") -> Lengths:
    """Rounded means over a task's evaluation prompts and training rows, in the tokens of `backbone.tokenizer`.

    Means, not medians as in the paper: a bill is of a whole data set, and the mean times the rows is its total.
    """
    kind = task.type
    evaluated = [kind.encode(backbone, prompt) for prompt in evaluation_prompts(task, template, MOST)]
    shapes = [kind.read_shape(row, None) for row in evaluated]
    own = Lengths(
        input=_mean([shape.source for shape in shapes]),
        windows=_mean([shape.rows for shape in shapes]),
        choices=_mean([len(row.choices) for row in evaluated]),
        choice=_mean([len(choice) for row in evaluated for choice in row.choices]),
        source=f"means of {task.name} in tokens of {backbone.name}",
    )
    if not kind.demonstrates:
        return replace(own, demonstration=0)
    rows = TaskData(task.name, task.shots, (), task.train[:MOST], task.templates)
    shown = [_demonstration(backbone, prompt, separator) for prompt in evaluation_prompts(rows, template)]
    return replace(own, demonstration=_mean(shown) if shown else own.input + own.choice)


def _demonstration(backbone: Backbone, prompt: Prompt, separator: str) -> int:
    text = f"{prompt.input}{prompt.delimiter}{prompt.target}{separator}"
    (ids,) = token_ids(backbone.tokenizer, [text])
    return len(ids)


def _mean(values: Sequence[int]) -> int:
    """Zero where all are, or where there are none; else at least one."""
    return max(1, round(sum(values) / len(values))) if any(values) else 0
