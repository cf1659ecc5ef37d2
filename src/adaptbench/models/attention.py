"""The attention function that backbones are loaded with: scaled dot-product, and what the library's masks cannot say.

- A key/value prefix, looked up by attention module, so that attaching one touches no model code, and a different prefix
  for every run of a fused batch costs one concatenation.
- Sliding windows under masks of our own. The library puts a window into the masks it makes itself and takes a given one
  as it is; a window reaches back from a token by so many *positions*, which in a row of several choices are not places.
- Packed rows: the rows of a batch laid end to end, one long row for every run, each attending to itself alone.
- Soft-capped scores (Gemma 2), which the library's scaled dot-product refuses; computed as its eager function does,
  which is the model's definition and its default there.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from adaptbench.models import cpu_attention
from adaptbench.models.packed_rows import Group, PackedRows
from adaptbench.models.windows import Windows

IMPLEMENTATION = "adaptbench"

# Attention module -> function of the batch's number of rows that gives its prefix (keys, values), each (N, H, P, head
# width). If it has a method `gate`, that gives (N, T, 1): how much of the prefix each query sees; if a method
# `factors`, that gives (N, T, k), the same at all tokens of a row: what each k-th of its P columns is multiplied by.
# If it is a `Held`, its P columns are the tokens at positions 0 to P - 1, and a window may hide them; else they are
# visible to all.
Prefix = Callable[[int], tuple[Tensor, Tensor]]
PREFIXES: "weakref.WeakKeyDictionary[nn.Module, Prefix]" = weakref.WeakKeyDictionary()

_recorded: dict[nn.Module, tuple[Tensor, Tensor]] | None = None
_windows: Windows | None = None
_packed: PackedRows | None = None


class Held:
    """Keys and values (1, H, P, head width) of tokens that all rows have read already."""

    def __init__(self, key: Tensor, value: Tensor):
        self.key, self.value = key, value

    def __call__(self, rows: int) -> tuple[Tensor, Tensor]:
        return self.key.expand(rows, -1, -1, -1), self.value.expand(rows, -1, -1, -1)


@contextmanager
def positions_known(positions: Tensor) -> Iterator[None]:
    """Inside, queries and keys of a pass without a cache are at these positions (N, T), and windows heed them.

    For passes under a mask of our own: what the library makes of a two-dimensional one has the window in it.
    """
    global _windows
    _windows = Windows(positions)
    try:
        yield
    finally:
        _windows = None


@contextmanager
def rows_packed(rows: PackedRows) -> Iterator[None]:
    """Inside, the long rows of a pass without a cache are made of these; the model's mask plays no part."""
    global _packed
    _packed = rows
    try:
        yield
    finally:
        _packed = None


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

    A trained prefix has no position: its columns are visible to every query and get no relative-position bias.
    """
    if _recorded is not None:
        _recorded[module] = (key.detach(), value.detach())
    window: Any = kwargs.get("sliding_window", getattr(module, "sliding_window", None))
    windows = _windows if window else None
    prefix = PREFIXES.get(module)
    if _packed is not None:
        if position_bias is not None:
            raise RuntimeError("rows with a position bias cannot be packed")
        return _in_groups(_packed, module, (query, key, value), prefix, window, kwargs), None
    if windows is not None and not isinstance(prefix, Held):
        attention_mask = _both(_causal(module, query, key, attention_mask), windows.visible(window, 0))
    if prefix is None:
        return _attend(module, query, key, value, attention_mask, position_bias=position_bias, **kwargs)
    before, gate, factors = _read(prefix, query, key)
    if factors is not None:
        before = _multiplied(before, factors[:, 0])
    attention_mask = _causal(module, query, key, attention_mask)
    tokens = before[0].shape[2]
    if attention_mask is not None:
        visible = True if attention_mask.dtype == torch.bool else 0.0
        attention_mask = nn.functional.pad(attention_mask, (tokens, 0), value=visible)
    if windows is not None and isinstance(prefix, Held):
        attention_mask = _both(attention_mask, windows.visible(window, tokens))
    if position_bias is not None:
        position_bias = nn.functional.pad(position_bias, (tokens, 0))
    kwargs = {**kwargs, "is_causal": False, "position_bias": position_bias}
    return _after_prefix(module, (query, key, value), before, gate, attention_mask, kwargs), None


def _in_groups(
    rows: PackedRows,
    module: nn.Module,
    states: tuple[Tensor, Tensor, Tensor],
    prefix: Prefix | None,
    window: int | None,
    kwargs: dict[str, Any],
) -> Tensor:
    """The same for packed rows, (R, H, T, head width), in groups of rows of similar length, whatever their run."""
    undisturbed = _plain(kwargs) and not kwargs.get("dropout") and not torch.is_grad_enabled()
    if isinstance(prefix, Held) and window is None and undisturbed:
        return _in_two_parts(rows, states, prefix, kwargs.get("scaling"))
    before, gate, factors = _read(prefix, *states[:2]) if prefix is not None else (None, None, None)
    columns, held = (before[0].shape[2] if before is not None else 0), isinstance(prefix, Held)
    tokens = [state.transpose(1, 2).flatten(0, 1) for state in states]  # (R * T, H, head width)
    plainly = prefix is None and window is None and not torch.is_grad_enabled()
    found = []
    for index, group in enumerate(rows.groups):
        causal = plainly and group.causal  # the kernel does half the work without a mask
        mask = None if causal else rows.visible(index, columns, window, held)
        query, key, value = (group.of(state).transpose(1, 2) for state in tokens)
        seen = None if before is None else (_of_runs(before[0], group), _of_runs(before[1], group))
        if seen is not None and factors is not None:
            seen = _multiplied(seen, group.of(factors.flatten(0, 1))[:, 0])
        share = None if gate is None else group.of(gate.flatten(0, 1))
        under = {**kwargs, "is_causal": causal}
        found.append(_after_prefix(module, (query, key, value), seen, share, mask, under))
    return rows.joined(found)


def _in_two_parts(rows: PackedRows, states: tuple[Tensor, Tensor, Tensor], held: Held, scaling: float | None) -> Tensor:
    """All queries over the tokens that every row has read before, each row's over its own, and both together."""
    query = states[0]
    keys, values = (each.to(query.dtype) for each in held(len(query)))
    before = cpu_attention.kernel(query, keys, values, None, scaling)
    tokens = [state.transpose(1, 2).flatten(0, 1) for state in states]
    own = []
    for index, group in enumerate(rows.groups):
        query, key, value = (group.of(state).transpose(1, 2) for state in tokens)
        mask = None if group.causal else rows.added(index, query.dtype)
        own.append(cpu_attention.kernel(query, key, value, mask, scaling, causal=group.causal))
    after = rows.joined([output for output, _ in own]), rows.joined([logarithm for _, logarithm in own])
    return cpu_attention.weighed(before, after)


