"""Prequential selection of a learning rate: on the K shots themselves, without a development set (arXiv 2512.19879).

Every candidate trains on the first shots and predicts the next ones, twice: from K/4 to K/2, and from K/2 to K. The sum
of these log-losses says how well a rate learns from so little; the smallest wins, for every run by itself. All of it
is on the run's bill.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adaptbench.data.batching import Encoded, Shape
from adaptbench.data.example import TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.data.prompts import render
from adaptbench.errors import InputError
from adaptbench.models.backbone import Backbone
from adaptbench.tasks import TaskType
from adaptbench.training.log import TrainingLog

SELECTION_STREAM = 5  # keeps the templates of predicted shots apart from other uses of the seed
LOG_LOSSES = ("length_normalized", "lm")  # the first that a task has: of the right choice, or of the target
FEWEST = 4  # shots that this takes


@dataclass(frozen=True)
class Selection:
    """What was chosen for each of R runs, and what it took."""

    rates: list[float]  # of each run
    nats: dict[float, list[float]]  # candidate -> each run's log-loss, summed over the shots that were predicted
    trained: list[list[Shape]]  # the batches of each run that were trained on,
    predicted: list[list[Shape]]  # and those that were only read


@dataclass(frozen=True)
class Trial:
    """A method trained on some shots: what its runs compute with, and its log."""

    backbone: Backbone
    log: TrainingLog
    losses: Callable[[Sequence[Sequence[Encoded]]], Tensor]  # a batch for each run -> (R,) mean log-losses


def prequential(
    candidates: Sequence[float],
    train_on: Callable[[Sequence[FewShotSet], float], Trial],
    task: TaskData,
    few_shot_sets: Sequence[FewShotSet],
    template: str,
    batch_size: int,
) -> Selection:
    """The candidate with the smallest sequential log-loss, for every run.

    Args:
        candidates: learning rates.
        train_on: trains on shots with a learning rate.
        batch_size: shots in a pass, of every run.

    Raises:
        InputError: too few shots.
    """
    runs, shots = len(few_shot_sets), len(few_shot_sets[0].examples)
    if shots < FEWEST:
        raise InputError(f"method.select=prequential: {shots} shots, expected at least {FEWEST}")
    nats: dict[float, list[float]] = {}
    trained: list[list[Shape]] = [[] for _ in range(runs)]
    predicted: list[list[Shape]] = [[] for _ in range(runs)]
    for rate in candidates:
        total = torch.zeros(runs)
        for start, stop in ((shots // 4, shots // 2), (shots // 2, shots)):
            trial = train_on([FewShotSet(few.seed, few.examples[:start]) for few in few_shot_sets], rate)
            following = [_encoded(task, trial.backbone, few, slice(start, stop), template) for few in few_shot_sets]
            for first in range(0, stop - start, batch_size):
                batches = [rows[first : first + batch_size] for rows in following]
                total += trial.losses(batches).cpu() * len(batches[0])
                for run, rows in enumerate(batches):
                    predicted[run].append(task.type.shape_of(rows))
            for run in range(runs):
                trained[run] += trial.log.shapes[run]
        nats[rate] = total.nan_to_num(float("inf")).tolist()
    rates = [min(candidates, key=lambda rate: nats[rate][run]) for run in range(runs)]
    return Selection(rates, nats, trained, predicted)


def log_loss(task: TaskType) -> list[str]:
    """The loss that measures a prediction of this kind of task."""
    return [next(name for name in LOG_LOSSES if name in task.losses)] if task.losses else []


def _encoded(task: TaskData, backbone: Backbone, few_shot: FewShotSet, part: slice, template: str) -> list[Encoded]:
    rng = np.random.default_rng((few_shot.seed, SELECTION_STREAM))
    return [task.type.encode(backbone, render(task, shot, template, rng)) for shot in few_shot.examples[part]]
