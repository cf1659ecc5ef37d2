"""FLOPs by PyTorch's dispatcher-level counter: what really runs, forward and backward, two per multiply-add.

Counted: every matrix product, attention's included. Not counted, by the counter's convention: element-wise
operations, softmax, norms and embedding look-ups (the output head is a matrix product and is counted). A causal
mask does not halve attention. A step is counted on the meta device, where attention is plain matrix products, so
nothing depends on which kernels a machine has; on a CPU its fused attention kernel is counted, too. Its backward
computes the scores once more, as every fused one does: five products where the plain one needs four.

A transformer's step costs a quadratic polynomial in its two lengths (source tokens S; choice tokens U, all
choices side by side): linear maps are linear in them, attention is bilinear. Six counts fix the polynomial
exactly, and then every batch of a run is priced by its own shape without counting again.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from adaptbench.costs.meta import MetaRun, no_gradients_left
from adaptbench.data.batching import Shape
from adaptbench.models.backbone import Backbone

K = TypeVar("K", bound=Hashable)

# (source, choices, target): six shapes whose (S, U) determine a quadratic in two variables.
PROBES = ((4, 2, 2), (8, 2, 2), (16, 2, 2), (4, 3, 4), (8, 3, 4), (4, 4, 7))

SQUARED_SOURCE = 3  # position of S * S among `_powers`


Size = Sequence[int]


def _attention(query: Size, key: Size, value: Size, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    grad: Size, query: Size, key: Size, value: Size, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


# The CPU's fused attention, which PyTorch's counter passes over in silence (still so in 2.13).
_CPU_KERNELS = {
    kernel: formula
    for kernel, formula in (
        (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, _attention),
        (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward, _attention_backward),
    )
    if kernel not in flop_registry
}


def count(step: Callable[[], object]) -> int:
    """FLOPs of everything `step` runs."""
    with FlopCounterMode(display=False, custom_mapping=_CPU_KERNELS) as counter:
        step()
    return counter.get_total_flops()


class StepPrices:
    """The price in FLOPs of prediction and training steps of one method on one model, for one run alone."""

    def __init__(self, run: MetaRun):
        self._run = run
        self._coefficients = lru_cache(maxsize=None)(self._fit)
        self._exact = lru_cache(maxsize=None)(self._count)

    @property
    def backbone(self) -> Backbone:
        """The model as the method prepares it."""
        return self._run.adaptation.backbone

    def predict(self, shape: Shape) -> int:
        """Scoring all choices of a batch of this shape."""
        return self._price("predict", shape)

    def train(self, shape: Shape) -> int:
        """Forward and backward of a training batch of this shape. (The optimizer runs no matrix product.)"""
        return self._price("train", shape)

    def read_once(self, context: int) -> int:
        """Reading `context` tokens of demonstrations whose keys and values are kept (decoder-only)."""
        return self._price("predict", Shape(1, context, 0, 1))

    def predict_after(self, shape: Shape, context: int) -> int:
        """Scoring a batch of this shape, demonstrations not among its tokens, after they were read once.

        Every own token attends to all held ones: the polynomial's price of attention is that of one token for one.
        """
        attention = self._coefficients("predict", shape.rows)[SQUARED_SOURCE] if context else 0
        own = shape.source + self._choice_tokens(shape)
        return self.predict(shape) + round(attention * context * own)

    def _price(self, kind: str, shape: Shape) -> int:
        if not self.backbone.packs_choices:  # the prompt is read once per choice: another polynomial
            return self._exact(kind, shape)
        powers = _powers(shape.source, self._choice_tokens(shape))
        return round(np.dot(self._coefficients(kind, shape.rows), powers))  # counts are whole numbers

    def _choice_tokens(self, shape: Shape) -> int:
        backbone = self.backbone
        read = shape.target if backbone.is_encoder_decoder else shape.target - 1
        return shape.choices * (read + backbone.virtual_tokens_of_choice)

    def _count(self, kind: str, shape: Shape) -> int:
        step = self._run.predict if kind == "predict" else self._run.forward_backward
        with no_gradients_left(self._run):
            return count(lambda: step(shape))

    def _fit(self, kind: str, rows: int) -> np.ndarray:
        shapes = [Shape(rows, *probe) for probe in PROBES]
        counts = [self._count(kind, shape) for shape in shapes]
        system = [_powers(shape.source, self._choice_tokens(shape)) for shape in shapes]
        return np.linalg.solve(np.array(system), np.array(counts, dtype=float))


def _powers(source: int, target: int) -> list[float]:
    return [1, source, target, source**2, source * target, target**2]


def total(price: Callable[[K], int], shapes: Iterable[K]) -> int:
    """Sum of the prices of many steps; equal shapes are priced once."""
    return sum(price(shape) * steps for shape, steps in Counter(shapes).items())
