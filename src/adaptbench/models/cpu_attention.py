"""Attention on CPUs, where the library's way is slow (docs/log.md).

- The gradient of PyTorch's scaled dot-product attention takes five times as long in bfloat16 as the four matrix
  products that it consists of, on CPUs that multiply bfloat16 matrices several times faster than float32 ones.
- Many short rows after the same long context: its kernel is quicker for all their queries at once. So the context is
  one part, the rows' own tokens another, and the two are weighed by their sums of exponentials.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from adaptbench.models.precision import wide

LARGEST = 2**28  # bytes of scores, which the kernel does not store

# Mask -> the same as a summand of the scores, for the layers of a pass, which all get the same mask.
_summands = WeakTensorKeyDictionary()


def applies(query: Tensor, scores: int) -> bool:
    """Whether the products below are the faster way: gradients in half precision on a CPU, scores of moderate size.

    Args:
        scores: how many a head computes, over all rows of the pass.
    """
    moderate = scores * query.shape[1] * query.dtype.itemsize <= LARGEST
    return query.device.type == "cpu" and query.dtype.itemsize == 2 and torch.is_grad_enabled() and moderate


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, dropout: float = 0.0
) -> Tensor:
    """softmax(scaling * Q K^T + mask) V, as (N, T, H, head width).

    Args:
        query: (N, H, T, head width).
        key: (N, G, S, head width), of which each serves H / G heads.
        value: (N, G, S, head width).
        mask: (1 or N, 1 or H, T, S), True where a query sees a key, or added to the scores.
        scaling: null: one over the square root of the head width.
        dropout: share of the weights that are dropped.
    """
    rows, heads, length, width = query.shape
    groups, seen = key.shape[1], key.shape[2]
    scaling = width**-0.5 if scaling is None else scaling
    flat = query.reshape(rows * groups, -1, width)  # the heads of a group, one after the other
    keys, values = key.reshape(rows * groups, seen, width), value.reshape(rows * groups, seen, value.shape[-1])
    if mask is None:
        scores = torch.bmm(flat, keys.transpose(1, 2)) * scaling
    else:
        scores = torch.baddbmm(_summand(mask, query, groups), flat, keys.transpose(1, 2), alpha=scaling)
    weights = scores.softmax(-1)  # the CPU's accumulates in single precision
    output = torch.bmm(torch.nn.functional.dropout(weights, dropout) if dropout else weights, values)
    return output.view(rows, heads, length, -1).transpose(1, 2).contiguous()


def kernel(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """PyTorch's own kernel, with what its public function keeps to itself: the logarithm of the sum of exponentials.

    Args:
        query: (N, H, T, head width).
        key: (N, G, S, head width), of which each serves H / G heads.
        value: (N, G, S, head width).
        mask: (1 or N, 1 or H, T, S), added to the scores.
        scaling: null: one over the square root of the head width.

    Returns:
        (N, T, H, head width) outputs, (N, T, H) logarithms.
    """
    repeats = query.shape[1] // key.shape[1]
    keys, values = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    own: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output, logarithm = own(query, keys, values, is_causal=causal, attn_mask=mask, scale=scaling)
    return output.transpose(1, 2), logarithm.transpose(1, 2)


def weighed(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Attention over two sets of keys, from that over each: outputs (..., head width), logarithms (...)."""
    one, other = wide(first[0]), wide(second[0])
    share = (first[1] - second[1]).sigmoid()[..., None].to(one.dtype)
    return torch.lerp(other, one, share).to(first[0].dtype)


def _summand(mask: Tensor, query: Tensor, groups: int) -> Tensor:
    """(N * G, H / G * T, S) zeros where a key is seen; half the lowest number where not, as scores are added to it.

    In float16 the lowest number itself overflows with a score of -16, and a query that sees no key is not a number.
    """
    rows, heads, length, _ = query.shape
    shape, lowest = (rows * groups, heads // groups * length, mask.shape[-1]), torch.finfo(query.dtype).min / 2
    kept = _summands.get(mask)
    if kept is not None and kept.shape == shape and kept.dtype == query.dtype:
        return kept
    if mask.dtype == torch.bool:
        summand = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, lowest)
    else:
        summand = mask.to(query.dtype).clamp(min=lowest)  # no view, which would keep the mask for ever
    summand = summand.expand(rows, heads, length, -1).reshape(shape)
    if not summand.requires_grad:
        _summands[mask] = summand
    return summand
