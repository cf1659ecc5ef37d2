"""Decoding: answers as new tokens, by greedy or beam search, in batches, under any adaptation.

The search is transformers' `generate`. Of the settings that a model brings for it, those that say what its tokens are
for hold here, too; how to search, or to sample, is said by `Decoding` alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from adaptbench.data.batching import Batch
from adaptbench.data.tokenization import Ids
from adaptbench.errors import InputError
from adaptbench.models.backbone import Backbone
from adaptbench.tasks.decoding_inputs import base_of, decoder_limit, held_in_cache_only, prepare, reads_padding

ABOUT_TOKENS = (
    "bos_token_id",
    "forced_eos_token_id",  # as the last token of an answer that reaches the limit
    "bad_words_ids",  # Marian: never the padding
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
    """The answer to each row: its new tokens without start, forced first token, end of sequence and padding.

    Args:
        backbone: of an adaptation that is attached.
        batch: N = R * B rows; their targets are not looked at.

    Raises:
        InputError: the answers could become longer than the model has positions for.
    """
    _check_length(backbone, batch, settings)
    if reads_padding(backbone, batch):
        return _decode(backbone, batch, settings)
    lengths = batch.source_mask.sum(1)
    answers: dict[int, Ids] = {}
    for length in lengths.unique().tolist():  # no delta attaches to such a model, so run blocks need not stay whole
        rows = (lengths == length).nonzero()[:, 0]
        source, mask = batch.source[rows, -length:], batch.source_mask[rows, -length:]
        found = _decode(backbone, replace(batch, source=source, source_mask=mask), settings)
        answers |= dict(zip(rows.tolist(), found, strict=True))
    return [answers[row] for row in range(len(lengths))]


def end_ids(backbone: Backbone) -> list[int]:
    """Tokens that end an answer: those of the model's settings, and what its tokenizer puts at the end of a text."""
    own = base_of(backbone).generation_config.eos_token_id
    listed = own if isinstance(own, list | tuple) else [own]
    found = dict.fromkeys([*listed, getattr(backbone.tokenizer, "eos_token_id", None)])
    return [index for index in found if index is not None]


def forced_token(backbone: Backbone, settings: Decoding) -> int | None:
    """The first token of every answer, which `decode` leaves out: the one asked for, else the model's own."""
    own = base_of(backbone).generation_config.forced_bos_token_id
    return own if settings.forced_first is None else settings.forced_first


def _decode(backbone: Backbone, batch: Batch, settings: Decoding) -> list[Ids]:
    ends, own = end_ids(backbone), base_of(backbone).generation_config
    model, inputs, read = prepare(backbone, batch, settings.beams)
    search = _search(backbone, own, settings, ends, start=int(read[0, 0]))
    search.use_cache = model is base_of(backbone)
    first = forced_token(backbone, settings)
    forced = [] if first is None else [_ForcedFirst(read.shape[1], first)]
    with _settings_of(model, search), held_in_cache_only(backbone):
        ids = model.generate(**inputs, generation_config=search, logits_processor=LogitsProcessorList(forced))
    return [_until(row, ends) for row in ids[:, read.shape[1] + len(forced) :].tolist()]


def _search(backbone: Backbone, defaults: Any, settings: Decoding, ends: list[int], start: int) -> GenerationConfig:
    """Settings of the search. `start` is the first token that the decoder reads, a virtual one or the start token: the
    library puts its own start before any other."""
    kept = {name: value for name in ABOUT_TOKENS if (value := getattr(defaults, name, None)) is not None}
    beams = {"num_beams": settings.beams, "length_penalty": settings.length_penalty} if settings.beams > 1 else {}
    return GenerationConfig(
        **kept,
        **beams,
        do_sample=False,
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=backbone.pad_id,
        decoder_start_token_id=start,
    )


@contextmanager
def _settings_of(model: Any, search: GenerationConfig) -> Iterator[None]:
    """Inside, these are the model's own settings: `generate` takes from those whatever it is not told."""
    before = model.generation_config
    model.generation_config = search
    try:
        yield
    finally:
        model.generation_config = before


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


def _until(row: list[int], ends: list[int]) -> Ids:
    """What comes before the first token that ends an answer; padding comes only after one."""
    length = next((place for place, token in enumerate(row) if token in ends), len(row))
    return tuple(row[:length])


def _check_length(backbone: Backbone, batch: Batch, settings: Decoding) -> None:
    if backbone.is_encoder_decoder:
        before, limit = backbone.virtual_tokens_of_choice + 1, decoder_limit(backbone)
    else:
        before, limit = batch.already_read + batch.source.shape[1], backbone.max_length
    if limit is not None and before + settings.max_new_tokens - 1 > limit:  # the last new token is not read
        raise InputError(
            f"max_new_tokens={settings.max_new_tokens}: so many after {before} tokens do not fit the {limit} positions "
            f"of model={backbone.name}"
        )
