"""One run's bill: what it cost to adapt, and what every prediction costs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from adaptbench.costs.memory import Memory, kv_cache_bytes
from adaptbench.costs.meta import MetaRun
from adaptbench.costs.pricer import Pricer, total
from adaptbench.data.batching import Shape
from adaptbench.methods.base import Adaptation, Method
from adaptbench.methods.contexts import Context
from adaptbench.models.backbone import Backbone
from adaptbench.schema import RecipeConfig
from adaptbench.scoring.evaluate import Reading
from adaptbench.tasks import TaskType


@dataclass(frozen=True)
class Bill:
    """FLOPs, bytes; `predict` is per example."""

    flops_adapt: int
    flops_adapt_paper: float
    flops_predict: float
    flops_predict_paper: float
    memory_adapt: Memory | None
    memory_predict: Memory
    kv_cache: int | None  # null where nobody knows where the model keeps keys and values
    flops_predict_merged: float | None = None  # with what was learned folded into the weights, where that is possible


_ledgers: dict[tuple[str, ...], "CostLedger"] = {}


def ledger_for(method: Method, backbone: Backbone, recipe: RecipeConfig, task: TaskType) -> "CostLedger":
    """The ledger of a method on a model: prices depend on shapes only, so cells share it across data sets."""
    model = f"{backbone.name} {backbone.dtype} {backbone.logits_limit} {backbone.model.config}"
    key = (repr(method), model, repr(recipe), repr(task))
    if key not in _ledgers:
        _ledgers[key] = CostLedger(method, backbone, recipe, task)
    return _ledgers[key]


class CostLedger:
    """Prices the runs of one method on one model, outside any timed region."""

    def __init__(self, method: Method, backbone: Backbone, recipe: RecipeConfig, task: TaskType | None = None):
        run = MetaRun.of(method, backbone, recipe, task)
        self._task, self._is_encoder_decoder = run.task, backbone.is_encoder_decoder
        self._prices = Pricer(run)

    def bill(
        self, adaptation: Adaptation, run: int, readings: Sequence[Reading], answers: Sequence[Any] | None = None
    ) -> Bill:
        """The bill of one run, as if it had run alone: by its own batches, padded to its own longest rows.

        FLOPs are those of batches and prompts read in one pass each, whatever `model.logits_limit` made of them: the
        same question has the same bill. Memory is that of the largest pass under this limit.

        A prediction pays for every reading of its prompt. What all predictions share (contexts whose keys and values
        are kept, content-free inputs) is read once: that is part of the cost to adapt.

        Args:
            answers: to the prompts, where their own length costs something.
        """
        prices, steps = self._prices, adaptation.log.shapes[run] if adaptation.log.shapes else []
        read = adaptation.log.predicted[run] if adaptation.log.predicted else []
        free = {
            (reading.context, reading.encoded.source, reading.encoded.choices): reading
            for reading in readings
            if reading.content_free
        }
        singles = [self._sizes(reading, answers) for reading in readings if not reading.content_free]
        calibration = [self._sizes(reading) for reading in free.values()]
        contexts = {reading.context: reading.context_tokens for reading in readings if reading.shared}
        predictions = len({reading.prompt for reading in readings})
        return Bill(
            flops_adapt=total(prices.train, steps)
            + total(prices.predict, read)
            + sum(map(prices.read_once, contexts.values()))
            + total(self._after, calibration),
            flops_adapt_paper=prices.adapt_by_paper(sum(map(_tokens, steps)))
            + prices.predict_by_paper(
                sum(map(_tokens, read)) + sum(contexts.values()) + sum(_tokens(shape) for shape, _ in calibration)
            ),
            flops_predict=total(self._after, singles) / predictions,
            flops_predict_paper=prices.predict_by_paper(sum(_tokens(shape) for shape, _ in singles) / predictions),
            memory_adapt=_with_best(prices.train_memory(_largest(steps)), adaptation) if steps else None,
            memory_predict=self._memory(singles),
            kv_cache=self._kv_cache(adaptation, _most_held(readings)),
            flops_predict_merged=(
                total(prices.merged.predict, [shape for shape, _ in singles]) / predictions if prices.merged else None
            ),
        )

    def _memory(self, singles: Sequence[tuple[Shape, int]]) -> Memory:
        """The peak of the longest prompt; with keys and values held where they have been read already."""
        largest = _largest([shape for shape, _ in singles])
        longest = max(already_read for _, already_read in singles)
        return self._prices.predict_memory(largest, longest)

    def _sizes(self, reading: Reading, answers: Sequence[Any] | None = None) -> tuple[Shape, int]:
        """What a reading reads, and how many tokens before it have been read already."""
        answer = answers[reading.prompt] if answers is not None else None
        shape = self._task.read_shape(reading.encoded, answer)
        return replace(shape, source=shape.source - reading.already_read), reading.already_read

    def _after(self, reading: tuple[Shape, int]) -> int:
        return self._prices.predict_after(*reading)

    def _kv_cache(self, adaptation: Adaptation, tokens: int) -> int | None:
        """What sharing the demonstrations' keys and values would keep; a bidirectional encoder cannot share them."""
        if not tokens or self._is_encoder_decoder:
            return 0
        if not adaptation.backbone.has_anatomy:
            return None
        return kv_cache_bytes(adaptation.backbone.anatomy, tokens, adaptation.backbone.dtype)


def _with_best(memory: Memory, adaptation: Adaptation) -> Memory:
    """A training that keeps its best state holds what it trains twice."""
    if not adaptation.log.best:
        return memory
    kept = (adaptation.log.trained_parameters or 0) * max(p.element_size() for p in adaptation.parameters)
    return replace(memory, optimizer=memory.optimizer + kept)


def _most_held(readings: Sequence[Reading]) -> int:
    """Tokens of all contexts of the prompt that has most."""
    contexts: dict[int, dict[Context, int]] = {}
    for reading in readings:
        contexts.setdefault(reading.prompt, {})[reading.context] = reading.context_tokens
    return max(sum(tokens.values()) for tokens in contexts.values())


def _tokens(shape: Shape) -> int:
    """Input plus all choices, as the paper counts them."""
    return shape.rows * (shape.source + shape.choices * shape.target)


def _largest(shapes: Sequence[Shape]) -> Shape:
    return Shape(
        rows=max(shape.rows for shape in shapes),
        source=max(shape.source for shape in shapes),
        choices=max(shape.choices for shape in shapes),
        target=max(shape.target for shape in shapes),
    )
