"""The cost cells of the paper's Table 1 and its text: by the paper's arithmetic, and counted.

Arithmetic needs a size N and a number of tokens, and the paper leaves open what each printed cell takes: N may be the
size in the model's name or, as Kaplan et al. define it, the parameters outside the embeddings; an ICL cell may or may
not include the query's own tokens. `formula` is the text's formula taken literally, `readings` are all that it allows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from adaptbench.costs import paper
from adaptbench.costs.lengths import Lengths
from adaptbench.costs.memory import kv_cache_bytes
from adaptbench.costs.quote import PlannedCell, Spent, spent
from adaptbench.costs.storage import stored_bytes
from adaptbench.methods.base import Method
from adaptbench.models.backbone import Backbone
from adaptbench.schema import RecipeConfig

NOMINAL = {"t0_11b": 11e9, "t5_lm_xxl": 11e9, "gpt3_6_7b": 6.7e9, "gpt3_13b": 13e9, "gpt3_175b": 175e9}
STEPS, BATCH = 1000, 8
SHOWN = paper.SHOTS * paper.DEMONSTRATION_TOKENS  # tokens of demonstrations
ALL = SHOWN + paper.PROMPT_TOKENS
CACHE_TOKENS = 32 * 512


@dataclass(frozen=True)
class Row:
    """One printed number, recomputed and counted."""

    key: str
    formula: float
    readings: dict[str, float]
    counted: float
    why: str  # what separates the count from the printed number


@dataclass(frozen=True)
class Sources:
    """What is counted: backbones on the meta device by name, and methods by kind."""

    backbones: Mapping[str, Backbone]
    methods: Mapping[str, Method]
    recipe: RecipeConfig

    def cell(self, method: str, model: str, shots: int = paper.SHOTS) -> PlannedCell:
        return PlannedCell(self.methods[method], self.backbones[model], self.recipe, Lengths(), shots)

    def sizes(self, model: str) -> dict[str, float]:
        """The two readings of N."""
        backbone = self.backbones[model]
        return {"as named": NOMINAL[model], "without embeddings": float(outside_embeddings(backbone))}


def outside_embeddings(backbone: Backbone) -> int:
    """Parameters outside every embedding table and the output head (Kaplan et al. 2020)."""
    model = backbone.model
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    left_out = {id(p): p.numel() for module in (*tables, model.get_output_embeddings()) for p in module.parameters()}
    return backbone.parameters_total - sum(left_out.values())


def rows(sources: Sources) -> tuple[list[Row], list[Spent]]:
    """Every cost cell, and the FLOPs of the cells that the break-even chart draws."""
    tuned, zero = spent(sources.cell("ia3", "t0_11b")), spent(sources.cell("zero_shot", "t0_11b"))
    prompted = {name: spent(sources.cell("icl", name)) for name in ("gpt3_6_7b", "gpt3_13b", "gpt3_175b")}
    largest, one_shot = prompted["gpt3_175b"], spent(sources.cell("icl", "t5_lm_xxl", shots=1))
    assert largest.after is not None
    found: list[Row] = []

    def add(key: str, formula: float, readings: dict[str, float], counted: float, why: str) -> None:
        found.append(Row(key, formula, readings, counted, why))

    def by_size(model: str, flops: Callable[[float], float]) -> dict[str, float]:
        return {f"N {name}": flops(size) for name, size in sources.sizes(model).items()}

    def one_prompt(size: float) -> float:
        return paper.predict(size, True, paper.PROMPT_TOKENS)

    def training(size: float) -> float:
        return paper.adapt(size, True, STEPS * BATCH * paper.PROMPT_TOKENS)

    def ensemble(size: float) -> float:
        return paper.predict(size, True, ALL)

    t0, xxl = NOMINAL["t0_11b"], NOMINAL["t5_lm_xxl"]
    for key, cell in (("t_few.inference", tuned), ("zero_shot.inference", zero)):
        add(key, one_prompt(t0), by_size("t0_11b", one_prompt), cell.predict.measured, HALVES)
    add("t_few.training", training(t0), by_size("t0_11b", training), tuned.adapt.measured, FROZEN)
    vectors, ids = paper.storage(tuned.trainable), paper.storage(SHOWN)
    add("t_few.disk", vectors, {"32-bit floats": vectors}, _stored(sources.cell("ia3", "t0_11b")), VECTORS)
    add("icl.disk", ids, {"32-bit token ids": ids}, _stored(sources.cell("icl", "gpt3_175b")), IDS)
    counted = paper.SHOTS * one_shot.predict.measured
    add("t5_lm_xxl.inference", ensemble(xxl), by_size("t5_lm_xxl", ensemble), counted, ENSEMBLE)
    for name, cell in prompted.items():
        formula = paper.predict(NOMINAL[name], False, ALL)
        add(f"{name}.inference", formula, _icl_readings(sources, name), cell.predict.measured, ATTENTION)
    decoder = sources.backbones["gpt3_175b"]
    cache = paper.kv_cache(96, 12_288, CACHE_TOKENS) / 2**30
    held = kv_cache_bytes(decoder.anatomy, CACHE_TOKENS, decoder.dtype) / 2**30
    add("kv_cache", cache, {"32-bit floats, GB of 2^30 bytes": cache}, held, HALF_PRECISION)
    saved = {"(41 x 98 + 103) / 103": paper.saved_by_caching(), "41 x 98 / 98": float(paper.SHOTS)}
    counted = largest.predict.measured / largest.after.measured
    add("saved_by_caching", paper.saved_by_caching(), saved, counted, CACHING)
    readings = {
        f"training {size}; ICL {name}": cost / icl
        for size, cost in by_size("t0_11b", training).items()
        for name, icl in _icl_readings(sources, "gpt3_175b").items()
    }
    same = training(t0) / paper.predict(NOMINAL["gpt3_175b"], False, ALL)
    met = paper.break_even(tuned.adapt.measured, largest.predict.measured, tuned.predict.measured)
    add("break_even", same, readings, met or 0.0, BREAK_EVEN)
    return found, [tuned, zero, largest]


def _stored(cell: PlannedCell) -> int:
    return stored_bytes(cell.method, cell.run.adaptation, cell.stored)


def _icl_readings(sources: Sources, model: str) -> dict[str, float]:
    lengths = {"demonstrations and query": ALL, "demonstrations alone": SHOWN}
    return {
        f"N {size}, {name}": paper.predict(n, False, tokens)
        for size, n in sources.sizes(model).items()
        for name, tokens in lengths.items()
    }


HALVES = (
    "Every linear map is counted on the tokens that visit it: the input in the encoder and in the decoder's "
    "cross-attention keys and values, the choices in the decoder; with attention and the output head, and without "
    "embedding look-ups, this happens to come close to N per token."
)
FROZEN = (
    "A frozen base needs no gradients of its weights, so a step costs about two forward passes, not three; full "
    "fine-tuning would indeed cost three."
)
VECTORS = (
    "1,081,344 numbers of four bytes are 4.33 MB (4.13 MiB; the printed number lies between); the file adds names, "
    "shapes and settings."
)
IDS = "41 x 98 token ids of 32 bits are 16.1 kB; the file adds its header and settings."
ENSEMBLE = (
    "Ensemble ICL scores the query once after each of 41 examples, so it reads 41 x (98 + 103) tokens; the formula "
    "counts the query once."
)
ATTENTION = (
    "The formula leaves out attention over 4,121 tokens and the output head; the count takes N from the real shape and "
    "does not read a choice's last token, which predicts nothing."
)
HALF_PRECISION = "The printed size is that of 32-bit values in binary gigabytes; kept in bfloat16 it is half."
CACHING = (
    "The choices' last tokens are not read and the query still attends to all held keys, which caching does not save."
)
BREAK_EVEN = (
    "Training costs a third less than the formula says and GPT-3's prediction more; what the tuned model's own "
    "predictions cost is set against them."
)
