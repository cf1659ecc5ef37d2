"""The bill of decoding: FLOPs of answers of so many tokens, bytes of the cache, peak memory.

Counted are the passes that `tasks/decoding.py` makes: over the source or the prompt, then one for every new token but
the last, which nothing reads. With a cache each of those reads one token, and costs as much more than the one before it
as a key and a value more do, until a window is full. Without one each reads the whole answer so far, a quadratic in its
length. So a few counts price answers of any length to the last FLOP. All beams of a row are read, its prompt included;
passes that a search makes after its best answer has ended are not billed.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from inspect import signature
from math import comb
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from adaptbench.costs.flops import count
from adaptbench.costs.memory import Memory, PeakTracker, own_tensors
from adaptbench.costs.meta import MetaRun
from adaptbench.data.batching import Shape
from adaptbench.models.backbone import Backbone
from adaptbench.scoring.rank import plain_mask
from adaptbench.tasks.decoding_inputs import (
    WholePasses,
    base_of,
    caches,
    decoder_start,
    empty_cache,
    encoder_states,
)

PROBES = 4  # counts that fix a quadratic and check it


def decode_flops(
    run: MetaRun, shape: Shape, produced: int, cached: bool = True, beams: int = 1, already_read: int = 0
) -> int:
    """FLOPs of answers of `produced` tokens to a batch of prompts.

    Args:
        shape: rows and source tokens of the batch; choices and targets are not looked at.
        produced: tokens of each answer, its end and a forced first one included.
        cached: keys and values of earlier tokens are kept, where that is possible (`decoding_inputs.caches`).
        already_read: tokens of shared demonstrations. Their keys and values are held, and cost nothing here; without a
            cache they are read with every token.
    """
    with run.serving() as backbone:
        passes = _Passes(backbone, shape, beams, already_read)
        if not caches(backbone):
            return _sum(lambda new: count(partial(passes.whole, new)), 0, produced)
        encoder, before, own = count(passes.encode), passes.before, passes.before - already_read
        if not cached:
            return encoder + _sum(lambda new: count(partial(passes.read, before + new)), 0, produced)
        prompt = count(partial(passes.read, own, passes.cache_of(already_read), already_read))
        step = lru_cache(maxsize=None)(lambda past: count(partial(passes.read, 1, passes.cache_of(past), past)))
        return encoder + prompt + _sum(step, before, produced - 1)


def decode_cache_bytes(run: MetaRun, shape: Shape, produced: int, beams: int = 1, already_read: int = 0) -> int:
    """Bytes of the keys and values in the cache when the last token is produced; 0 where nothing is kept.

    They are those of the decoder's tokens, and in cross-attention of the encoder's, for every beam.
    """
    with run.serving() as backbone:
        if not caches(backbone):
            return 0
        passes = _Passes(backbone, shape, beams, already_read)
        passes.encode()
        return sum(state.nbytes for _, _, state in _states(passes.cache_of(passes.before + produced - 1)))


def decode_memory(run: MetaRun, shape: Shape, produced: int, beams: int = 1, already_read: int = 0) -> Memory:
    """The peak, in the pass over source and prompt or in the last, which attends to the longest cache.

    What the search itself holds (scores of all words for every beam, the answers) is not in it.
    """
    with run.serving() as backbone:
        passes = _Passes(backbone, shape, beams, already_read)
        if not caches(backbone):
            with PeakTracker(own_tensors(run)) as tracker:
                passes.whole(produced - 1)
            return tracker.memory
        with PeakTracker(own_tensors(run)) as first:
            passes.encode()
            passes.read(passes.before - already_read, _held(passes.cache_of(already_read), first), already_read)
        if produced == 1:
            return first.memory
        past = passes.before + produced - 2
        longest = passes.cache_of(past)
        with PeakTracker(own_tensors(run)) as last:
            passes.encoded = None if passes.encoded is None else torch.empty_like(passes.encoded)
            passes.read(1, _held(longest, last), past)
    return max(first.memory, last.memory, key=lambda memory: memory.peak)


class _Passes:
    """The passes over a batch of one shape, on whatever device the backbone is."""

    def __init__(self, backbone: Backbone, shape: Shape, beams: int, already_read: int):
        self.backbone, self.beams, self.rows = backbone, beams, shape.rows * beams
        self.model, self.device = base_of(backbone), backbone.device
        self.source = torch.zeros(shape.rows, shape.source, dtype=torch.long, device=self.device)
        self.read_ahead = already_read
        self.encoder_decoder = backbone.is_encoder_decoder
        self.encoded: Tensor | None = None  # (N * beams, S, D) states of an encoder
        takes = signature(self.model.forward).parameters
        self.kept = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self.cache_name = "cache_params" if "cache_params" in takes else "past_key_values"

    @property
    def before(self) -> int:
        """Tokens that the decoder reads before an answer."""
        if self.encoder_decoder:
            return self.backbone.virtual_tokens_of_choice + 1
        return self.read_ahead + self.source.shape[1]

    def encode(self) -> None:
        """The encoder's pass, if there is one. Every beam has a copy of its states."""
        if self.encoder_decoder:
            states: Any = encoder_states(self.backbone, self.source, self.source == 0)
            self.encoded = states.last_hidden_state.repeat_interleave(self.beams, 0)

    def read(self, tokens: int, cache: Any = None, past: int = 0) -> None:
        """The decoder's pass over so many tokens, after `past` ones in the cache, which these enter; or without one."""
        ids = torch.zeros(self.rows, tokens, dtype=torch.long, device=self.device)
        inputs = {"use_cache": cache is not None, **self.kept}
        if cache is not None:
            inputs[self.cache_name] = cache
        if self.encoded is None:
            self.model(input_ids=ids, attention_mask=self._mask(past + tokens), **inputs)
            return
        states, mask = BaseModelOutput(last_hidden_state=self.encoded), self._mask(self.encoded.shape[1])
        self.model(encoder_outputs=states, attention_mask=mask, decoder_input_ids=ids, **inputs)

    def cache_of(self, tokens: int) -> Any:
        """A cache that holds so many tokens of the decoder's."""
        cache = empty_cache(self.backbone)
        if tokens:
            self.read(tokens, cache)
        return cache

    def whole(self, new: int) -> None:
        """A pass over all, `new` tokens of the answer among it, of a model that keeps nothing."""
        read = decoder_start(self.backbone, len(self.source), self.device) if self.encoder_decoder else self.source
        ids = nn.functional.pad(read, (0, new)).repeat_interleave(self.beams, 0)
        WholePasses(self.backbone, self.source, self.source == 0, self.beams)(ids)

    def _mask(self, tokens: int) -> Tensor | None:
        seen = torch.ones(self.rows, tokens, dtype=torch.bool, device=self.device)
        return plain_mask(seen, self.backbone)