def _plain(kwargs: dict[str, Any]) -> bool:
    """Whether scores are nothing but scaled products."""
    return kwargs.get("softcap") is None and kwargs.get("position_bias") is None


def _of_runs(states: Tensor, group: Group) -> Tensor:
    """(R, ...) -> (n, ...), for every row what its run has."""
    if len(states) == 1:
        return states.expand(len(group.rows), *states.shape[1:])
    return states.index_select(0, group.runs)


def _read(prefix: Prefix, query: Tensor, key: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor | None, Tensor | None]:
    """What a prefix says: keys and values (N, H, P, head width), their gate and their factors, if it has some."""
    keys, values = prefix(key.shape[0])
    gate = prefix.gate().to(query.dtype) if hasattr(prefix, "gate") else None
    factors = prefix.factors().to(key.dtype) if hasattr(prefix, "factors") else None
    return (keys.to(key.dtype), values.to(key.dtype)), gate, factors


def _multiplied(states: tuple[Tensor, Tensor], factors: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (N, H, P, head width) of every row times its factors (N, k)."""
    each = factors.repeat_interleave(states[0].shape[2] // factors.shape[1], dim=1)[:, None, :, None]
    return states[0] * each, states[1] * each


def _after_prefix(
    module: nn.Module,
    states: tuple[Tensor, Tensor, Tensor],
    before: tuple[Tensor, Tensor] | None,
    gate: Tensor | None,
    mask: Tensor | None,
    kwargs: dict[str, Any],
) -> Tensor:
    """Attention over a prefix and then over the keys, (N, T, H, head width), under a mask of both."""
    query, key, value = states
    if before is None:
        return _attend(module, query, key, value, mask, **kwargs)[0]
    if gate is not None:
        return _gated(module, gate, states, before, mask, kwargs)[0]
    keys, values = torch.cat([before[0], key], dim=2), torch.cat([before[1], value], dim=2)
    return _attend(module, query, keys, values, mask, **kwargs)[0]


def _both(mask: Tensor | None, visible: Tensor) -> Tensor:
    return visible if mask is None else mask & visible


def _causal(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor | None:
    """The mask, written out where the library leaves it to a flag."""
    if mask is not None or not getattr(module, "is_causal", False) or query.shape[2] == 1:
        return mask
    length = key.shape[2]
    causal = torch.ones(query.shape[2], length, dtype=torch.bool, device=key.device)
    return causal.tril(length - query.shape[2])[None, None]


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    scores = (
        query.shape[0] * query.shape[2] * key.shape[2]
        if _packed is None
        else _packed.scores(key.shape[2] - query.shape[2])
    )
    if _plain(kwargs) and cpu_attention.applies(query, scores):
        if kwargs.get("is_causal") is not False:
            attention_mask = _causal(module, query, key, attention_mask)
        scaling, dropout = kwargs.get("scaling"), kwargs.get("dropout") or 0.0
        return cpu_attention.attend(query, key, value, attention_mask, scaling, dropout), None
    if kwargs.get("softcap") is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if kwargs.get("is_causal") is not False:
        attention_mask = _causal(module, query, key, attention_mask)
    return _soft_capped(module, query, key, value, attention_mask, **kwargs)


def _soft_capped(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    softcap: float,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention whose scaled scores s are bounded first: softcap * tanh(s / softcap)."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scores = torch.tanh(query @ key.transpose(2, 3) * (scaling / softcap)) * softcap
    if mask is not None:
        hidden = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, hidden) if mask.dtype == torch.bool else scores + mask
    wide = torch.float32 if scores.dtype.itemsize < 4 else scores.dtype
    weights = scores.softmax(-1, dtype=wide).to(query.dtype)
    weights = nn.functional.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None


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
    output, weights = _attend(module, both, keys, values, attention_mask, **kwargs)
    return output[..., :width] + output[..., width:] * gate[:, :, None], weights


def _half(states: Tensor, half: int) -> Tensor:
    """States (N, H, S, W) in one half of twice the width, zeros in the other."""
    width = states.shape[-1]
    return nn.functional.pad(states, (width, 0) if half else (0, width))


def _mask(**arguments: Any) -> Tensor | None:
    """The library's mask for scaled dot-product. Without contents (on the meta device) padding cannot be looked for."""
    padding = arguments.get("attention_mask")
    if padding is not None and padding.is_meta:
        arguments["attention_mask"] = None
    return sdpa_mask(**arguments)


AttentionInterface.register(IMPLEMENTATION, attention)
AttentionMaskInterface.register(IMPLEMENTATION, _mask)
