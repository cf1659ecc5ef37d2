"""The bill of a cell before it is run: from shapes and text lengths alone, no weights, no data, any size of model.

`quote` prices a cell, `spent` its FLOPs alone; `break_even` sets a tuned cell against a prompted one.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from adaptbench.costs import paper
from adaptbench.costs.cached import CachedFlops, cached_flops, cached_memory
from adaptbench.costs.depth import Counts, count_by_depth
from adaptbench.costs.flops import count
from adaptbench.costs.lengths import Lengths
from adaptbench.costs.memory import Memory, kv_cache_bytes, predict_memory, train_memory
from adaptbench.costs.meta import MetaRun, no_gradients_left
from adaptbench.costs.storage import stored_bytes
from adaptbench.methods.base import Method
from adaptbench.models.backbone import Backbone

if TYPE_CHECKING:
    from adaptbench.config import RecipeConfig


@dataclass(frozen=True)
class Flops:
    """What is counted, and the same by the paper's formulas."""

    measured: float
    paper: float


@dataclass(frozen=True)
class Spent:
    """The FLOPs of a cell."""

    method: str
    model: str
    shots: int
    trainable: int
    steps: int
    batch_size: int
    adapt: Flops
    predict: Flops  # per example
    once: Flops | None = None  # reading demonstrations whose keys and values all predictions share,
    after: Flops | None = None  # and a prediction after that; None where nothing can be shared

    @property
    def prompts(self) -> bool:
        """It pays in every prediction for examples it reads."""
        return self.shots > 0 and self.trainable == 0


@dataclass(frozen=True)
class Quote:
    """Everything a cell costs."""

    spent: Spent
    lengths: Lengths
    parameters: int
    memory_adapt: Memory | None  # None where nothing is trained
    memory_predict: Memory
    memory_after: Memory | None  # a prediction that shares its demonstrations
    kv_cache_bytes: int
    storage_bytes: int
    storage_paper: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """A method on a model, and how long the texts are. Everything is counted on the meta device."""

    method: Method
    backbone: Backbone
    recipe: "RecipeConfig"
    lengths: Lengths
    shots: int

    @cached_property
    def run(self) -> MetaRun:
        return MetaRun.of(self.method, self.backbone, self.recipe)

    @property
    def context(self) -> int:
        """Tokens of demonstrations before every prompt."""
        return self.shots * self.lengths.demonstration if self.run.adaptation.contexts is not None else 0

    @property
    def shares(self) -> bool:
        """Its demonstrations can be read once for all predictions."""
        return bool(self.context) and not self.backbone.is_encoder_decoder

    @property
    def steps(self) -> int:
        return getattr(self.method, "steps", 0) if self.run.adaptation.parameters else 0


def spent(cell: Cell) -> Spent:
    """The FLOPs of a cell, counted and by formula."""
    lengths, context, steps = cell.lengths, cell.context, cell.steps
    total, two_halves = cell.backbone.parameters_total, cell.backbone.is_encoder_decoder
    rows, trainable = cell.recipe.batch_size, cell.run.adaptation.trainable

    def formula(tokens: int) -> float:
        return paper.predict(total, two_halves, tokens)

    _, step, predict, once, after = count_by_depth(
        cell.backbone, trainable, lambda backbone: _counts(replace(cell, backbone=backbone))
    )
    return Spent(
        method=cell.method.name,
        model=cell.backbone.name,
        shots=cell.shots if context or steps else 0,
        trainable=trainable,
        steps=steps,
        batch_size=rows if steps else 0,
        adapt=Flops(steps * step, paper.adapt(total, two_halves, steps * rows * lengths.prompt)),
        predict=Flops(predict, formula(context + lengths.prompt)),
        once=Flops(once, formula(context)) if cell.shares else None,
        after=Flops(after, formula(lengths.prompt)) if cell.shares else None,
    )


def _counts(cell: Cell) -> Counts:
    """Trainable parameters; FLOPs of a training step, a prediction, reading demonstrations once, one after that."""
    run, lengths, step, cached = cell.run, cell.lengths, 0, CachedFlops(0, 0)
    if cell.steps:
        with no_gradients_left(run):
            step = count(lambda: run.forward_backward(lengths.shape(cell.recipe.batch_size)))
    if cell.shares:
        cached = cached_flops(run, lengths.shape(1), cell.context)
    predict = count(lambda: run.predict(lengths.shape(1, cell.context)))
    return run.adaptation.trainable, step, predict, cached.once, cached.predict


def quote(cell: Cell) -> Quote:
    """The whole bill of a cell."""
    run, lengths, context, backbone = cell.run, cell.lengths, cell.context, cell.backbone
    return Quote(
        spent=spent(cell),
        lengths=lengths,
        parameters=backbone.parameters_total,
        memory_adapt=train_memory(run, lengths.shape(cell.recipe.batch_size)) if cell.steps else None,
        memory_predict=predict_memory(run, lengths.shape(1, context)),
        memory_after=cached_memory(run, lengths.shape(1), context) if cell.shares else None,
        kv_cache_bytes=kv_cache_bytes(backbone.anatomy, context, backbone.dtype) if cell.shares else 0,
        storage_bytes=stored_bytes(cell.method, run.adaptation, context),
        storage_paper=paper.storage(run.adaptation.trainable or context),
        notes=_notes(backbone, context, lengths),
    )


def _notes(backbone: Backbone, context: int, lengths: Lengths) -> list[str]:
    config: Any = backbone.model.config
    limit = getattr(config, "max_position_embeddings", None) if not backbone.is_encoder_decoder else None
    needed = context + lengths.input + lengths.choice
    if limit and needed > limit:
        return [
            f"{needed:,} tokens are more than the {limit:,} positions of {backbone.name}: this is the bill of the "
            "same model with more positions (the paper's averages have that property, too)"
        ]
    return []


@dataclass(frozen=True)
class BreakEven:
    """After how many predictions tuning is cheaper than prompting; None: never."""

    tuned: str
    prompted: str
    measured: int | None
    paper: int | None
    cached: (
        int | None
    )  # against prompting with a shared demonstration cache, counted; None also where it cannot be shared
    has_cache: bool  # whether prompting could share its demonstrations
    same_cost_paper: float  # how many prompted predictions cost what tuning costs (the paper's "about 20")


def break_even(tuned: Spent, prompted: Spent) -> BreakEven:
    """Set the FLOPs of a tuned cell against those of a prompted one."""
    cached = None
    if prompted.once is not None and prompted.after is not None:
        more = tuned.adapt.measured - prompted.once.measured
        cached = paper.break_even(more, prompted.after.measured, tuned.predict.measured)
    return BreakEven(
        tuned=f"{tuned.method} on {tuned.model}",
        prompted=f"{prompted.method} on {prompted.model}, {prompted.shots} shots",
        measured=_up(paper.break_even(tuned.adapt.measured, prompted.predict.measured, tuned.predict.measured)),
        paper=_up(paper.break_even(tuned.adapt.paper, prompted.predict.paper, tuned.predict.paper)),
        cached=_up(cached),
        has_cache=prompted.once is not None,
        same_cost_paper=tuned.adapt.paper / prompted.predict.paper,
    )


def _up(value: float | None) -> int | None:
    return None if value is None else math.ceil(value)
