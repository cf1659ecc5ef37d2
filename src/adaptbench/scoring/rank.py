"""Rank classification: the log-probability of every token of every choice, in one pass.

The choices of a prompt are laid side by side in one sequence, each seeing the prompt and itself but not its
neighbours, so the prompt (or, in an encoder-decoder, its cross-attention keys and values) is computed once and
not once per choice. The result equals scoring each choice alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from adaptbench.data.batching import Batch
from adaptbench.models.attention import IMPLEMENTATION, positions_known, rows_packed
from adaptbench.models.backbone import Backbone
from adaptbench.models.delta import runs_on
from adaptbench.models.packed_rows import LongRows, PackedRows, Row
from adaptbench.models.precision import wide


def token_log_probabilities(backbone: Backbone, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """(N, C, T) log p(y_t | x, y_<t) of each token of each choice; 0 where there is none.

    Args:
        smoothing: epsilon of label smoothing: (1 - epsilon) log p(y_t) + epsilon times the mean over all words w of
            log p(w) (Szegedy et al. 2016, section 7).
    """
    score = _encoder_decoder if backbone.is_encoder_decoder else _decoder_only
    if not backbone.packs_choices:
        score = _each_choice_alone
    elif backbone.packs_rows and not batch.source.is_meta:
        score = _rows_packed
    return score(backbone, batch, smoothing) * batch.target_mask


def _encoder_decoder(backbone: Backbone, batch: Batch, smoothing: float) -> Tensor:
    """Each choice starts with its own copies of the method's virtual tokens, if any; they predict nothing."""
    n, choices, length = batch.targets.shape
    virtual = backbone.virtual_tokens_of_choice
    logits = backbone.model(
        input_ids=batch.source,
        attention_mask=batch.source_mask[:, None, None],
        decoder_input_ids=_decoder_inputs(backbone, batch.targets).flatten(1),
        decoder_attention_mask=_apart(choices, virtual + length, batch.source.device)[None, None],
        use_cache=False,
    ).logits
    return _log_p(logits.view(n, choices, virtual + length, -1)[:, :, virtual:], batch.targets, smoothing)


def _decoder_inputs(backbone: Backbone, targets: Tensor) -> Tensor:
    """What a decoder reads of every choice (N, C, T): virtual tokens, the start, and all of it but its last token."""
    n, choices, _ = targets.shape
    virtual = -1 - torch.arange(backbone.virtual_tokens_of_choice, device=targets.device).expand(n, choices, -1)
    start = torch.full_like(targets[..., :1], backbone.model.config.decoder_start_token_id)
    return torch.cat([virtual, start, targets[..., :-1]], dim=2)


def _decoder_only(backbone: Backbone, batch: Batch, smoothing: float) -> Tensor:
    """The last token of a choice predicts nothing that is scored, so it is not even read."""
    n, choices, length = batch.targets.shape
    extra = choices * (length - 1)
    ids, positions = _read(batch)
    with positions_known(positions), contiguous_at_head(backbone):
        logits = backbone.model(
            input_ids=ids,
            attention_mask=_tree_mask(batch.source_mask, choices, length - 1),
            position_ids=positions,
            logits_to_keep=extra + 1,
            use_cache=False,
        ).logits
    first = _first(logits[:, 0], batch.targets[..., 0], smoothing)
    rest = _log_p(logits[:, 1:].reshape(n, choices, length - 1, logits.shape[-1]), batch.targets[..., 1:], smoothing)
    return torch.cat([first, rest], dim=2)


def _read(batch: Batch) -> tuple[Tensor, Tensor]:
    """(N, S + C * (T - 1)) ids that a decoder-only model reads, and their positions."""
    choices, length = batch.targets.shape[1:]
    positions = (batch.source_mask.cumsum(1) - 1).clamp(min=0) + batch.already_read
    after = positions[:, -1:] + 1 + torch.arange(length - 1, device=positions.device).repeat(choices)
    ids = torch.cat([batch.source, batch.targets[..., :-1].flatten(1)], dim=1)
    return ids, torch.cat([positions, after], dim=1)


