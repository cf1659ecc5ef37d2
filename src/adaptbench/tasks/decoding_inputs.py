"""What transformers' `generate` is given so that it computes as the rest of this program does.

- An encoder's states come from a pass of the whole model, so that what is attached around it is in place.
- Sources of an encoder-decoder are padded on the right, where padding moves no position.
- Prompt tuning's virtual tokens stand before the decoder's start token.
- Demonstrations read once fill the cache.
- Models of PEFT with tokens of their own in every pass have no cache that fits: they read all again for every token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from adaptbench.data.batching import Batch
from adaptbench.models.attention import PREFIXES, Held
from adaptbench.models.backbone import Backbone
from adaptbench.scoring.rank import logits_at, plain_mask, to_the_left


class Prepared(NamedTuple):
    """Whose `generate` to call with what."""

    model: Any
    inputs: dict[str, Any]
    read: Tensor  # (N, T) what the decoder reads before an answer, and `generate` returns before it


def prepare(backbone: Backbone, batch: Batch, beams: int) -> Prepared:
    """For a batch of N rows; what does not grow with beams by itself holds N * beams rows, the beam innermost."""
    rows, device = len(batch.source), batch.source.device
    read = decoder_start(backbone, rows, device) if backbone.is_encoder_decoder else batch.source
    if not caches(backbone):
        mask = torch.ones_like(read) if backbone.is_encoder_decoder else batch.source_mask.long()
        whole = WholePasses(backbone, batch.source, batch.source_mask, beams)
        return Prepared(whole, {"input_ids": read, "attention_mask": mask}, read)
    model = base_of(backbone)
    if backbone.is_encoder_decoder:
        source, seen = padded_on_the_right(batch.source, batch.source_mask)
        states = encoder_states(backbone, source, seen)
        encoded = {"encoder_outputs": states, "attention_mask": seen.long(), "decoder_input_ids": read}
        return Prepared(model, {**encoded, "past_key_values": empty_cache(backbone)}, read)
    before = batch.source_mask.new_ones(rows, batch.already_read)
    inputs: dict[str, Any] = {"input_ids": read, "attention_mask": torch.cat([before, batch.source_mask], dim=1).long()}
    if batch.already_read:
        inputs["past_key_values"] = _filled_cache(backbone, rows * beams)
    return Prepared(model, inputs, read)


def base_of(backbone: Backbone) -> Any:
    """The model of transformers, without PEFT's wrapper; the tuner's layers stay in it."""
    model: Any = backbone.model
    return model.get_base_model() if hasattr(model, "peft_config") else model


def caches(backbone: Backbone) -> bool:
    """Keys and values of earlier tokens serve later ones: not where PEFT's wrapper adds something to every pass."""
    model: Any = backbone.model
    if not hasattr(model, "peft_config"):
        return True
    return not (model.active_peft_config.is_prompt_learning or model._forward_pre_hooks)


def reads_padding(backbone: Backbone, batch: Batch) -> bool:
    """Rows of unequal length may share a pass.

    Not before a decoder's tokens where nobody has tried it, nor between demonstrations and prompt where a window would
    count padding as tokens.
    """
    if backbone.is_encoder_decoder or not caches(backbone):
        return True
    if not backbone.has_anatomy:
        return False
    layers = empty_cache(backbone).layers if batch.already_read else []
    return not any(getattr(layer, "is_sliding", False) for layer in layers)


def decoder_limit(backbone: Backbone) -> int | None:
    """Most tokens that an encoder-decoder's decoder reads; None where nothing bounds them."""
    names = ("max_decoder_position_embeddings", "max_position_embeddings")
    return next((limit for name in names if (limit := getattr(backbone.model.config, name, None))), None)


def decoder_start(backbone: Backbone, rows: int, device: torch.device) -> Tensor:
    """(rows, P + 1) what an encoder-decoder's decoder reads before an answer: P virtual tokens and the start."""
    virtual = range(-1, -1 - backbone.virtual_tokens_of_choice, -1)
    ids = [*virtual, backbone.model.config.decoder_start_token_id]
    return torch.tensor(ids, device=device).expand(rows, -1)


