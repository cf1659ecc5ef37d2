"""Decoding: answers as new tokens, by greedy or beam search with a cache, in batches, under any adaptation.

The search is transformers' `generate`. What differs from a plain call is what it would get wrong here:

- An encoder's states are computed inside a pass of the whole model, so that what is attached around it is in place.
- Prompt tuning's virtual tokens stand before the decoder's start token; demonstrations read once fill the cache.
- An encoder-decoder's sources are padded on the right, where padding moves no position.
- The search is the one asked for: of the model's own generation settings only those that name tokens are kept.
- A model of PEFT with tokens of its own in every pass has no cache that fits; it reads all again for every token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from adaptbench.data.batching import Batch
from adaptbench.data.tokenization import Ids
from adaptbench.errors import InputError
from adaptbench.models.attention import PREFIXES, Held
from adaptbench.models.backbone import Backbone
from adaptbench.scoring.rank import logits_at, plain_mask, to_the_left

# Generation settings of a model that say what its tokens are for; the others say how to search, or how to sample.
TOKENS = (
    "bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
)


@dataclass(frozen=True)
class Decoding:
    """How answers are searched for."""

    beams: int = 1  # 1: greedy
    max_new_tokens: int = 64  # a forced first token and the end of sequence are among them
    length_penalty: float = 1.0  # beams only: log-probabilities are divided by (number of tokens) ** this
    forced_first: int | None = None  # the first token of every answer (multilingual models: its language)


@torch.inference_mode()
def decode(backbone: Backbone, batch: Batch, settings: Decoding) -> list[Ids]:
    """The answer to every row, as its new tokens: no start, no forced first token, no end of sequence, no padding.

    Args:
        backbone: of an adaptation that is attached.
        batch: N = R * B rows; their targets are not looked at.

    Raises:
        InputError: the answers could become longer than the model has positions for.
    """
    _check_room(backbone, batch, settings)
    if not _reads_padding(backbone, batch):
        return _by_length(backbone, batch, settings)
    return _decode(backbone, batch, settings)


def _decode(backbone: Backbone, batch: Batch, settings: Decoding) -> list[Ids]:
    base: Any = backbone.model
    base = base.get_base_model() if hasattr(base, "peft_config") else base
    if not caches(backbone):
        model, inputs = _WholePasses(backbone, batch, settings.beams), _whole_inputs(backbone, batch)
    elif backbone.is_encoder_decoder:
        model, inputs = base, _encoder_decoder_inputs(backbone, base, batch)
    else:
        model, inputs = base, _decoder_only_inputs(backbone, batch, settings.beams)
    read = inputs["decoder_input_ids" if backbone.is_encoder_decoder and model is base else "input_ids"]
    search = _search(backbone, base.generation_config, settings, start=int(read[0, 0]))
    search.use_cache = model is base
    first = settings.forced_first if settings.forced_first is not None else base.generation_config.forced_bos_token_id
    forced = [] if first is None else [_ForcedFirst(read.shape[1], first)]
    with _settings_of(model, search), _held_in_cache_only(backbone):
        ids = model.generate(**inputs, generation_config=search, logits_processor=LogitsProcessorList(forced))
    new = ids[:, read.shape[1] + len(forced) :].tolist()
    return [_until(row, search.eos_token_id or ()) for row in new]


def caches(backbone: Backbone) -> bool:
    """Keys and values of earlier tokens serve later ones: not in PEFT's models that add something in every pass."""
    model: Any = backbone.model
    if not hasattr(model, "peft_config"):
        return True
    return not (model.active_peft_config.is_prompt_learning or model._forward_pre_hooks)


def end_ids(backbone: Backbone) -> list[int]:
    """Tokens that end an answer: the model's, and the one its tokenizer puts at the end of a target."""
    own = getattr(backbone.model, "generation_config", None)
    own = own.eos_token_id if own is not None else None
    listed = list(own) if isinstance(own, list | tuple) else [own]
    found = dict.fromkeys([*listed, getattr(backbone.tokenizer, "eos_token_id", None)])
    return [index for index in found if index is not None]


