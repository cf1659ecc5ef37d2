"""Which prompts a run trains on, in which order, and which are evaluated: all from the run's own seed."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from adaptbench.data.batching import Encoded
from adaptbench.data.example import Example, TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.data.templates import NotApplicable, Prompt
from adaptbench.errors import InputError

ORDER_STREAM = 1  # keeps the data order apart from other uses of the seed
DRAWN = ("random", "all")  # policies under which training and demonstrations draw a template for every row


def render(task: TaskData, example: Example, template: str, rng: np.random.Generator) -> Prompt:
    """A row as a prompt: by the named template, or by one drawn from `rng` where it is "random" (or "all").

    A drawn template that is not meant for the row gives way to another.
    """
    if template not in DRAWN:
        return task.template(template).render(example.uid, example.fields, example.origin)
    first = int(rng.integers(len(task.templates)))
    try:
        return task.templates[first].render(example.uid, example.fields, example.origin)
    except NotApplicable:
        others = rng.permutation([index for index in range(len(task.templates)) if index != first])
        return next(_applicable(task, example, others))


def evaluation_prompts(task: TaskData, template: str, limit: int | None = None) -> list[Prompt]:
    """The prompts to score: the same for every method and seed, so that comparisons are paired.

    With "all" every row is phrased by every template that is meant for it.
    """
    rows = task.evaluation[:limit]
    if template == "all":
        return [prompt for row in rows for prompt in _applicable(task, row, range(len(task.templates)))]
    rng = np.random.default_rng(zlib.crc32(task.name.encode()))
    return [render(task, example, template, rng) for example in rows]


def _applicable(task: TaskData, example: Example, order: Iterable[int]) -> Iterator[Prompt]:
    """The row in every template, in this order, that is meant for it."""
    none = True
    for index in order:
        try:
            yield task.templates[index].render(example.uid, example.fields, example.origin)
        except NotApplicable:
            continue
        none = False
    if none:
        raise InputError(f"dataset {task.name!r}, row {example.uid!r}: no template is meant for this row")


class TrainingStream:
    """Endless batches of one run: epochs in fresh random order, a random template per example (paper, section 3.1).

    Epochs follow each other without a gap, so a batch is always full, however few the shots.
    """

    def __init__(
        self,
        task: TaskData,
        few_shot: FewShotSet,
        template: str,
        batch_size: int,
        encode: Callable[[Prompt], Encoded],
    ):
        self._task = task
        self._examples: Sequence[Example] = few_shot.examples
        self._template = template
        self._batch_size = batch_size
        self._encode = encode
        self._rng = np.random.default_rng((few_shot.seed, ORDER_STREAM))
        self._waiting: list[int] = []
        self._encoded: dict[tuple[int, str], Encoded] = {}

    def next_batch(self) -> list[Encoded]:
        while len(self._waiting) < self._batch_size:
            self._waiting += self._rng.permutation(len(self._examples)).tolist()
        batch, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
        return [self._next(index) for index in batch]

    def _next(self, index: int) -> Encoded:
        prompt = render(self._task, self._examples[index], self._template, self._rng)
        key = (index, prompt.template)
        if key not in self._encoded:
            self._encoded[key] = self._encode(prompt)
        return self._encoded[key]
