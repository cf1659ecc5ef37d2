"""The bill of a cell before it runs: `python -m experiments.run experiment=table1_t0_3b +dry_run=true`.

Configuration, data and prompts have been checked by then, as before every run. Here each cell is priced on the meta
device from its own prompts: lengths by the model's tokenizer where it is at hand, else by four characters a token, and
the table says which. Nothing is loaded, trained or written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from adaptbench.cell import PreparedCell
from adaptbench.costs.meta import MetaRun
from adaptbench.costs.pricer import Pricer, total
from adaptbench.data.batching import Shape
from adaptbench.data.example import Example
from adaptbench.data.prompts import DRAWN
from adaptbench.data.templates import NotApplicable, Prompt
from adaptbench.methods.contexts import ReadingPlan
from adaptbench.models.backbone import Backbone
from adaptbench.models.checks import positions
from adaptbench.models.paths import resolve_path
from adaptbench.schema import Config
from adaptbench.tasks import TaskType
from adaptbench.tasks.base import CountTokens
from adaptbench.training.development import most_read

CHARACTERS_PER_TOKEN = 4  # of English text under a sub-word vocabulary of some 32,000 tokens
ROUND = 16
SAMPLE = 1000  # training or development rows whose lengths are looked at


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
    tflops: float = 100.0  # teraFLOP/s that the hours assume
    longest_answers: bool = False  # of a task that produces text: as long as they may be


def estimate(cell: PreparedCell) -> Estimate:
    """Price a cell: the FLOPs that all its seeds would spend, and the hours at `gpu_tflops` sustained."""
    config, task = cell.config, cell.task.type
    tokens, how = _tokenizer(config.model.path)
    prices = _prices(repr(config.method), _PriceKey(config, task))
    config.method.check_model(prices.backbone)
    limit = _limit(config, prices.backbone)
    scored = 1 if config.method.kind == "zero_shot" else len(config.seeds)  # nothing of it depends on the seed
    once, predict = _prediction(cell, tokens, limit, prices)
    once += _development(cell, tokens, limit, prices)
    adapt = (_training(cell, tokens, limit, prices) + once) * len(config.seeds)
    predict *= scored
    hours = (adapt + predict) / (config.gpu_tflops * 1e12) / 3600
    names = config.method.name, config.model.name, config.dataset.name
    missing, produces = config.method.missing_files(), task.beams is not None
    return Estimate(*names, len(config.seeds), adapt, predict, hours, how, missing, config.gpu_tflops, produces)


def report(estimates: Sequence[Estimate]) -> str:
    """The table of a sweep with its sum."""
    lines = [
        f"{'method':18s} {'model':12s} {'dataset':36s} {'runs':>5s} {'adapt':>9s} {'predict':>9s} {'GPU-hours':>10s}"
    ]
    for cell in estimates:
        lines.append(
            f"{cell.method:18s} {cell.model:12s} {cell.dataset:36s} {cell.runs:5d} "
            f"{cell.adapt:9.2e} {cell.predict:9.2e} {cell.hours:10.3f}"
        )
    hours, runs = sum(cell.hours for cell in estimates), sum(cell.runs for cell in estimates)
    speed = f"{estimates[0].tflops:g} teraFLOP/s sustained"
    lines.append(f"{len(estimates)} cells, {runs} runs: {hours:.1f} GPU-hours at {speed}.")
    if any(cell.tokens == "estimated" for cell in estimates):
        lines.append(
            f"Lengths are estimated at {CHARACTERS_PER_TOKEN} characters a token: the tokenizer is not at hand."
        )
    if any(cell.longest_answers for cell in estimates):
        lines.append("Produced answers are priced at the longest they may be (dataset.decoding.max_new_tokens).")
    lines += [f"To get first: {missing}" for missing in dict.fromkeys(cell.missing for cell in estimates) if missing]
    return "\n".join(lines)


def _training(cell: PreparedCell, tokens: CountTokens, limit: int, prices: Pricer) -> int:
    """FLOPs of one run's steps: batches as wide as the widest of a batch usually is."""
    size, shots = cell.config.recipe.batch_size, len(cell.few_shot_sets[0].examples)
    steps = cell.config.method.training_steps(cell.config.recipe, shots)
    if not steps:
        return 0
    shown = _few_shot_prompts(cell)
    shapes = [_shape(cell, prompt, tokens, limit, prices.backbone, training=True) for prompt in shown]
    plan = cell.config.method.plan(shots)
    if plan.demonstrations:  # it trains on prompts that hold some
        room = limit - max(shape.source + shape.target for shape in shapes)
        before = _context(cell, cell.prompts[0].template, plan, tokens, room)
        shapes = [replace(shape, source=min(limit, before + shape.source)) for shape in shapes]
    rng = np.random.default_rng(0)
    drawn = [[shapes[index] for index in rng.integers(len(shapes), size=size)] for _ in range(64)]
    mean = np.mean([prices.train(_padded(batch)) for batch in drawn])
    search = np.mean([prices.train(shape) for shape in shapes]) if cell.config.method.searches else 0
    return round(steps * float(mean) + shots * float(search))


