"""The few-shot training loop: R runs, one forward and backward through the shared model per step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

from adaptbench.data.batching import Encoded, Shape
from adaptbench.data.example import TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.data.templates import Prompt
from adaptbench.models.backbone import Backbone
from adaptbench.schema import RecipeConfig
from adaptbench.scoring.limits import PassSize, smaller
from adaptbench.tasks import TaskType
from adaptbench.training.development import BestStates, DevelopmentRows
from adaptbench.training.log import TrainingLog
from adaptbench.training.optim import RunOptimizer, linear_schedule, update_rule
from adaptbench.training.stream import TrainingStream


def train(
    backbone: Backbone,
    parameters: Sequence[nn.Parameter],
    task: TaskData,
    few_shot_sets: Sequence[FewShotSet],
    recipe: RecipeConfig,
    *,
    steps: int,
    learning_rate: float | Sequence[float],
    scale_parameter: bool = True,
    run_axis: bool = True,
    template: str = "random",
    progress: bool = False,
    before: Sequence[Callable[[int, Prompt], str]] | None = None,
) -> TrainingLog:
    """Train `parameters` (leading axis: runs) on the few-shot sets; the model must compute with them already.

    Args:
        learning_rate: of all runs, or of each.
        before: for each run, what the prompt of a shot (its index) is read after; nothing if None.

    A run whose loss or gradient is no longer finite stops there and is reported; the others go on untouched. Where the
    sets have development rows, every run is left in the state that scored best on its own.
    """
    runs = len(few_shot_sets)
    rates = list(learning_rate) if isinstance(learning_rate, Sequence) else [learning_rate] * runs
    contexts = list(before) if before is not None else [None] * runs
    streams = [
        TrainingStream(task, few_shot, template, recipe.batch_size, partial(task.type.encode, backbone), context)
        for few_shot, context in zip(few_shot_sets, contexts, strict=True)
    ]
    optimizer = RunOptimizer(parameters, update_rule(recipe, scale_parameter), runs, run_axis)
    log = TrainingLog(shapes=[[] for _ in range(runs)], most=PassSize.of_recipe(recipe))
    rows = DevelopmentRows.of(backbone, task, few_shot_sets, recipe, template)
    best = BestStates(rows, parameters, runs, run_axis, log) if rows else None
    log.trained_parameters = sum(parameter.numel() for parameter in parameters) // (runs if run_axis else 1)
    alive = torch.ones(runs, dtype=torch.bool, device=backbone.device)
    torch.manual_seed(few_shot_sets[0].seed)  # dropout
    with backbone.training():
        for step in tqdm(range(steps), desc="adapting", leave=False, disable=None if progress else True, mininterval=1):
            batches = [stream.next_batch() for stream in streams]
            going = alive.nonzero()[:, 0].tolist()
            for run in going:
                log.shapes[run].append(task.type.shape_of(batches[run]))
            losses = accumulate(task.type, backbone, batches, recipe, optimizer, log)
            factor = linear_schedule(step, steps, recipe.warmup_fraction)
            still_alive = optimizer.step([rate * factor for rate in rates], recipe.clip_norm, alive & losses.isfinite())
            for run in (alive & ~still_alive).nonzero()[:, 0].tolist():
                log.failures[run] = f"loss {losses[run].item()} or its gradient is not finite at step {step + 1}"
            alive = still_alive
            log.losses.append(losses.tolist())
            log.final_losses.update({run: log.losses[-1][run] for run in going})
            if best is not None and best.due(step + 1, steps):
                alive = best.look(backbone, step + 1, alive)
            if not alive.any():
                break
        if best is not None:
            best.restore()
    return log


def accumulate(
    task: TaskType,
    backbone: Backbone,
    batches: Sequence[Sequence[Encoded]],
    recipe: RecipeConfig,
    optimizer: RunOptimizer,
    log: TrainingLog,
) -> Tensor:
    """Gradients of one batch of every run, in passes as large as memory allows; returns the (R,) losses.

    A run's loss is the mean over its examples, so passes of some rows each add up to the pass of all.
    """
    shape = shape_together(task, batches)
    while True:
        size = task.pass_size(backbone, shape, len(batches)).within(log.most)
        try:
            losses = _accumulate(task, backbone, batches, recipe, optimizer, size)
        except (RuntimeError, MemoryError) as error:
            log.most = smaller(error, size, log.most)
            log.halvings += 1
            continue
        log.slices = max(log.slices, -(-shape.choices // size.choices))
        return losses


def _accumulate(
    task: TaskType,
    backbone: Backbone,
    batches: Sequence[Sequence[Encoded]],
    recipe: RecipeConfig,
    optimizer: RunOptimizer,
    size: PassSize,
) -> Tensor:
    """The same in passes of this size. A function of its own: what a failed pass held is free for the next one."""
    optimizer.zero_grad()
    total = torch.zeros(len(batches), device=backbone.device)
    for losses in losses_of_passes(task, backbone, batches, recipe, size):
        losses.sum().backward()  # a run's parameters only ever meet the loss of its own block
        total = total + losses.detach()
    return total


def shape_together(task: TaskType, batches: Sequence[Sequence[Encoded]]) -> Shape:
    """The shape of each run's batch where they share a pass, which is padded to the longest of all."""
    every = [row for rows in batches for row in rows]
    return replace(task.shape_of(every), rows=len(batches[0]))


def losses_of_passes(
    task: TaskType, backbone: Backbone, batches: Sequence[Sequence[Encoded]], recipe: RecipeConfig, size: PassSize
) -> Iterator[Tensor]:
    """Each pass's (R,) share of the mean losses over a batch of every run: their sum is that of the whole batch."""
    rows = len(batches[0])
    for start in range(0, rows, size.rows):
        part = [row for run_batch in batches for row in run_batch[start : start + size.rows]]
        batch = task.collate(part, backbone)
        output = task.forward(backbone, batch, size, recipe.label_smoothing)
        losses = task.run_losses(recipe.losses, output, batch, len(batches), recipe.label_smoothing)
        yield losses * (min(size.rows, rows - start) / rows)
