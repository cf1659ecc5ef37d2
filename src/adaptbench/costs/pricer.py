"""What a method's steps on a model cost, by their shapes: the one place that prices a finished run (`ledger`), a cell
before it runs (`quote`) and a whole sweep (`estimate`).

A transformer's step costs a quadratic polynomial in its two lengths (source tokens S; choice tokens U, all
choices side by side): linear maps are linear in them, attention is bilinear. Six counts fix the polynomial
exactly, and then every batch of a run is priced by its own shape without counting again. A deep model is counted by
two shallow ones (`depth`).
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from functools import cached_property, lru_cache, partial
from typing import TypeVar

import numpy as np

from adaptbench.costs import paper
from adaptbench.costs.cached import CachedFlops, cached_flops, cached_memory
from adaptbench.costs.decode import decode_flops, decode_memory
from adaptbench.costs.depth import on_line, shallow
from adaptbench.costs.flops import count
from adaptbench.costs.memory import Memory, predict_memory, train_memory
from adaptbench.costs.meta import MetaRun, no_gradients_left
from adaptbench.data.batching import Shape
from adaptbench.errors import InputError
from adaptbench.models.backbone import Backbone

K = TypeVar("K", bound=Hashable)
SQUARED_SOURCE = 3  # position of S * S among `_powers`


class Pricer:
    """Prices of prediction and training steps of one method on one model, for one run alone."""

    def __init__(self, run: MetaRun, exact: bool = False):
        """
        Args:
            exact: count every shape by itself, for a few shapes far from small ones; else by the polynomial.
        """
        self._run = run
        self._by_itself = exact
        self._coefficients = lru_cache(maxsize=None)(self._fit)
        self._counted = lru_cache(maxsize=None)(self._count)
        self._cached = lru_cache(maxsize=None)(self._count_cached)
        self.train_memory: Callable[[Shape], Memory] = lru_cache(maxsize=None)(partial(train_memory, run))
        self._decoded = lru_cache(maxsize=None)(self._count_decoded)
        self._predict_memory = lru_cache(maxsize=None)(partial(predict_memory, run))
        self._cached_memory = lru_cache(maxsize=None)(partial(cached_memory, run))

    @property
    def backbone(self) -> Backbone:
        """The model as the method prepares it."""
        return self._run.adaptation.backbone

    @cached_property
    def merged(self) -> "Pricer | None":
        """The same with what was learned folded into the weights, where the method can."""
        run = self._run.merged()
        return None if run is None else Pricer(run, self._by_itself)

    def predict(self, shape: Shape) -> int:
        """FLOPs of answering a batch of this shape; where answers are decoded, of `shape.target` tokens each."""
        if self._run.task.beams is not None:
            return self._decoded(shape, 0)
        return self._price("predict", shape)

    def train(self, shape: Shape) -> int:
        """FLOPs of forward and backward of a training batch. (The optimizer runs no matrix product.)"""
        return self._price("train", shape)

    def read_once(self, context: int) -> int:
        """FLOPs of reading `context` tokens of demonstrations whose keys and values are kept (decoder-only)."""
        if self._by_itself:
            return self._cached(Shape(1, 1, 1, 1), context).once
        return self._price("predict", Shape(1, context, 0, 1))

    def predict_after(self, shape: Shape, context: int) -> int:
        """FLOPs of answering a batch of this shape, demonstrations not among its tokens, after they were read once.

        Every own token attends to all held ones: the polynomial's price of attention is that of one token for one.
        """
        if self._run.task.beams is not None:
            return self._decoded(shape, context)
        if self._by_itself and context:
            return self._cached(shape, context).predict
        attention = self._coefficients("predict", shape.rows)[SQUARED_SOURCE] if context else 0
        own = shape.source + self._choice_tokens(shape)
        return self.predict(shape) + round(attention * context * own)

    def predict_memory(self, shape: Shape, already_read: int = 0) -> Memory:
        """The peak of answering a batch, with the keys and values of so many tokens held."""
        if (beams := self._run.task.beams) is not None:
            return decode_memory(self._run, shape, shape.target, beams, already_read)
        return self._cached_memory(shape, already_read) if already_read else self._predict_memory(shape)

    def by_paper(self, formula: Callable[[float, bool, float], float], tokens: float) -> float:
        """FLOPs by one of the paper's formulas (`paper.adapt`, `paper.predict`) for so many tokens."""
        source = self._run.source
        return formula(source.parameters_total, source.is_encoder_decoder, tokens)

    def adapt_by_paper(self, tokens: float) -> float:
        return self.by_paper(paper.adapt, tokens)

    def predict_by_paper(self, tokens: float) -> float:
        return self.by_paper(paper.predict, tokens)

    def _price(self, kind: str, shape: Shape) -> int:
        if self._by_itself or not self._run.task.has_polynomial(self.backbone):
            return self._counted(kind, shape)
        powers = _powers(shape.source, self._choice_tokens(shape))
        return round(np.dot(self._coefficients(kind, shape.rows), powers))  # counts are whole numbers

    def _choice_tokens(self, shape: Shape) -> int:
        backbone = self.backbone
        read = shape.target if backbone.is_encoder_decoder else shape.target - 1
        return shape.choices * (read + backbone.virtual_tokens_of_choice)

    def _fit(self, kind: str, rows: int) -> np.ndarray:
        virtual = self.backbone.virtual_tokens  # an input without room for them is none
        shapes = [Shape(rows, virtual + source, *rest) for source, *rest in self._run.task.probes]
        counts = np.array([self._counted(kind, shape) for shape in shapes], dtype=float)
        system = np.array([_powers(shape.source, self._choice_tokens(shape)) for shape in shapes], dtype=float)
        used = system.any(axis=0)  # a task without choices has no terms in U
        found = np.zeros(system.shape[1])
        found[used] = np.linalg.solve(system[:, used], counts)
        return found

    @cached_property
    def _shallow(self) -> tuple[MetaRun, MetaRun] | None:
        """The same run on the model with one and with two layers, where the whole follows from them."""
        run, pair = self._run, shallow(self._run.source)
        if pair is None or run.method is None:
            return None
        try:
            one_layer, two_layers = (MetaRun.of(run.method, backbone, run.recipe, run.task) for backbone in pair)
        except InputError:  # what fits the whole model may be too large for a shallow one (SAID's dimensions)
            return None
        trained = on_line(one_layer.adaptation.trainable, two_layers.adaptation.trainable, run.source)
        return (one_layer, two_layers) if trained == run.adaptation.trainable else None

    def _whole(self, count_on: Callable[[MetaRun], int]) -> int:
        """What `count_on` gives for this run, from the two shallow ones where that is exact."""
        if self._shallow is None:
            return count_on(self._run)
        one_layer, two_layers = map(count_on, self._shallow)
        return on_line(one_layer, two_layers, self._run.source)

    def _count(self, kind: str, shape: Shape) -> int:
        def flops(run: MetaRun) -> int:
            step = run.predict if kind == "predict" else run.forward_backward
            with no_gradients_left(run):
                return count(lambda: step(shape))

        return self._whole(flops)

    def _count_decoded(self, shape: Shape, already_read: int) -> int:
        beams = self._run.task.beams or 1
        return self._whole(lambda run: decode_flops(run, shape, shape.target, beams=beams, already_read=already_read))

    def _count_cached(self, shape: Shape, context: int) -> CachedFlops:
        return CachedFlops(
            self._whole(lambda run: cached_flops(run, shape, context).once),
            self._whole(lambda run: cached_flops(run, shape, context).predict),
        )


def _powers(source: int, target: int) -> list[float]:
    return [1, source, target, source**2, source * target, target**2]


def total(price: Callable[[K], int], shapes: Iterable[K]) -> int:
    """Sum of the prices of many steps; equal shapes are priced once."""
    return sum(price(shape) * steps for shape, steps in Counter(shapes).items())