def _rows_packed(backbone: Backbone, batch: Batch, smoothing: float) -> Tensor:
    """The rows of every run end to end in one long row, without padding but at its end."""
    n, width = batch.source.shape
    more = batch.target_mask[..., 1:]  # what is predicted by a token of the choice itself
    real = torch.cat([batch.source_mask, more.flatten(1)], dim=1)
    long = LongRows.of(real, runs_on(backbone.model))
    ids, positions = map(long.put, _read(batch))
    sizes = zip(long.starts.tolist(), batch.source_mask.sum(1).tolist(), more.sum(2).tolist(), strict=True)
    rows = [Row(start, start // long.length, prompt, tuple(own)) for start, prompt, own in sizes]
    scored = torch.cat([long.places[:, width - 1], long.places[:, width:][more.flatten(1)]])
    with rows_packed(PackedRows(rows, positions, batch.already_read)), _head_at(backbone, scored):
        logits = backbone.model(
            input_ids=ids,
            attention_mask=long.all_real,
            position_ids=positions,
            use_cache=False,
        ).logits[0]
    first = _first(logits[:n], batch.targets[..., 0], smoothing)
    rest = -cross_entropy(wide(logits[n:]), batch.targets[..., 1:][more], reduction="none", label_smoothing=smoothing)
    return torch.cat([first, first.new_zeros(more.shape).masked_scatter(more, rest)], dim=2)


@contextmanager
def _head_at(backbone: Backbone, places: Tensor) -> Iterator[None]:
    """Inside, logits (R, T, V) are computed, as (1, K, V), at K of the R * T places alone."""

    def pick(_head: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, 1).index_select(0, places)[None], *inputs[1:])

    handle = backbone.model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def contiguous_at_head(backbone: Backbone) -> Iterator[None]:
    """Inside, the head reads one matrix of all kept positions.

    States (N, P, D) that were cut out of longer rows are not contiguous, and a product with such copies the head's
    weight once for every row.
    """

    def gathered(_head: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].contiguous(), *inputs[1:])

    head = backbone.model.get_output_embeddings()
    handle = head.register_forward_pre_hook(gathered) if head is not None else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def _each_choice_alone(backbone: Backbone, batch: Batch, smoothing: float) -> Tensor:
    """Every choice in a row of its own under plain masks: for wrapped models with virtual tokens of their own, and for
    any architecture whose masks or positions cannot be given.

    Rows are padded on the right, so a token's position is its place in the row and no score depends on the batch.
    """
    n, choices, length = batch.targets.shape
    targets = batch.targets.flatten(0, 1)
    tokens = batch.source_mask.sum(1)  # (N,)
    source = to_the_left(batch.source, tokens).repeat_interleave(choices, 0)
    tokens = tokens.repeat_interleave(choices)[:, None]  # (N * C, 1)
    places = torch.arange(source.shape[1], device=source.device)
    if backbone.is_encoder_decoder:
        read = _decoder_inputs(backbone, batch.targets).flatten(0, 1)
        seen = plain_mask(places < tokens, backbone)
        logits = backbone.model(input_ids=source, attention_mask=seen, decoder_input_ids=read, use_cache=False).logits
        return _log_p(logits[:, -length:].unflatten(0, (n, choices)), batch.targets, smoothing)
    after = tokens + torch.arange(length - 1, device=source.device)  # (N * C, T - 1) places of the choice's tokens
    ids = torch.cat([source, torch.full_like(targets[:, :-1], backbone.pad_id)], dim=1).scatter(
        1, after, targets[:, :-1]
    )
    own = batch.target_mask.flatten(0, 1).sum(1, keepdim=True)
    seen = torch.arange(ids.shape[1], device=ids.device) < tokens + (own - 1).clamp(min=0)
    scored = tokens - 1 + torch.arange(length, device=ids.device)  # (N * C, T) the places before each target
    logits = logits_at(backbone, ids, plain_mask(seen, backbone), scored)
    return _log_p(logits[:, None], targets[:, None], smoothing)[:, 0].unflatten(0, (n, choices))


