"""The bill of a cell before it is run: from shapes and text lengths alone, no weights, no data, any size of model.

`quote` prices a cell, `spent` its FLOPs alone; `break_even` sets a tuned cell against a prompted one.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property

from adaptbench.costs import paper
from adaptbench.costs.lengths import Lengths
from adaptbench.costs.memory import Memory, kv_cache_bytes
from adaptbench.costs.meta import MetaRun
from adaptbench.costs.pricer import Pricer
from adaptbench.costs.storage import stored_bytes
from adaptbench.data.batching import Shape
from adaptbench.methods.base import Method
from adaptbench.methods.contexts import ReadingPlan
from adaptbench.models.backbone import Backbone
from adaptbench.models.checks import positions
from adaptbench.schema import RecipeConfig
from adaptbench.tasks import TaskType
from adaptbench.tasks.choices import Choices
from adaptbench.training.development import most_read


@dataclass(frozen=True)
class Flops:
    """What is counted, and the same by the paper's formulas."""

    measured: float
    paper: float

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.measured + other.measured, self.paper + other.paper)

    def __mul__(self, times: int) -> "Flops":
        return Flops(times * self.measured, times * self.paper)


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
class PlannedCell:
    """A method on a model, and how long the texts are. Everything is counted on the meta device."""

    method: Method
    backbone: Backbone
    recipe: RecipeConfig
    lengths: Lengths
    shots: int
    task: TaskType = field(default_factory=Choices)
    development: int = 0  # rows on which the best state of a training is chosen

    @cached_property
    def run(self) -> MetaRun:
        return MetaRun.of(self.method, self.backbone, self.recipe, self.task)

    @cached_property
    def prices(self) -> Pricer:
        return Pricer(self.run, exact=True)

    @cached_property
    def plan(self) -> ReadingPlan:
        return self.method.plan(self.shots)

    @property
    def context(self) -> int:
        """Tokens of demonstrations before the prompt, in one pass: whole ones, as many as the budget holds."""
        plan, tokens = self.plan, self.lengths.demonstration
        return tokens * min(plan.demonstrations, plan.demonstrations if plan.budget is None else plan.budget // tokens)

    @property
    def stored(self) -> int:
        """Tokens of demonstrations that serving the task needs: all, where every prompt has its own choice of them."""
        if self.run.adaptation.contexts is None:
            return 0
        return self.plan.contexts * self.context if self.plan.shareable else self.shots * self.lengths.demonstration

    @property
    def passes(self) -> int:
        """Passes of a prediction: one for every context, and in the noisy channel for every choice."""
        return self.plan.contexts * (self.lengths.choices if self.plan.channel else 1)

    def shape(self, context: int = 0) -> Shape:
        """A pass of a prediction after `context` tokens; the noisy channel reads a choice and scores the input."""
        if self.plan.channel:
            return Shape(1, context + self.lengths.choice, 1, self.lengths.input)
        return self.lengths.shape(self.lengths.windows, context + self.virtual)

    @property
    def virtual(self) -> int:
        """Virtual tokens that prompt tuning puts before every prompt."""
        return self.run.adaptation.backbone.virtual_tokens

    @property
    def searched(self) -> int:
        """Shots whose gradients are taken, one by one, before training (FISH)."""
        return self.shots if self.method.searches else 0

    def batch(self) -> Shape:
        """A training batch, with the demonstrations that a method trains on, if it does."""
        return self.lengths.shape(self.recipe.batch_size, self.context + self.virtual)

    @property
    def tokens(self) -> int:
        """Tokens of a pass without its context, as the paper counts them."""
        shape = self.shape()
        return shape.rows * shape.source + shape.choices * shape.target

    @property
    def shares(self) -> bool:
        """Its demonstrations can be read once for all predictions."""
        return bool(self.context) and self.plan.shareable and self.backbone.shares_demonstrations

    @property
    def steps(self) -> int:
        return self.method.training_steps(self.recipe, self.shots) if self.run.adaptation.parameters else 0

    @property
    def read_in_training(self) -> int:
        """Development rows that a training to its end reads."""
        steps = self.method.steps_on(self.recipe, self.shots) if self.steps else 0
        return most_read(steps, self.recipe, self.shots, self.development)


def spent(cell: PlannedCell) -> Spent:
    """The FLOPs of a cell, counted and by formula."""
    lengths, context, steps = cell.lengths, cell.context, cell.steps
    rows, trainable, prices = cell.recipe.batch_size, cell.run.adaptation.trainable, cell.prices
    step = prices.train(cell.batch()) if steps else 0
    search = prices.train(lengths.shape(1)) if steps and cell.searched else 0
    each, formula = prices.predict(cell.shape(context)), prices.predict_by_paper
    read, each_after = (
        (prices.read_once(context), prices.predict_after(cell.shape(), context)) if cell.shares else (0, 0)
    )
    passes, contexts = cell.passes, cell.plan.contexts
    every = Flops(passes * each, passes * formula(context + cell.tokens))  # the demonstrations read in every prediction
    once = Flops(contexts * read, contexts * formula(context)) if cell.shares else None
    after = Flops(passes * each_after, passes * formula(cell.tokens)) if cell.shares else None
    predict = after if cell.plan.shared and after else every
    return Spent(
        method=cell.method.name,
        model=cell.backbone.name,
        shots=cell.shots if context or steps else 0,
        trainable=trainable,
        steps=steps,
        batch_size=rows if steps else 0,
        adapt=Flops(
            steps * step + cell.searched * search,
            prices.adapt_by_paper((steps * rows + cell.searched) * (lengths.prompt + cell.context + cell.virtual)),
        )
        + predict * (cell.plan.content_free + cell.read_in_training)
        + (once if cell.plan.shared and once else Flops(0, 0)),
        predict=predict,
        once=once,
        after=after,
    )


def quote(cell: PlannedCell) -> Quote:
    """The whole bill of a cell."""
    run, lengths, context, backbone, prices = cell.run, cell.lengths, cell.context, cell.backbone, cell.prices
    after = prices.predict_memory(cell.shape(), context) if cell.shares else None
    return Quote(
        spent=spent(cell),
        lengths=lengths,
        parameters=backbone.parameters_total,
        memory_adapt=prices.train_memory(cell.batch()) if cell.steps else None,
        memory_predict=after if after and cell.plan.shared else prices.predict_memory(cell.shape(context)),
        memory_after=after,
        kv_cache_bytes=kv_cache_bytes(backbone.anatomy, cell.plan.contexts * context, backbone.dtype)
        if cell.shares
        else 0,
        storage_bytes=stored_bytes(cell.method, run.adaptation, cell.stored),
        storage_paper=paper.storage(run.adaptation.trainable or cell.stored),
        notes=_notes(cell),
    )


def _notes(cell: PlannedCell) -> list[str]:
    """What the numbers assume."""
    backbone, lengths, plan, found = cell.backbone, cell.lengths, cell.plan, []
    limit = positions(backbone.model.config)
    needed = cell.context + lengths.input + lengths.choice
    if limit and needed > limit:
        found.append(
            f"{needed:,} tokens are more than the {limit:,} positions of {backbone.name}: this is the bill of the "
            "same model with more positions (the paper's lengths have that property, too)"
        )
    if plan.shared or plan.content_free:
        found.append("what is read once is read once for every template; this is the bill of one")
    if plan.content_free:
        found.append("calibration is read once where all prompts have the same choices, else for every prompt")
    if cell.development and cell.steps:
        found.append("training to the end, its development rows read as often as the recipe says; it may end earlier")
    return found


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
        measured=_up(
            paper.break_even(
                tuned.adapt.measured - prompted.adapt.measured, prompted.predict.measured, tuned.predict.measured
            )
        ),
        paper=_up(
            paper.break_even(tuned.adapt.paper - prompted.adapt.paper, prompted.predict.paper, tuned.predict.paper)
        ),
        cached=_up(cached),
        has_cache=prompted.once is not None,
        same_cost_paper=tuned.adapt.paper / prompted.predict.paper,
    )


def _up(value: float | None) -> int | None:
    return None if value is None else math.ceil(value)
