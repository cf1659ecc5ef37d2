"""Choosing the best state of a training, and when to end it, by the score of development rows.

Every run has rows, a best state and an end of its own; a run that has ended no longer moves while others go on. Reading
the development rows is part of the cost to adapt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from adaptbench.data.batching import Encoded, Shape
from adaptbench.data.example import TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.data.templates import Prompt
from adaptbench.metrics import Metric
from adaptbench.models.backbone import Backbone
from adaptbench.schema import RecipeConfig
from adaptbench.scoring.passes import Passes
from adaptbench.scoring.scores import classes, headline, score
from adaptbench.tasks import TaskType
from adaptbench.training.log import BestState, TrainingLog

ROWS = 128  # most development rows in a pass, over all runs


@dataclass(frozen=True)
class DevelopmentRows:
    """What every run is asked between its steps, and how often."""

    task: TaskType
    metric: Metric
    prompts: Sequence[Sequence[Prompt]]  # of every run,
    encoded: Sequence[Sequence[Encoded]]  # and what the model reads of each
    norm: str  # of choices
    every: int  # steps
    patience: int | None

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        task: TaskData,
        few_shot_sets: Sequence[FewShotSet],
        recipe: RecipeConfig,
        template: str,
    ) -> "DevelopmentRows | None":
        """None where the runs have none."""
        if not few_shot_sets[0].development:
            return None
        prompts = [evaluation_prompts(replace(task, evaluation=few.development), template) for few in few_shot_sets]
        encoded = [[task.type.encode(backbone, prompt) for prompt in rows] for rows in prompts]
        every = steps_between(recipe, len(few_shot_sets[0].examples))
        return cls(task.type, headline(task), prompts, encoded, task.norm, every, recipe.patience)

    @torch.no_grad()
    def scores(self, backbone: Backbone, log: TrainingLog) -> tuple[list[float], list[list[Shape]]]:
        """Each run's score, and what it took to read the rows."""
        longest = max(map(len, self.encoded))
        filled = [[*rows, *[rows[-1]] * (longest - len(rows))] for rows in self.encoded]  # runs share every pass
        answers = Passes(self.task, backbone, log, ROWS)(filled)
        found, read = [], []
        for rows, encoded, all_of_run in zip(self.prompts, self.encoded, answers, strict=True):
            own = all_of_run[: len(rows)]
            value = score(self.metric, self.task, own, self.norm, classes(self.task, rows))
            found.append(float("-inf") if value is None or self.task.problem(own) else value)
            read.append([self.task.read_shape(row, answer) for row, answer in zip(encoded, own, strict=True)])
        return found, read


def steps_between(recipe: RecipeConfig, rows: int) -> int:
    """Training steps from one look at the development rows to the next."""
    return max(1, round(rows / recipe.batch_size / recipe.evaluations))


def most_read(steps: int, recipe: RecipeConfig, rows: int, development: int) -> int:
    """How many development rows a run reads if its training does not end early.

    Args:
        rows: to train on.
        development: development rows.
    """
    return development * -(-steps // steps_between(recipe, rows)) if steps and development else 0


class BestStates:
    """Keeps a copy of each run's best state so far."""

    def __init__(
        self, rows: DevelopmentRows, parameters: Sequence[nn.Parameter], runs: int, run_axis: bool, log: TrainingLog
    ):
        self._rows, self._log = rows, log
        self._values = [parameter.data if run_axis else parameter.data[None] for parameter in parameters]
        self._kept = [value.clone() for value in self._values]
        self._waited = [0] * runs
        log.best = [BestState() for _ in range(runs)]
        log.predicted = [[] for _ in range(runs)]

    def due(self, step: int, steps: int) -> bool:
        """Whether it is time to look after so many steps."""
        return step % self._rows.every == 0 or step == steps

    def look(self, backbone: Backbone, step: int, alive: Tensor) -> Tensor:
        """Score the development rows, and keep the states that are better than before.

        Args:
            alive: (R,) the runs that are still training.

        Returns:
            (R,) those that go on.
        """
        backbone.train(False)
        scores, read = self._rows.scores(backbone, self._log)
        backbone.train()
        going = alive.clone()
        for run in alive.nonzero()[:, 0].tolist():
            best = self._log.best[run]
            best.looks += 1
            self._log.predicted[run] += read[run]
            if best.score is None or scores[run] > best.score:
                best.step, best.score, self._waited[run] = step, scores[run], 0
                for kept, value in zip(self._kept, self._values, strict=True):
                    kept[run] = value[run]
                continue
            self._waited[run] += 1
            going[run] = self._rows.patience is None or self._waited[run] < self._rows.patience
        return going

    def restore(self) -> None:
        """Give every run its best state."""
        for kept, value in zip(self._kept, self._values, strict=True):
            value.copy_(kept)