def logits_at(backbone: Backbone, ids: Tensor, seen: Tensor | None, places: Tensor) -> Tensor:
    """(M, W) ids -> (M, T, V) logits at (M, T) places; at no others, where the model's head can be left them out.

    `logits_to_keep`, the library's own wish, is the same places for all rows, too many where rows differ in length.
    """
    width = ids.shape[1]

    def pick(_head: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (_at(inputs[0], places, width), *inputs[1:])

    head = backbone.model.get_output_embeddings() if scores_targets_only(backbone) else None
    handle = head.register_forward_pre_hook(pick) if head is not None else None
    try:
        logits = backbone.model(input_ids=ids, attention_mask=seen, use_cache=False).logits
    finally:
        if handle is not None:
            handle.remove()
    return logits if logits.shape[1] == places.shape[1] else _at(logits, places, width)


def _at(states: Tensor, places: Tensor, width: int) -> Tensor:
    """(M, P + W, D), (M, T) -> (M, T, D). A PEFT wrapper's P virtual tokens stand before the first place."""
    places = (places + states.shape[1] - width).to(states.device)
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))


def to_the_left(source: Tensor, tokens: Tensor) -> Tensor:
    """(N, S) ids padded on the left -> the same padded on the right."""
    width = source.shape[1]
    places = torch.arange(width, device=source.device) + width - tokens[:, None]
    return source.gather(1, places % width)


def scores_targets_only(backbone: Backbone) -> bool:
    """Whether a model whose choices do not share a pass is built like all that can compute the logits of some positions
    alone: hidden states, of which some are kept, through the head."""
    model: Any = backbone.model
    model = model.get_base_model() if hasattr(model, "peft_config") else model
    return "logits_to_keep" in signature(model.forward).parameters


def plain_mask(seen: Tensor, backbone: Backbone) -> Tensor | None:
    """A two-dimensional mask; none for an encoder on the meta device, where the library would look into it.

    Our attention function does not; and a decoder takes one, since without one the library looks into positions.
    """
    looks = backbone.is_encoder_decoder and backbone.model.config._attn_implementation != IMPLEMENTATION
    return None if seen.is_meta and looks else seen.long()


def _apart(choices: int, length: int, device: torch.device) -> Tensor:
    """(C * T, C * T) True where a choice's token sees itself and the earlier ones of the same choice."""
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return torch.block_diag(*[causal] * choices) if length else causal


def _tree_mask(source_mask: Tensor, choices: int, length: int) -> Tensor:
    """(N, 1, L, L) with L = S + C * T: the prompt is causal, each choice sees all of it and itself."""
    n, width = source_mask.shape
    total = width + choices * length
    device = source_mask.device
    mask = torch.ones(total, total, dtype=torch.bool, device=device).tril()
    if length:
        mask[width:, width:] = _apart(choices, length, device)
    real = torch.cat([source_mask, source_mask.new_ones(n, total - width)], dim=1)
    itself = torch.eye(total, dtype=torch.bool, device=device)  # a padded row must see something
    return ((mask & real[:, None]) | itself)[:, None]


def _first(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Log-probability of every choice's first token, which one place predicts: (N, V), (N, C) -> (N, C, 1)."""
    log_p = wide(logits).log_softmax(-1)
    found = log_p.gather(1, targets)[..., None]
    return found if not smoothing else (1 - smoothing) * found + smoothing * log_p.mean(-1)[:, None, None]


def _log_p(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Log-probability of each target: (N, C, T, V), (N, C, T) -> (N, C, T)."""
    flat = cross_entropy(wide(logits).flatten(0, 2), targets.flatten(), reduction="none", label_smoothing=smoothing)
    return -flat.view(targets.shape)
