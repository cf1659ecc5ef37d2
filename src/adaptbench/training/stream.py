"""Which prompts a run trains on, in which order, and which are evaluated: all from the run's own seed."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from adaptbench.data.batching import Encoded
from adaptbench.data.example import Example, TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.data.templates import Prompt

ORDER_STREAM = 1  # keeps the data order apart from other uses of the seed


def render(task: TaskData, example: Example, template: str, rng: np.random.Generator) -> Prompt:
    """A row as a prompt: by the named template, or by one drawn from `rng` where `template` is "random"."""
    drawn = template == "random"
    chosen = task.templates[int(rng.integers(len(task.templates)))] if drawn else task.template(template)
    return chosen.render(example.uid, example.fields)


def evaluation_prompts(task: TaskData, template: str, limit: int | None = None) -> list[Prompt]:
    """The prompts to score: the same for every method and seed, so that comparisons are paired."""
    rng = np.random.default_rng(zlib.crc32(task.name.encode()))
    return [render(task, example, template, rng) for example in task.evaluation[:limit]]


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
