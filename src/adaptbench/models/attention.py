"""The attention function every backbone is loaded with: scaled dot-product, plus a key/value prefix where asked.

A prefix is looked up by attention module, so attaching one touches no model code, and a different prefix for
every run of a fused batch costs one concatenation.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

IMPLEMENTATION = "adaptbench"

# Attention module -> function of the batch's number of rows that gives its prefix (keys, values),
# each (N, H, P, head width). If it has a method `gate`, that gives (N, T, 1): how much of the prefix each query sees.
Prefix = Callable[[int], tuple[Tensor, Tensor]]
PREFIXES: "weakref.WeakKeyDictionary[nn.Module, Prefix]" = weakref.WeakKeyDictionary()

_recorded: dict[nn.Module, tuple[Tensor, Tensor]] | None = None


@contextmanager
def recorded_keys_and_values() -> Iterator[dict[nn.Module, tuple[Tensor, Tensor]]]:
    """Inside, the keys and values (N, H, S, head width) of every attention that runs are kept, by module."""
    global _recorded
    _recorded = {}
    try:
        yield _recorded
    finally:
        _recorded = None


def attention(
    module: nn.Module,
    query: Tensor,  # (N, H, T, head width)
    key: Tensor,  # (N, H, S, head width)
    value: Tensor,  # (N, H, S, head width)
    attention_mask: Tensor | None,
    position_bias: Tensor | None = None,  # (1 or N, H, T, S), T5's relative positions
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend over the prefix of this module, if any, and then over the keys.

    A prefix has no position: its columns are visible to every query and get no relative-position bias.
    """
    if _recorded is not None:
        _recorded[module] = (key.detach(), value.detach())
    prefix = PREFIXES.get(module)
    if prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, position_bias=position_bias, **kwargs)
    prefix_key, prefix_value = prefix(key.shape[0])
    if attention_mask is None and getattr(module, "is_causal", False) and query.shape[2] > 1:
        length = key.shape[2]
        attention_mask = torch.ones(query.shape[2], length, dtype=torch.bool, device=key.device)
        attention_mask = attention_mask.tril(length - query.shape[2])[None, None]
    tokens = prefix_key.shape[2]
    if attention_mask is not None:
        visible = True if attention_mask.dtype == torch.bool else 0.0
        attention_mask = nn.functional.pad(attention_mask, (tokens, 0), value=visible)
    if position_bias is not None:
        position_bias = nn.functional.pad(position_bias, (tokens, 0))
    kwargs = {**kwargs, "is_causal": False, "position_bias": position_bias}
    prefix_key, prefix_value = prefix_key.to(key.dtype), prefix_value.to(value.dtype)
    if hasattr(prefix, "gate"):
        gate = prefix.gate().to(query.dtype)
        return _gated(module, gate, (query, key, value), (prefix_key, prefix_value), attention_mask, kwargs)
    keys, values = torch.cat([prefix_key, key], dim=2), torch.cat([prefix_value, value], dim=2)
    return sdpa_attention_forward(module, query, keys, values, attention_mask, **kwargs)


def _gated(
    module: nn.Module,
    gate: Tensor,  # (N, T, 1)
    states: tuple[Tensor, Tensor, Tensor],
    prefix: tuple[Tensor, Tensor],
    attention_mask: Tensor | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, None]:
    """Attention in which query t sees the prefix's keys and values times gate t.

    A gate per query is no property of a key. So heads are laid out twice: real states in the first half, the prefix in
    the second, where queries carry the gate. Scores come out right, and the second half of the output is gated again.
    """
    query, key, value = states
    width = query.shape[-1]
    both = torch.cat([query, query * gate[:, None]], dim=-1)
    keys = torch.cat([_half(prefix[0], 1), _half(key, 0)], dim=2)
    values = torch.cat([_half(prefix[1], 1), _half(value, 0)], dim=2)
    kwargs = {**kwargs, "scaling": kwargs["scaling"] if kwargs.get("scaling") is not None else width**-0.5}
    output, weights = sdpa_attention_forward(module, both, keys, values, attention_mask, **kwargs)
    return output[..., :width] + output[..., width:] * gate[:, :, None], weights


def _half(states: Tensor, half: int) -> Tensor:
    """States (N, H, S, W) in one half of twice the width, zeros in the other."""
    width = states.shape[-1]
    return nn.functional.pad(states, (width, 0) if half else (0, width))


AttentionInterface.register(IMPLEMENTATION, attention)
AttentionMaskInterface.register(IMPLEMENTATION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