def padded_on_the_right(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(N, S) ids that are padded on the left, and where a token is: the same padded on the right."""
    tokens = mask.sum(1)
    return to_the_left(ids, tokens), torch.arange(ids.shape[1], device=ids.device) < tokens[:, None]


class _EncoderDone(Exception):
    def __init__(self, states: Tensor):
        self.states = states


def encoder_states(backbone: Backbone, source: Tensor, seen: Tensor) -> BaseModelOutput:
    """What the encoder makes of the source (N, S) inside a pass of the whole model, which ends there.

    Left to itself, `generate` calls the encoder alone: past the embeddings of virtual tokens, and past work that is
    done once per pass.
    """
    model = base_of(backbone)
    start = decoder_start(backbone, len(source), source.device)

    def stop(_module: Any, _inputs: Any, output: Any) -> None:
        raise _EncoderDone(output[0])

    handle = model.get_encoder().register_forward_hook(stop)
    try:
        model(input_ids=source, attention_mask=plain_mask(seen, backbone), decoder_input_ids=start, use_cache=False)
    except _EncoderDone as done:
        return BaseModelOutput(last_hidden_state=done.states)
    finally:
        handle.remove()
    raise RuntimeError("the encoder did not run")


def _filled_cache(backbone: Backbone, rows: int) -> DynamicCache | EncoderDecoderCache:
    """A cache in which every row has the keys and values that all share (`scoring/shared_context.py`)."""
    cache = empty_cache(backbone)
    for layer, site in enumerate(backbone.anatomy.attentions):
        cache.update(*PREFIXES[backbone.model.get_submodule(site.path)](rows), layer)
    return cache


def empty_cache(backbone: Backbone) -> DynamicCache | EncoderDecoderCache:
    """For keys and values of the decoder's tokens, no more than a layer's window, and of the encoder's.

    An encoder-decoder's grow as layers come: given its configuration, transformers counts the encoder's layers (5.23).
    """
    if backbone.is_encoder_decoder:
        return EncoderDecoderCache(DynamicCache(), DynamicCache())
    return DynamicCache(config=backbone.model.config.get_text_config(decoder=True))


@contextmanager
def held_in_cache_only(backbone: Backbone) -> Iterator[None]:
    """Inside, shared keys and values do not stand before those of an attention as well."""
    modules = set(backbone.model.modules())
    held = {module: prefix for module, prefix in PREFIXES.items() if isinstance(prefix, Held) and module in modules}
    for module in held:
        del PREFIXES[module]
    try:
        yield
    finally:
        PREFIXES.update(held)


class WholePasses(PreTrainedModel, GenerationMixin):
    """A decoder without a cache, as `generate` knows them, around a model that reads a whole row in every pass."""

    config_class = PreTrainedConfig

    def __init__(self, backbone: Backbone, source: Tensor, source_mask: Tensor, beams: int):
        super().__init__(PreTrainedConfig())
        self.model = backbone.model
        self.backbone = backbone
        self.source, self.source_mask = (part.repeat_interleave(beams, 0) for part in (source, source_mask))

    def forward(self, input_ids: Tensor, **_: Any) -> CausalLMOutput:  # (N * beams, T) -> logits (N * beams, 1, V)
        backbone = self.backbone
        if backbone.is_encoder_decoder:
            source, seen = padded_on_the_right(self.source, self.source_mask)
            mask = plain_mask(seen, backbone)
            read = backbone.model(input_ids=source, attention_mask=mask, decoder_input_ids=input_ids, use_cache=False)
            return CausalLMOutput(logits=read.logits[:, -1:])
        new = self.source_mask.new_ones(len(input_ids), input_ids.shape[1] - self.source.shape[1])
        ids, seen = padded_on_the_right(input_ids, torch.cat([self.source_mask, new], dim=1))
        last = seen.sum(1, keepdim=True) - 1
        return CausalLMOutput(logits=logits_at(backbone, ids, plain_mask(seen, backbone), last))