def decoder_start(backbone: Backbone, rows: int, device: torch.device) -> Tensor:
    """(rows, P + 1) what a decoder reads before an answer: virtual tokens and the start token."""
    virtual = backbone.virtual_tokens_of_choice
    ids = [*range(-1, -1 - virtual, -1), backbone.model.config.decoder_start_token_id]
    return torch.tensor(ids, device=device).expand(rows, -1)


def _search(backbone: Backbone, own: Any, settings: Decoding, start: int) -> GenerationConfig:
    """The settings of the search; `start` is what the library compares the decoder's first token with."""
    kept = {name: value for name in TOKENS if (value := getattr(own, name, None)) is not None}
    beams = {"num_beams": settings.beams, "length_penalty": settings.length_penalty} if settings.beams > 1 else {}
    return GenerationConfig(
        **kept,
        **beams,
        do_sample=False,
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=end_ids(backbone) or None,
        pad_token_id=backbone.pad_id,
        decoder_start_token_id=start,
    )


def _until(row: list[int], ends: Any) -> Ids:
    length = next((place for place, token in enumerate(row) if token in ends), len(row))
    return tuple(row[:length])


class _ForcedFirst(LogitsProcessor):
    """After `length` tokens comes this one, at no cost to a beam."""

    def __init__(self, length: int, token: int):
        self.length, self.token = length, token

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # (N, T), (N, V) -> (N, V)
        if input_ids.shape[1] != self.length:
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.token] = 0
        return forced


@contextmanager
def _settings_of(model: Any, search: GenerationConfig) -> Iterator[None]:
    """Inside, these are the model's own settings, too: `generate` fills in from those what it is not told."""
    before = model.generation_config
    model.generation_config = search
    try:
        yield
    finally:
        model.generation_config = before


def _decoder_only_inputs(backbone: Backbone, batch: Batch, beams: int) -> dict[str, Any]:
    read = batch.source_mask.new_ones(len(batch.source), batch.already_read)
    inputs = {"input_ids": batch.source, "attention_mask": torch.cat([read, batch.source_mask], dim=1).long()}
    if batch.already_read:
        inputs["past_key_values"] = _filled_cache(backbone, len(batch.source) * beams)
    return inputs


def _filled_cache(backbone: Backbone, rows: int) -> DynamicCache:
    """A cache that holds, for every row, the keys and values shared by all (`scoring/shared_context.py`)."""
    cache = _empty_cache(backbone)
    for layer, site in enumerate(backbone.anatomy.attentions):
        cache.update(*PREFIXES[backbone.model.get_submodule(site.path)](rows), layer)
    return cache


def _empty_cache(backbone: Backbone) -> DynamicCache:
    return DynamicCache(config=backbone.model.config.get_text_config(decoder=True))


def _whole_inputs(backbone: Backbone, batch: Batch) -> dict[str, Any]:
    if backbone.is_encoder_decoder:
        return {"input_ids": decoder_start(backbone, len(batch.source), batch.source.device)}
    return {"input_ids": batch.source, "attention_mask": batch.source_mask.long()}


@contextmanager
def _held_in_cache_only(backbone: Backbone) -> Iterator[None]:
    """Inside, shared keys and values do not stand before an attention's own as well."""
    modules = set(backbone.model.modules())
    held = {module: prefix for module, prefix in PREFIXES.items() if isinstance(prefix, Held) and module in modules}
    for module in held:
        del PREFIXES[module]
    try:
        yield
    finally:
        PREFIXES.update(held)


def _encoder_decoder_inputs(backbone: Backbone, model: Any, batch: Batch) -> dict[str, Any]:
    source, seen = _padded_on_the_right(batch)
    start = decoder_start(backbone, len(source), source.device)
    states = _encoder_states(model, source, plain_mask(seen, backbone), start)
    return {"encoder_outputs": states, "attention_mask": seen.long(), "decoder_input_ids": start}


class _EncoderDone(Exception):
    def __init__(self, states: Tensor):
        self.states = states


