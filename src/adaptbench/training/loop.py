"""The few-shot training loop: R runs, one forward and backward through the shared model per step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from tqdm import tqdm

from adaptbench.data.batching import Encoded, Shape, collate, encode, shape_of
from adaptbench.data.example import TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.models.backbone import Backbone
from adaptbench.scoring.limits import out_of_memory, rows_that_fit
from adaptbench.scoring.rank import token_log_probabilities
from adaptbench.training.losses import per_run_loss
from adaptbench.training.optim import Adafactor, AdamW, RunOptimizer, linear_schedule
from adaptbench.training.stream import TrainingStream

if TYPE_CHECKING:
    from adaptbench.config import RecipeConfig


@dataclass
class TrainingLog:
    """What happened: per run the shape of every batch (what it would have been alone), losses and failures."""

    shapes: list[list[Shape]] = field(default_factory=list)  # R lists of one shape per step
    losses: list[list[float]] = field(default_factory=list)  # one list of R losses per step
    failures: dict[int, str] = field(default_factory=dict)  # run -> why it failed
    trained_parameters: int | None = None  # of one run, while it trained
    halvings: int = 0  # how often memory ran out, and a pass was repeated with half its rows


def train(
    backbone: Backbone,
    parameters: Sequence[nn.Parameter],
    task: TaskData,
    few_shot_sets: Sequence[FewShotSet],
    recipe: "RecipeConfig",
    *,
    steps: int,
    learning_rate: float,
    scale_parameter: bool = True,
    run_axis: bool = True,
    template: str = "random",
    progress: bool = False,
) -> TrainingLog:
    """Train `parameters` (leading axis: runs) on the few-shot sets; the model must compute with them already.

    A run whose loss or gradient is no longer finite stops there and is reported; the others go on untouched.
    """
    runs = len(few_shot_sets)
    streams = [
        TrainingStream(task, few_shot, template, recipe.batch_size, lambda prompt: encode(backbone, prompt))
        for few_shot in few_shot_sets
    ]
    update = Adafactor(scale_parameter) if recipe.optimizer == "adafactor" else AdamW()
    optimizer = RunOptimizer(parameters, update, runs, run_axis)
    log = TrainingLog(shapes=[[] for _ in range(runs)])
    log.trained_parameters = sum(parameter.numel() for parameter in parameters) // (runs if run_axis else 1)
    alive = torch.ones(runs, dtype=torch.bool, device=backbone.device)
    torch.manual_seed(few_shot_sets[0].seed)  # dropout
    backbone.model.train()
    for step in tqdm(range(steps), desc="adapting", leave=False, disable=None if progress else True, mininterval=1):
        batches = [stream.next_batch() for stream in streams]
        for run, rows in enumerate(batches):
            log.shapes[run].append(shape_of(rows))
        losses = accumulate(backbone, batches, recipe.losses, optimizer, log)
        factor = linear_schedule(step, steps, recipe.warmup_fraction)
        still_alive = optimizer.step(learning_rate * factor, recipe.clip_norm, alive & losses.isfinite())
        for run in (alive & ~still_alive).nonzero()[:, 0].tolist():
            log.failures[run] = f"loss {losses[run].item()} or its gradient is not finite at step {step + 1}"
        alive = still_alive
        log.losses.append(losses.tolist())
        if not alive.any():
            break
    backbone.model.eval()
    return log


def accumulate(
    backbone: Backbone,
    batches: Sequence[Sequence[Encoded]],
    names: Sequence[str],
    optimizer: RunOptimizer,
    log: TrainingLog,
) -> Tensor:
    """Gradients of one batch of every run, in passes of as many rows as memory allows; returns the (R,) losses.

    A run's loss is the mean over its examples, so passes of some rows each add up to the pass of all.
    """
    rows = len(batches[0])
    size = min(rows_that_fit(backbone, shape_of(own)) for own in batches) >> log.halvings or 1
    while True:
        optimizer.zero_grad()
        total = torch.zeros(len(batches), device=backbone.device)
        try:
            for start in range(0, rows, size):
                part = [row for own in batches for row in own[start : start + size]]
                batch = collate(part, backbone.pad_id).to(backbone.device)
                log_p = token_log_probabilities(backbone, batch)
                losses = per_run_loss(names, log_p, batch.target_mask, batch.label, len(batches))
                losses = losses * (min(size, rows - start) / rows)
                losses.sum().backward()  # a run's parameters only ever meet the loss of its own block
                total = total + losses.detach()
            return total
        except RuntimeError as error:
            if not out_of_memory(error) or size == 1:
                raise
            size //= 2
            log.halvings += 1
