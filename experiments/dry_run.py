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

from adaptbench.costs.meta import MetaRun
from adaptbench.costs.pricer import Pricer, total
from adaptbench.data.batching import Shape
from adaptbench.data.prompts import DRAWN
from adaptbench.data.templates import NotApplicable, Prompt
from adaptbench.methods.contexts import ReadingPlan
from adaptbench.models.backbone import Backbone, meta_backbone, resolve_path
from adaptbench.models.checks import positions
from adaptbench.runner import Cell, prepare_cell
from adaptbench.schema import Config

CHARACTERS_PER_TOKEN = 4  # of English text under a sub-word vocabulary of some 32,000 tokens
ROUND = 16


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
    prices = _prices(repr(config.method), _Wish(config))
    config.method.check_model(prices.backbone)
    limit = _limit(config, prices.backbone)
    scored = 1 if config.method.kind == "zero_shot" else len(config.seeds)  # nothing of it depends on the seed
    once, predict = _prediction(cell, counter, limit, prices)
    adapt = (_training(cell, counter, limit, prices) + once) * len(config.seeds)
    predict *= scored
    hours = (adapt + predict) / (config.gpu_tflops * 1e12) / 3600
    names = config.method.name, config.model.name, config.dataset.name
    return Estimate(*names, len(config.seeds), adapt, predict, hours, how, config.method.missing_files())


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


def _training(cell: Cell, counter: Any, limit: int, prices: Pricer) -> int:
    """FLOPs of one run's steps: batches as wide as the widest of a batch usually is."""
    steps, size = getattr(cell.config.method, "steps", 0), cell.config.recipe.batch_size
    if not steps:
        return 0
    shapes = [_shape(prompt, counter, limit, prices.backbone) for prompt in _few_shot_prompts(cell)]
    rng = np.random.default_rng(0)
    drawn = [[shapes[index] for index in rng.integers(len(shapes), size=size)] for _ in range(64)]
    mean = np.mean([prices.train(_padded(batch)) for batch in drawn])
    search = np.mean([prices.train(shape) for shape in shapes]) if cell.config.method.searches else 0
    return round(steps * float(mean) + len(cell.few_shot_sets[0].examples) * float(search))


def _prediction(cell: Cell, counter: Any, limit: int, prices: Pricer) -> tuple[int, int]:
    """FLOPs that one run reads in advance, and those of all its predictions."""
    plan = cell.config.method.plan(len(cell.few_shot_sets[0].examples))
    rows = [_shape(prompt, counter, limit, prices.backbone) for prompt in cell.prompts]
    room = limit - max(row.source + row.target for row in rows)
    if cell.config.model.overlong == "truncate":
        room = max(room, limit // 2)
    contexts = {name: _context(cell, name, plan, counter, room) for name in {one.template for one in cell.prompts}}

    def price(read: tuple[Shape, int]) -> int:
        row, context = read
        if plan.shared:
            return plan.contexts * prices.predict_after(row, context)
        return plan.contexts * prices.predict(replace(row, source=min(limit, context + row.source)))

    reads = [
        (part, contexts[prompt.template])
        for prompt, row in zip(cell.prompts, rows, strict=True)
        for part in ([Shape(1, row.target, 1, row.source)] * row.choices if plan.channel else [row])
    ]
    predict = total(price, reads)
    once = sum(plan.contexts * prices.read_once(tokens) for tokens in contexts.values() if plan.shared and tokens)
    different = len({(prompt.template, prompt.choices) for prompt in cell.prompts})
    return once + round(plan.content_free * different * predict / len(cell.prompts)), predict


def _context(cell: Cell, template: str, plan: ReadingPlan, counter: Any, room: int) -> int:
    """Tokens of whole demonstrations that stand before a prompt in one pass, as many as there is room for."""
    if not plan.demonstrations:
        return 0
    separator = getattr(cell.config.method, "separator", "")
    shown = [
        f"{prompt.input}{prompt.delimiter}{prompt.target}{separator}"
        for prompt in _few_shot_prompts(cell)
        if prompt.template == template
    ]
    if not shown:
        return 0
    mean = counter("".join(shown), marks=False) / len(shown)
    return round(mean * min(plan.demonstrations, max(0, min(room, plan.budget or room)) // mean))


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


def _shape(prompt: Prompt, counter: Any, limit: int, backbone: Backbone) -> Shape:
    """The sizes of a prompt alone, virtual tokens included.

    Where choices cannot share a pass every shape is counted by itself: lengths are rounded up, so that they are few.
    """
    source = counter(prompt.input) + backbone.virtual_tokens
    if not backbone.packs_choices:
        source = -(-source // ROUND) * ROUND
    target = max(counter(choice, marks=backbone.is_encoder_decoder) for choice in prompt.choices)
    return Shape(1, min(limit, source), len(prompt.choices), target)


def _padded(batch: Sequence[Shape]) -> Shape:
    return Shape(
        len(batch),
        max(one.source for one in batch),
        max(one.choices for one in batch),
        max(one.target for one in batch),
    )


def _limit(config: Config, backbone: Backbone) -> int:
    """Most tokens of an input: as configured, the model's positions, or the T5 tokenizers' 512."""
    return config.model.max_length or positions(backbone.model.config) or 512


@lru_cache(maxsize=4)
def _counter(path: str) -> tuple[Any, str]:
    """A function from text to its number of tokens, and whether it counts or estimates. Never goes to the network.

    `marks=False` leaves out what a tokenizer puts around a text: none of it stands between demonstrations, nor before
    the answer of a decoder-only model.
    """
    from transformers import AutoTokenizer

    def guessed(text: str, marks: bool = True) -> int:
        return max(1, round(len(text) / CHARACTERS_PER_TOKEN)) + marks

    def counted(text: str, marks: bool = True) -> int:
        return max(1, len(tokenizer(text, add_special_tokens=marks, verbose=False)["input_ids"]))

    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve_path(path), local_files_only=True)
    except (OSError, ValueError):
        return guessed, "estimated"
    return counted, "counted"


class _Wish:
    """What prices depend on, hashable by model and method only, so that cells share them."""

    def __init__(self, config: Config):
        self.config = config

    def __hash__(self) -> int:
        model = self.config.model
        return hash((model.name, model.path, model.dtype, repr(model.shape), repr(self.config.recipe.losses)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Wish) and hash(self) == hash(other)


@lru_cache(maxsize=64)
def _prices(_method: str, wish: _Wish) -> Pricer:
    config, model = wish.config, wish.config.model
    backbone = meta_backbone(model.name, model.path, model.dtype, model.shape)
    return Pricer(MetaRun.of(config.method, backbone, config.recipe))
