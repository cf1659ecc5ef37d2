"""The bill of cells before any of them runs: `python -m experiments.run experiment=table1_t0_3b +dry_run=true`.

Configuration, data and prompts have been checked by then, as before every run. Here each cell is priced on the meta
device from its own prompts: lengths by the model's tokenizer where it is at hand, else by four characters a token, and
the table says which. Nothing is loaded, trained or written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from adaptbench.config import Config
from adaptbench.costs.flops import StepPrices, total
from adaptbench.costs.meta import MetaRun
from adaptbench.data.batching import Shape
from adaptbench.data.templates import NotApplicable, Prompt
from adaptbench.methods.contexts import ReadingPlan
from adaptbench.models.backbone import meta_backbone, resolve_path
from adaptbench.runner import Cell, prepare_cell
from adaptbench.training.stream import DRAWN

CHARACTERS_PER_TOKEN = 4  # of English text under a sub-word vocabulary of some 32,000 tokens
ROUND = 16  # lengths are rounded up to multiples, so that few shapes have to be priced


@dataclass(frozen=True)
class Estimate:
    """What a cell would cost: all of its runs together."""

    method: str
    model: str
    dataset: str
    runs: int
    adapt: float  # FLOPs
    predict: float  # FLOPs
    hours: float
    tokens: str  # "counted" by the model's tokenizer or "estimated"
    missing: str | None = None  # what the method needs from disk and does not find


def estimate(config: Config) -> Estimate:
    """Price a cell: the FLOPs that all its seeds would spend, and the hours at `gpu_tflops` sustained."""
    cell = prepare_cell(config)
    counter, how = _counter(config.model.path)
    limit = config.model.max_length or 512
    prices = _prices(repr(config.method), _Wish(config))
    scored = 1 if config.method.kind == "zero_shot" else len(config.seeds)  # nothing of it depends on the seed
    once, predict = _prediction(cell, counter, limit, prices)
    adapt = (_training(cell, counter, limit, prices) + once) * len(config.seeds)
    predict *= scored
    hours = (adapt + predict) / (config.gpu_tflops * 1e12) / 3600
    names = config.method.name, config.model.name, config.dataset.name
    return Estimate(*names, len(config.seeds), adapt, predict, hours, how, config.method.missing())


def report(estimates: Sequence[Estimate], tflops: float) -> str:
    """The table of a sweep with its sum."""
    lines = [
        f"{'method':18s} {'model':12s} {'dataset':36s} {'runs':>5s} {'adapt':>9s} {'predict':>9s} {'GPU-hours':>10s}"
    ]
    for one in estimates:
        lines.append(
            f"{one.method:18s} {one.model:12s} {one.dataset:36s} {one.runs:5d} {one.adapt:9.2e} {one.predict:9.2e} "
            f"{one.hours:10.3f}"
        )
    hours, runs = sum(one.hours for one in estimates), sum(one.runs for one in estimates)
    lines.append(f"{len(estimates)} cells, {runs} runs: {hours:.1f} GPU-hours at {tflops:g} teraFLOP/s sustained.")
    if any(one.tokens == "estimated" for one in estimates):
        lines.append(
            f"Lengths are estimated at {CHARACTERS_PER_TOKEN} characters a token: the tokenizer is not at hand."
        )
    lines += [f"To get first: {one}" for one in dict.fromkeys(one.missing for one in estimates) if one]
    return "\n".join(lines)


def _training(cell: Cell, counter: Any, limit: int, prices: StepPrices) -> int:
    """FLOPs of one run's steps: batches as wide as the widest of a batch usually is."""
    steps, size = getattr(cell.config.method, "steps", 0), cell.config.recipe.batch_size
    if not steps:
        return 0
    shapes = [_shape([prompt], counter, limit) for prompt in _few_shot_prompts(cell)]
    rng = np.random.default_rng(0)
    drawn = [[shapes[index] for index in rng.integers(len(shapes), size=size)] for _ in range(64)]
    mean = np.mean([prices.train(_padded(batch)) for batch in drawn])
    return round(steps * float(mean))


def _prediction(cell: Cell, counter: Any, limit: int, prices: StepPrices) -> tuple[int, int]:
    """FLOPs that one run reads in advance, and those of all its predictions."""
    plan = cell.config.method.plan(len(cell.few_shot_sets[0].examples))
    rows = [_shape([prompt], counter, limit) for prompt in cell.prompts]
    context = _context(cell, plan, counter, limit - max(row.source for row in rows))
    if plan.channel:  # every choice is read by itself, and the prompt scored after it
        rows = [Shape(1, row.target, 1, row.source) for row in rows for _ in range(row.choices)]

    def price(row: Shape) -> int:
        if plan.shared:
            return plan.contexts * prices.predict_after(row, context)
        return plan.contexts * prices.predict(replace(row, source=context + row.source))

    predict = total(price, rows)
    once = plan.contexts * prices.read_once(context) if plan.shared and context else 0
    return once + round(plan.content_free * predict / len(rows)), predict


def _context(cell: Cell, plan: ReadingPlan, counter: Any, room: int) -> int:
    """Tokens of demonstrations that stand before a prompt in one pass, as far as there is room for them."""
    if not plan.demonstrations:
        return 0
    shapes = [_shape([prompt], counter, room) for prompt in _few_shot_prompts(cell)]
    per_shot = float(np.mean([shape.source + shape.target for shape in shapes]))
    return max(0, min(round(per_shot * plan.demonstrations), room, plan.budget or room))


def _few_shot_prompts(cell: Cell) -> list[Prompt]:
    templates = cell.task.templates if cell.config.template in DRAWN else [cell.task.template(cell.config.template)]
    found = []
    for example in cell.few_shot_sets[0].examples:
        for template in templates:
            try:
                found.append(template.render(example.uid, example.fields))
            except NotApplicable:
                continue
    return found


def _shape(prompts: Sequence[Prompt], counter: Any, limit: int) -> Shape:
    return Shape(
        rows=len(prompts),
        source=min(limit, max(_up(counter(prompt.input)) for prompt in prompts)),
        choices=max(len(prompt.choices) for prompt in prompts),
        target=max(counter(choice) for prompt in prompts for choice in prompt.choices),
    )


def _padded(batch: Sequence[Shape]) -> Shape:
    return Shape(
        len(batch),
        max(one.source for one in batch),
        max(one.choices for one in batch),
        max(one.target for one in batch),
    )


def _up(tokens: int) -> int:
    return -(-tokens // ROUND) * ROUND


@lru_cache(maxsize=4)
def _counter(path: str) -> tuple[Any, str]:
    """A function from text to its number of tokens, and whether it counts or estimates. Never goes to the network."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve_path(path), local_files_only=True)
    except (OSError, ValueError):
        return lambda text: max(2, round(len(text) / CHARACTERS_PER_TOKEN) + 1), "estimated"
    return lambda text: len(tokenizer(text)["input_ids"]), "counted"


class _Wish:
    """What prices depend on, hashable by model and method only, so that cells share them."""

    def __init__(self, config: Config):
        self.config = config

    def __hash__(self) -> int:
        return hash((self.config.model.name, self.config.model.dtype, repr(self.config.recipe.losses)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Wish) and hash(self) == hash(other)


@lru_cache(maxsize=64)
def _prices(_method: str, wish: _Wish) -> StepPrices:
    config, model = wish.config, wish.config.model
    backbone = meta_backbone(model.name, model.path, model.dtype, model.shape)
    return StepPrices(MetaRun.of(config.method, backbone, config.recipe))
