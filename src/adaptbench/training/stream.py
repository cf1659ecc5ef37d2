"""Which prompts a run trains on and in which order: all from the run's own seed."""

from collections.abc import Callable, Sequence

import numpy as np

from adaptbench.data.batching import Encoded
from adaptbench.data.example import Example, TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.data.prompts import render
from adaptbench.data.templates import Prompt

ORDER_STREAM = 1  # keeps the data order apart from other uses of the seed


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
        encode: Callable[..., Encoded],
        context: Callable[[int, Prompt], str] | None = None,
    ):
        """Args:
        encode: a prompt, and what it is read after, if anything.
        context: what the prompt of a shot (its index) is read after, drawn anew each time.
        """
        self._task = task
        self._examples: Sequence[Example] = few_shot.examples
        self._template = template
        self._batch_size = batch_size
        self._encode = encode
        self._context = context
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
        if self._context is not None:
            return self._encode(prompt, self._context(index, prompt))
        key = (index, prompt.template)
        if key not in self._encoded:
            self._encoded[key] = self._encode(prompt)
        return self._encoded[key]
