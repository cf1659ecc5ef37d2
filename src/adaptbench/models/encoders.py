"""Bare models: what reads a text and has no head, under a head of a task's own (`models/heads.py`).

An encoder (BERT, RoBERTa), the encoder of a T5, or a decoder-only model without its language model head. Methods attach
to the same parts as under a language model head, by shorter paths.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PreTrainedModel
from transformers.utils import logging as hf_logging

from adaptbench.errors import InputError
from adaptbench.models.anatomy import ARCHITECTURES
from adaptbench.models.backbone import (
    NO_LIMIT,
    SMALL,
    Backbone,
    from_config,
    load_config,
    load_frozen,
    on_cpu,
    own_limit,
    pinned_to,
)
from adaptbench.models.checks import check_length, check_precision, positions
from adaptbench.models.disentangled import take_over
from adaptbench.models.identity import content_id
from adaptbench.models.packed_texts import PACKABLE, packed_states
from adaptbench.models.paths import resolve_path
from adaptbench.models.precision import wide
from adaptbench.models.tokens import tokens_at
from adaptbench.schema import ModelConfig

FIRST, MEAN, LAST = "first", "mean", "last"
POOLING = {
    "bert": FIRST,
    "roberta": FIRST,
    "deberta-v2": FIRST,
    "t5": MEAN,
    "mt5": MEAN,
    "umt5": MEAN,
}  # by model_type; decoders: last
COUNTED_FROM_PADDING = ("roberta",)  # positions begin after the padding token's id, so there are fewer of them


@dataclass(frozen=True, eq=False)
class Encoder(Backbone):
    """A base model without a head. `model(...)` returns hidden states and no logits."""

    packs_choices: bool = False

    @property
    def pooling(self) -> str:
        """Which of its states stand for a whole text: that of its first token, of its last, or the mean of all."""
        return pooling_of(self.model.config)

    @property
    def width(self) -> int:
        """D, of its hidden states."""
        config: Any = self.model.config
        return getattr(config, "word_embed_proj_dim", config.hidden_size)  # OPT 350M is wider inside

    @property
    def token_types(self) -> int:
        """Kinds of tokens it tells apart (the first text of a pair, the second); 0 where it does not."""
        size = getattr(self.model.config, "type_vocab_size", 0)
        return size if self.pooling == FIRST and size > 1 else 0

    def on_meta(self, config: Any = None) -> "Encoder":
        model = _without_storage(config or self.model.config, self.dtype)
        return replace(self, model=model, device=torch.device("meta"))


def pooling_of(config: Any, named: str = "this model") -> str:
    """Which states of a bare model stand for a whole text.

    Args:
        named: the model, for the message.

    Raises:
        InputError: a model without parts known here, or one half of an encoder-decoder that reads no text alone.
    """
    kind = config.model_type
    if kind in POOLING and not (POOLING[kind] == FIRST and getattr(config, "is_decoder", False)):
        return POOLING[kind]
    if kind in POOLING:
        raise InputError(
            f"{named}: is_decoder=true in config.json makes this {kind} read left to right; expected false"
        )
    if kind in ARCHITECTURES and not config.is_encoder_decoder:
        return LAST
    known = ", ".join(kind for kind in ARCHITECTURES if kind in POOLING)
    raise InputError(
        f"{named}: a model of type {kind!r} cannot be read without a language model head here; expected one of {known} "
        "or a decoder-only model (docs/methods.md lists them)"
    )


def load(model: ModelConfig, device: str = "auto") -> Encoder:
    """The bare model a configuration names, loaded once per process."""
    return load_encoder(
        model.name,
        model.path,
        model.dtype,
        model.max_length,
        device,
        overlong=model.overlong,
        device_map=model.device_map,
        quantization=model.quantization,
        content=content_id(resolve_path(model.path), model.revision),
    )


@lru_cache(maxsize=1)
def load_encoder(
    name: str,
    path: str,
    dtype: str = "float32",
    max_length: int | None = None,
    device: str = "auto",
    *,
    overlong: str = "refuse",
    device_map: str | None = None,
    quantization: str = "none",
    content: str | None = None,
) -> Encoder:
    """Load a model folder, a hub id, or `microworld:<name>` without its head, frozen and in evaluation mode.

    Args:
        content: which weights (`models/identity.py`): the commit of a hub id, else only a key of the cache.

    Raises:
        InputError: nothing loadable at `path`, an architecture that cannot be read without a head, a missing optional
            package, or settings under which what is computed would be wrong.
    """
    pinned = pinned_to(path, content)
    config = load_config(path, **pinned)
    named = f"model.path={path!r}"
    check_encoder(config, named, dtype, max_length)
    place: dict[str, Any] = {"device": device, "device_map": device_map, "quantization": quantization}
    model, tokenizer, target = load_frozen(
        _Complete(_auto(config)), path, config, dtype, pinned, **place, **_options(config)
    )
    model.config.is_encoder_decoder = False  # UMT5 leaves it true for its encoder
    take_over(model)
    limit = _positions(config, own_limit(config, tokenizer))
    if max_length and positions(config) and max_length > limit:
        raise InputError(f"model.max_length={max_length}: this {config.model_type} has {limit} positions")
    return Encoder(
        name,
        model,
        tokenizer,
        target,
        getattr(torch, dtype),
        max_length or limit,
        packs_rows=model.num_parameters() >= SMALL and on_cpu(model) and config.model_type in PACKABLE,
        overlong=overlong,
    )


def check_encoder(config: Any, named: str, dtype: str = "float32", max_length: int | None = None) -> None:
    """Refuse what is known from config.json alone not to work without a head.

    Raises:
        InputError: says why.
    """
    pooling_of(config, named)
    check_precision(config, dtype)
    check_length(config, max_length)


def meta_encoder(
    name: str,
    path: str,
    dtype: str = "float32",
    shape: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> Encoder:
    """A bare model without storage or tokenizer: from a published shape, else from the configuration at `path`."""
    config = AutoConfig.for_model(**shape) if shape else load_config(path, revision)
    check_encoder(config, f"model={name}", dtype)
    model = _without_storage(config, getattr(torch, dtype))
    limit = _positions(config, positions(config) or NO_LIMIT)
    return Encoder(name, model, None, torch.device("meta"), getattr(torch, dtype), limit)


def hidden_states(encoder: Encoder, source: Tensor, mask: Tensor, types: Tensor | None = None) -> Tensor:
    """(N, S, D) states of every position. What stands at padding means nothing.

    Rows may be padded on either side; inside they are padded on the right, where padding moves no position.

    Args:
        source: (N, S) token ids; -1 - k is virtual token k, if a method has some.
        mask: (N, S) True where a token is.
        types: (N, S) 1 in the second text of a pair, else 0.
    """
    if encoder.packs_rows and not source.is_meta:
        states, places = _packed_states(encoder, source, mask, types)
        return states[places]
    first = _first(mask)
    states = _right_padded_states(encoder, source, mask, types, first)
    places = torch.arange(source.shape[1], device=source.device)
    return _rows_from(states, (places - first) % source.shape[1])


def pooled(encoder: Encoder, source: Tensor, mask: Tensor, types: Tensor | None = None) -> Tensor:
    """(N, D) the state that stands for each text: of its first token, its last, or the mean over its tokens.

    Virtual tokens before a text are none of its own, and padding is none at all. Arguments as in `hidden_states`.
    """
    first = _first(mask)
    if encoder.packs_rows and not source.is_meta:
        states, places = _packed_states(encoder, source, mask, types)
        return states[places.gather(1, first + encoder.virtual_tokens)[:, 0]]
    states = _right_padded_states(encoder, source, mask, types, first)
    tokens = mask.sum(1, keepdim=True)  # (N, 1)
    if encoder.pooling == FIRST:
        return states[:, encoder.virtual_tokens]
    if encoder.pooling == LAST:
        return _rows_from(states, tokens - 1)[:, 0]
    places = torch.arange(source.shape[1], device=source.device)
    own = (places < tokens) & (places >= encoder.virtual_tokens)
    mean = (wide(states) * own[..., None]).sum(1) / (tokens - encoder.virtual_tokens)
    return mean.to(states.dtype)


def _packed_states(encoder: Encoder, source: Tensor, mask: Tensor, types: Tensor | None) -> tuple[Tensor, Tensor]:
    config: Any = encoder.model.config
    first = config.pad_token_id + 1 if config.model_type in COUNTED_FROM_PADDING else 0
    return packed_states(encoder.model, source, mask, types if encoder.token_types else None, first)


def _first(mask: Tensor) -> Tensor:  # (N, S) -> (N, 1)
    """Where each row's first token is."""
    return mask.long().argmax(1, keepdim=True)