def _encoder_states(model: Any, source: Tensor, seen: Tensor | None, start: Tensor) -> BaseModelOutput:
    """What the encoder makes of the source inside a pass of the whole model, which ends there.

    Left to itself, `generate` calls the encoder alone: past what is attached around the model (embeddings of virtual
    tokens, work done once per pass).
    """

    def stop(_module: Any, _inputs: Any, output: Any) -> None:
        raise _EncoderDone(output[0])

    handle = model.get_encoder().register_forward_hook(stop)
    try:
        model(input_ids=source, attention_mask=seen, decoder_input_ids=start, use_cache=False)
    except _EncoderDone as done:
        return BaseModelOutput(last_hidden_state=done.states)
    finally:
        handle.remove()
    raise RuntimeError("a pass of an encoder-decoder without its encoder")


def _padded_on_the_right(batch: Batch) -> tuple[Tensor, Tensor]:
    """(N, S) ids and where a token is."""
    tokens = batch.source_mask.sum(1)
    places = torch.arange(batch.source.shape[1], device=batch.source.device)
    return to_the_left(batch.source, tokens), places < tokens[:, None]


class _WholePasses(PreTrainedModel, GenerationMixin):
    """A model without a cache, as `generate` wants one: every pass reads the prompt and the answer so far."""

    config_class = PreTrainedConfig

    def __init__(self, backbone: Backbone, batch: Batch, beams: int):
        super().__init__(PreTrainedConfig())
        self.model = backbone.model
        self.backbone = backbone
        self.batch = replace(
            batch,
            source=batch.source.repeat_interleave(beams, 0),
            source_mask=batch.source_mask.repeat_interleave(beams, 0),
        )

    def forward(self, input_ids: Tensor, **_: Any) -> CausalLMOutput:  # (N * beams, T) -> logits (N * beams, 1, V)
        backbone, batch = self.backbone, self.batch
        if backbone.is_encoder_decoder:
            source, seen = _padded_on_the_right(batch)
            mask = plain_mask(seen, backbone)
            read = backbone.model(input_ids=source, attention_mask=mask, decoder_input_ids=input_ids, use_cache=False)
            return CausalLMOutput(logits=read.logits[:, -1:])
        new = batch.source_mask.new_ones(len(input_ids), input_ids.shape[1] - batch.source.shape[1])
        whole = replace(batch, source=input_ids, source_mask=torch.cat([batch.source_mask, new], dim=1))
        ids, seen = _padded_on_the_right(whole)
        last = seen.sum(1, keepdim=True) - 1
        return CausalLMOutput(logits=logits_at(backbone, ids, plain_mask(seen, backbone), last))


def _reads_padding(backbone: Backbone, batch: Batch) -> bool:
    """Rows of unequal length may share a pass: not on the left of a decoder that nobody has tried so, nor between
    demonstrations read before and a prompt, where a window would count padding as tokens."""
    if backbone.is_encoder_decoder or not caches(backbone):
        return True
    windowed = any(layer.is_sliding for layer in _empty_cache(backbone).layers)
    return backbone.has_anatomy and not (batch.already_read and windowed)


def _by_length(backbone: Backbone, batch: Batch, settings: Decoding) -> list[Ids]:
    """Rows of one length at a time. (No delta is attached where this is needed, so run blocks need not stay whole.)"""
    lengths = batch.source_mask.sum(1)
    answers: dict[int, Ids] = {}
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero()[:, 0]
        source, mask = batch.source[rows, -length:], batch.source_mask[rows, -length:]
        found = _decode(backbone, replace(batch, source=source, source_mask=mask), settings)
        answers |= dict(zip(rows.tolist(), found, strict=True))
    return [answers[row] for row in range(len(lengths))]


def _check_room(backbone: Backbone, batch: Batch, settings: Decoding) -> None:
    """The last new token is never read."""
    config, new = backbone.model.config, settings.max_new_tokens
    if backbone.is_encoder_decoder:
        names = ("max_decoder_position_embeddings", "max_position_embeddings")
        limit = next((value for name in names if (value := getattr(config, name, None))), None)
        before = backbone.virtual_tokens_of_choice + 1
    else:
        limit, before = backbone.max_length, batch.already_read + batch.source.shape[1]
    if limit and before + new - 1 > limit:
        raise InputError(
            f"max_new_tokens={new}: with {before} tokens before them they do not fit the {limit} positions of "
            f"model={backbone.name}"
        )