def _sum(price: Callable[[int], int], first: int, terms: int) -> int:
    """price(first) + price(first + 1) + ..., of a price that is a quadratic, or is one in stretches."""
    if terms <= PROBES:
        return sum(price(first + term) for term in range(terms))
    start, second, third = (price(first + term) for term in range(3))
    rise, bend = second - start, third - 2 * second + start
    last = terms - 1
    if price(first + last) == start + last * rise + comb(last, 2) * bend:
        return terms * start + comb(terms, 2) * rise + comb(terms, 3) * bend
    half = terms // 2
    return _sum(price, first, half) + _sum(price, first + half, terms - half)


def _states(cache: Any) -> Iterator[tuple[Any, str, Tensor]]:
    """Every layer's keys and values (or whatever it keeps of earlier tokens), with where they are kept."""
    halves = (cache.self_attention_cache, cache.cross_attention_cache) if _is_double(cache) else (cache,)
    for layer in (layer for half in halves for layer in half.layers):
        for name, value in vars(layer).items():
            if isinstance(value, Tensor) and value.ndim > 1:  # a window keeps its length as a tensor
                yield layer, name, value


def _held(cache: Any, tracker: PeakTracker) -> Any:
    """The cache as the tracker is to see it: its tensors made while the tracker is on, and counted as what they are."""
    with tracker.as_kind("kv_cache"):
        for layer, name, state in list(_states(cache)):
            setattr(layer, name, torch.empty_like(state))
    for half in (cache.self_attention_cache, cache.cross_attention_cache) if _is_double(cache) else (cache,):
        half.update = partial(_counted, tracker, half.update)
    return cache


def _counted(tracker: PeakTracker, update: Callable[..., Any], *states: Any, **named: Any) -> Any:
    with tracker.as_kind("kv_cache"):
        return update(*states, **named)


def _is_double(cache: Any) -> bool:
    return isinstance(cache, EncoderDecoderCache)
