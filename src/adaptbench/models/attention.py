"""The attention function every backbone is loaded with: scaled dot-product, plus a key/value prefix where asked.

A prefix is looked up by attention module, so attaching one touches no model code, and a different prefix for
every run of a fused batch costs one concatenation.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

IMPLEMENTATION = "adaptbench"

# Attention module -> function of the batch's number of rows that gives its prefix (keys, values),
# each (N, H, P, head width).
Prefix = Callable[[int], tuple[Tensor, Tensor]]
PREFIXES: "weakref.WeakKeyDictionary[nn.Module, Prefix]" = weakref.WeakKeyDictionary()


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
    return sdpa_attention_forward(
        module,
        query,
        torch.cat([prefix_key.to(key.dtype), key], dim=2),
        torch.cat([prefix_value.to(value.dtype), value], dim=2),
        attention_mask,
        position_bias=position_bias,
        **{**kwargs, "is_causal": False},
    )


AttentionInterface.register(IMPLEMENTATION, attention)
AttentionMaskInterface.register(IMPLEMENTATION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
