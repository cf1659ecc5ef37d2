"""Shared demonstrations: what a real cache computes is what the polynomial, the meta pass and a hand count say."""

import pytest
import torch
from transformers import DynamicCache

from adaptbench.costs.cached import cached_flops, cached_memory
from adaptbench.costs.flops import count
from adaptbench.costs.memory import kv_cache_bytes
from adaptbench.costs.meta import MetaRun
from adaptbench.costs.pricer import Pricer
from adaptbench.data.batching import Shape
from adaptbench.methods import METHODS
from tests.costs.test_flops import LAYERS, D, attention, decoder_forward
from tests.factories import recipe

DECODERS = ("llama", "gpt2", "opt")
CONTEXT, SHAPE = 50, Shape(2, 9, 3, 4)
OWN = 9 + 3 * 3  # tokens a row of this shape reads: the last of a choice predicts nothing


@pytest.mark.parametrize("architecture", DECODERS)
def test_cached_equals_a_hand_count(backbones, architecture):
    """Own tokens as if alone, and attention over the held keys besides."""
    backbone = backbones[architecture]
    run = MetaRun.of(METHODS["icl"](), backbone, recipe())
    flops, vocabulary = cached_flops(run, SHAPE, CONTEXT), backbone.model.config.vocab_size
    alone = decoder_forward(architecture, 2, 9, 3 * 3, vocabulary)
    assert flops.predict == alone + 2 * LAYERS * attention(OWN, CONTEXT)
    assert flops.once == decoder_forward(architecture, 1, CONTEXT, 0, vocabulary)


@pytest.mark.parametrize("architecture", DECODERS)
def test_the_polynomial_prices_cached_predictions_to_the_last_flop(backbones, architecture):
    run = MetaRun.of(METHODS["icl"](), backbones[architecture], recipe())
    flops, prices = cached_flops(run, SHAPE, CONTEXT), Pricer(run)
    assert prices.predict_after(SHAPE, CONTEXT) == flops.predict
    assert prices.read_once(CONTEXT) == flops.once


@pytest.mark.parametrize("architecture", DECODERS)
def test_a_real_cache_on_the_cpu_costs_the_same(backbones, architecture):
    """Real tensors, the library's own cache, fused attention: the same FLOPs as priced without any of them."""
    backbone = backbones[architecture]
    cache, ids = DynamicCache(), torch.arange(CONTEXT)[None] % 100
    with torch.inference_mode():
        once = count(lambda: backbone.model(input_ids=ids, past_key_values=cache, logits_to_keep=1))
        own = torch.arange(OWN)[None] % 100
        after = count(lambda: backbone.model(input_ids=own, past_key_values=cache, logits_to_keep=3 * 3 + 1))
    prices = Pricer(MetaRun.of(METHODS["icl"](), backbone, recipe()))
    assert once == prices.read_once(CONTEXT)
    assert after == prices.predict_after(Shape(1, 9, 3, 4), CONTEXT)


def test_memory_holds_the_demonstrations_once_for_all_rows(backbones):
    backbone = backbones["llama"]
    run = MetaRun.of(METHODS["icl"](), backbone, recipe())
    memory = cached_memory(run, Shape(8, 9, 3, 4), CONTEXT)
    assert memory.kv_cache == kv_cache_bytes(backbone.anatomy, CONTEXT, backbone.dtype)
    assert memory.kv_cache == LAYERS * 2 * (D // 2) * CONTEXT * 4  # grouped: half the width