def _development(cell: PreparedCell, tokens: CountTokens, limit: int, prices: Pricer) -> int:
    """FLOPs of reading one run's development rows while it trains, if it does not end early."""
    few_shot, recipe = cell.few_shot_sets[0], cell.config.recipe
    rows, development = len(few_shot.examples), len(few_shot.development)
    read = most_read(cell.config.method.steps_on(recipe, rows), recipe, rows, development)
    if not read:
        return 0
    shown = _rendered(cell, few_shot.development[:SAMPLE])
    mean = np.mean([prices.predict(_shape(cell, prompt, tokens, limit, prices.backbone)) for prompt in shown])
    return round(read * float(mean))


def _prediction(cell: PreparedCell, tokens: CountTokens, limit: int, prices: Pricer) -> tuple[int, int]:
    """FLOPs that one run reads in advance, and those of all its predictions."""
    plan = cell.config.method.plan(len(cell.few_shot_sets[0].examples))
    rows = [_shape(cell, prompt, tokens, limit, prices.backbone) for prompt in cell.prompts]
    room = limit - max(row.source + row.target for row in rows)
    if cell.config.model.overlong == "truncate":
        room = max(room, limit // 2)
    contexts = {name: _context(cell, name, plan, tokens, room) for name in {prompt.template for prompt in cell.prompts}}

    def price(row_and_context: tuple[Shape, int]) -> int:
        row, context = row_and_context
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


def _context(cell: PreparedCell, template: str, plan: ReadingPlan, tokens: CountTokens, room: int) -> int:
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
    mean = tokens("".join(shown), marks=False) / len(shown)
    return round(mean * min(plan.demonstrations, max(0, min(room, plan.budget or room)) // mean))


def _few_shot_prompts(cell: PreparedCell) -> list[Prompt]:
    """The training rows of the first run in all their templates: the first of many."""
    return _rendered(cell, cell.few_shot_sets[0].examples[:SAMPLE])


def _rendered(cell: PreparedCell, examples: Sequence[Example]) -> list[Prompt]:
    templates = cell.task.templates if cell.config.template in DRAWN else [cell.task.template(cell.config.template)]
    found = []
    for example in examples:
        for template in templates:
            try:
                found.append(template.render(example.uid, example.fields))
            except NotApplicable:
                continue
    return found


def _shape(
    cell: PreparedCell, prompt: Prompt, tokens: CountTokens, limit: int, backbone: Backbone, training: bool = False
) -> Shape:
    """The sizes of a prompt alone, virtual tokens included.

    Where prices are no polynomial every shape is counted by itself: lengths are rounded up, so that they are few.
    """
    task = cell.task.type
    shape = task.estimated_shape(prompt, tokens, backbone, limit, training)
    if task.has_polynomial(backbone):
        return shape
    return replace(shape, source=min(limit, -(-shape.source // ROUND) * ROUND))


def _padded(batch: Sequence[Shape]) -> Shape:
    return Shape(
        len(batch),
        max(shape.source for shape in batch),
        max(shape.choices for shape in batch),
        max(shape.target for shape in batch),
    )


def _limit(config: Config, backbone: Backbone) -> int:
    """Most tokens of an input: as configured, the model's positions, or the T5 tokenizers' 512."""
    return config.model.max_length or min(backbone.max_length, positions(backbone.model.config) or 512)


@lru_cache(maxsize=4)
def _tokenizer(path: str) -> tuple[CountTokens, str]:
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


class _PriceKey:
    """What prices depend on beside the method, hashable, so that cells share them."""

    def __init__(self, config: Config, task: TaskType):
        self.config, self.task = config, task

    def __hash__(self) -> int:
        model = self.config.model
        losses = repr(self.config.recipe.losses)
        return hash((model.name, model.path, model.dtype, repr(model.shape), losses, repr(self.task)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _PriceKey) and hash(self) == hash(other)


@lru_cache(maxsize=64)
def _prices(_method: str, key: _PriceKey) -> Pricer:
    config, task = key.config, key.task
    return Pricer(MetaRun.of(config.method, task.without_weights(config.model), config.recipe, task))
