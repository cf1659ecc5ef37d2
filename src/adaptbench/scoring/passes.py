"""Answers to encoded prompts, in passes of as many rows as memory allows."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from adaptbench.data.batching import Encoded, Shape
from adaptbench.models.backbone import Backbone
from adaptbench.scoring.limits import PassSize, smaller
from adaptbench.tasks import TaskType
from adaptbench.training.log import TrainingLog

CPU_TOKENS = 8192  # larger passes are no faster there, and take memory


@dataclass(frozen=True)
class Passes:
    """Asks a model, adapted already, for R runs at once."""

    task: TaskType
    backbone: Backbone
    log: TrainingLog  # counts how often memory ran out
    batch_size: int  # most rows in a pass, over all runs
    tokens: int | None = None  # most tokens in a pass, padding included; None: `CPU_TOKENS` there, else without bound
    progress: bool = False

    def __call__(self, encoded: Sequence[Sequence[Encoded]], already_read: int = 0) -> list[list[Any]]:
        """Each run's answers to its own prompts, equally many for every run, in their order.

        Args:
            already_read: tokens before every row whose keys and values are held.
        """
        runs, count = len(encoded), len(encoded[0])
        orders = [sorted(range(count), key=lambda i: len(rows[i].source)) for rows in encoded]  # little padding
        ordered = [[rows[index] for index in order] for rows, order in zip(encoded, orders, strict=True)]
        answers: list[list[Any]] = [[] for _ in range(runs)]
        most, start = PassSize(rows=max(1, self.batch_size // runs)).within(self.log.most_read), 0
        quiet = None if self.progress else True
        with tqdm(total=count, desc="evaluating", leave=False, disable=quiet, mininterval=1) as bar:
            while start < count:
                shape = self._shape([rows[start : start + most.rows] for rows in ordered])
                size = self.task.pass_size(self.backbone, shape, runs).within(most).within(self._few(shape, runs))
                blocks = [rows[start : start + size.rows] for rows in ordered]
                try:
                    found = self.task.answer(self.backbone, blocks, already_read, size)
                except (RuntimeError, MemoryError) as error:
                    most = self.log.most_read = smaller(error, size, most)
                    self.log.halvings += 1
                    continue
                self.log.slices = max(self.log.slices, -(-shape.choices // size.choices))
                for all_of_run, new in zip(answers, found, strict=True):
                    all_of_run += new
                start += len(blocks[0])
                bar.update(len(blocks[0]))
        return [_put_back(order, found) for order, found in zip(orders, answers, strict=True)]

    def _shape(self, blocks: Sequence[Sequence[Encoded]]) -> Shape:
        """Of one run's rows, where all runs are padded to the longest."""
        shapes = [self.task.shape_of(block) for block in blocks]
        return Shape(*(max(sizes) for sizes in zip(*map(_sizes, shapes), strict=True)))

    def _few(self, shape: Shape, runs: int) -> PassSize:
        """As many rows as the bound on tokens allows."""
        tokens = self.tokens
        if tokens is None:
            tokens = CPU_TOKENS if self.backbone.device.type == "cpu" else sys.maxsize
        row = shape.source + shape.choices * shape.target
        return PassSize(rows=max(1, tokens // max(1, row * runs)))


def _sizes(shape: Shape) -> tuple[int, int, int, int]:
    return shape.rows, shape.source, shape.choices, shape.target


def _put_back(order: Sequence[int], answers: Sequence[Any]) -> list[Any]:
    """Answers given in this order, as they were asked for."""
    placed = dict(zip(order, answers, strict=True))
    return [placed[index] for index in range(len(order))]
