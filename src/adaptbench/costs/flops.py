"""FLOPs by PyTorch's dispatcher-level counter: what really runs, forward and backward, two per multiply-add.

Counted: every matrix product, attention's included. Not counted, by the counter's convention: element-wise
operations, softmax, norms and embedding look-ups (the output head is a matrix product and is counted). A causal
mask does not halve attention. A step is counted on the meta device, where attention is plain matrix products, so
nothing depends on which kernels a machine has; on a CPU its fused attention kernel is counted, too. Its backward
computes the scores once more, as every fused one does: five products where the plain one needs four.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

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