def _right_padded_states(encoder: Encoder, source: Tensor, mask: Tensor, types: Tensor | None, first: Tensor) -> Tensor:
    """(N, S, D) states of rows that begin in the first column, whatever side they were padded on."""
    places = (torch.arange(source.shape[1], device=source.device) + first) % source.shape[1]
    inputs: dict[str, Any] = {"input_ids": source.gather(1, places), "attention_mask": mask.gather(1, places).long()}
    if encoder.token_types and types is not None:
        inputs["token_type_ids"] = types.gather(1, places)
    if encoder.pooling == LAST:
        inputs["use_cache"] = False
    model: Any = encoder.model
    with tokens_at(inputs["attention_mask"].bool()):
        return model(**inputs).last_hidden_state


def _rows_from(states: Tensor, places: Tensor) -> Tensor:
    """(N, S, D), (N, T) -> (N, T, D)."""
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))


def _auto(config: Any) -> Any:
    """The class of transformers that makes it: a T5 without its decoder, any other as it is."""
    return AutoModelForTextEncoding if POOLING.get(config.model_type) == MEAN else AutoModel


class _Complete:
    """Loads as a class of transformers does, but takes no file in which some of the weights are not.

    Weights of the head that is left out are expected there, so the library's report on them is not shown.
    """

    def __init__(self, auto: Any):
        self._auto = auto

    def from_pretrained(self, source: str, **options: Any) -> PreTrainedModel:
        verbosity = hf_logging.get_verbosity()
        hf_logging.set_verbosity_error()
        try:
            model, found = self._auto.from_pretrained(source, output_loading_info=True, **options)
        finally:
            hf_logging.set_verbosity(verbosity)
        if absent := sorted(found["missing_keys"]):
            raise ValueError(f"its files have no weights for {', '.join(absent[:3])}")
        return model


def _options(config: Any) -> dict[str, Any]:
    """BERT's pooler is a head of its own, and a new head brings another."""
    return {"add_pooling_layer": False} if config.model_type in ("bert", "roberta") else {}


def _without_storage(config: Any, dtype: torch.dtype) -> PreTrainedModel:
    config = copy.deepcopy(config)
    model = from_config(config, dtype, _auto(config), **_options(config))
    model.config.is_encoder_decoder = False
    take_over(model)
    return model


def _positions(config: Any, limit: int) -> int:
    """How many tokens a text may have."""
    return limit - config.pad_token_id - 1 if config.model_type in COUNTED_FROM_PADDING else limit
