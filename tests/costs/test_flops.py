"""Counted FLOPs against hand counts, and priced batches against counted ones."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from adaptbench.costs.flops import count
from adaptbench.costs.meta import MetaRun
from adaptbench.costs.pricer import Pricer, total
from adaptbench.data.batching import Shape, collate, encode, shape_of
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.methods import METHODS
from adaptbench.models.anatomy import LinearSite
from adaptbench.scoring.rank import token_log_probabilities
from tests.conftest import ARCHITECTURES
from tests.factories import recipe, toy_task
from tests.methods.roster import ON_LANGUAGE_MODELS

D, FF, LAYERS, INNER = 32, 48, 2, 32


def attention(queries: int, keys: int) -> int:
    """Scores and weighted sum of all heads: two products of (queries x keys x inner width)."""
    return 2 * 2 * queries * keys * INNER


def t5_forward(rows: int, s: int, u: int, vocabulary: int) -> int:
    """Multiply-adds times two, by hand: s source and u choice tokens, two gated layers in each half."""
    linear = 2 * D * INNER
    encoder = s * (4 * linear + 3 * 2 * D * FF) + attention(s, s)
    decoder = u * (4 * linear) + attention(u, u)
    decoder += u * 2 * linear + s * 2 * linear + attention(u, s)  # cross: q and o for u, k and v for s
    decoder += u * 3 * 2 * D * FF
    return rows * (LAYERS * (encoder + decoder) + u * 2 * D * vocabulary)


def decoder_forward(architecture: str, rows: int, s: int, u: int, vocabulary: int) -> int:
    length = s + u
    kv = INNER // 2 if architecture == "llama" else INNER  # grouped keys and values
    projections = 2 * D * INNER * 2 + 2 * D * kv * 2
    feed_forward = (3 if architecture == "llama" else 2) * 2 * D * (4 * D if architecture == "gpt2" else FF)
    layer = length * (projections + feed_forward) + attention(length, length)
    return rows * (LAYERS * layer + (u + 1) * 2 * D * vocabulary)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shape", [Shape(3, 11, 2, 4), Shape(1, 5, 3, 2), Shape(2, 7, 2, 1)])
def test_frozen_forward_equals_a_hand_count(backbones, architecture, shape):
    backbone = backbones[architecture]
    run = MetaRun.of(METHODS["zero_shot"](), backbone, recipe())
    vocabulary = backbone.model.config.vocab_size
    if architecture == "t5":
        expected = t5_forward(shape.rows, shape.source, shape.choices * shape.target, vocabulary)
    else:
        u = shape.choices * (shape.target - 1)
        expected = decoder_forward(architecture, shape.rows, shape.source, u, vocabulary)
    assert count(lambda: run.predict(shape)) == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ON_LANGUAGE_MODELS)
def test_priced_equals_counted(backbones, architecture, kind):
    """The polynomial through six counts gives every other shape to the last FLOP."""
    run = MetaRun.of(METHODS[kind](), backbones[architecture], recipe())
    prices = Pricer(run)
    for shape in (Shape(1, 37, 2, 3), Shape(4, 90, 4, 2), Shape(4, 12, 1, 1)):
        assert prices.predict(shape) == pytest.approx(count(lambda shape=shape: run.predict(shape)), rel=1e-9)
        if run.adaptation.parameters:
            counted = count(lambda shape=shape: run.forward_backward(shape))
            assert prices.train(shape) == pytest.approx(counted, rel=1e-9)
    shapes = [Shape(1, 9, 2, 2)] * 3 + [Shape(1, 10, 2, 2)]
    assert total(prices.predict, shapes) == pytest.approx(sum(map(prices.predict, shapes)))


def visited(site: LinearSite, s: int, u: int) -> int:
    """Tokens of a row that pass a linear map: the input meets the encoder, and cross-attention's keys and values."""
    if site.path.startswith("encoder.") or (".EncDecAttention." in site.path and site.role in "kv"):
        return s
    return u if site.path.startswith("decoder.") else s + u


def own_flops(kind: str, backbone, s: int, u: int) -> int:
    """What a method adds to a row's forward pass, by hand: scales, biases and prefix-free norms add no product."""
    anatomy, method = backbone.anatomy, METHODS[kind]()
    if kind == "lora":
        return sum(2 * method.rank * (linear.d_in + linear.d_out) * visited(linear, s, u) for linear in anatomy.linears)
    if kind == "adapter":
        bottleneck = max(1, D // method.reduction)
        lengths = {"encoder": s, "decoder": u}
        sites = [sublayer for sublayer in anatomy.sublayers if sublayer.role == "ff"]
        return sum(2 * 2 * D * bottleneck * lengths.get(site.path.partition(".")[0], s + u) for site in sites)
    if kind == "prefix":
        queries = {"encoder": s, "cross": u, "decoder": u if backbone.is_encoder_decoder else s + u}
        return sum(attention(queries[site.kind], method.virtual_tokens) for site in anatomy.attentions)
    return 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["ia3", "bitfit", "lora", "adapter", "prefix", "full_ft"])
def test_what_a_method_adds_equals_a_hand_count(backbones, architecture, kind):
    shape, backbone = Shape(3, 11, 2, 4), backbones[architecture]
    u = 2 * 4 if architecture == "t5" else 2 * 3

    def predict(method: str) -> int:
        run = MetaRun.of(METHODS[method](), backbone, recipe())
        return count(lambda: run.predict(shape))

    assert predict(kind) - predict("zero_shot") == 3 * own_flops(kind, backbone, 11, u)


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_a_training_step_equals_a_hand_count(backbones, architecture):
    """Full fine-tuning: twice the forward again. (IA)^3: once through every linear map, twice through attention, less
    what leads to frozen embeddings only: the inputs of the first layers' queries, keys and values, and the queries."""
    shape, backbone = Shape(2, 11, 2, 4), backbones[architecture]
    u = 2 * 4 if architecture == "t5" else 2 * 3
    forward = count(lambda: MetaRun.of(METHODS["zero_shot"](), backbone, recipe()).predict(shape))

    def train(kind: str) -> int:
        run = MetaRun.of(METHODS[kind](), backbone, recipe())
        return count(lambda: run.forward_backward(shape))

    assert train("full_ft") == 3 * forward
    if architecture == "t5":
        scores = 2 * LAYERS * (attention(11, 11) + attention(u, u) + attention(u, 11))
        first = 3 * 2 * D * INNER * (11 + u) + (attention(11, 11) + attention(u, u)) // 2
    else:
        length = 11 + u
        scores = 2 * LAYERS * attention(length, length)
        first = 2 * D * (INNER + 2 * INNER // 2) * length + attention(length, length) // 2
    assert train("ia3") == 2 * forward + scores - 2 * first


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_attention_kernel_of_the_cpu_counts_the_same(backbones, architecture):
    """Fused, plain, and the library's eager attention on real tensors: the count of the meta device for all."""
    backbone = backbones[architecture]
    rows = [encode(backbone, prompt) for prompt in evaluation_prompts(toy_task(4), "random")]
    batch, eager = collate(rows, backbone.pad_id), replace(backbone, model=copy.deepcopy(backbone.model))
    eager.model.set_attn_implementation("eager")
    expected = count(lambda: MetaRun.of(METHODS["zero_shot"](), backbone, recipe()).predict(shape_of(rows)))
    with torch.no_grad():
        assert count(lambda: token_log_probabilities(backbone, batch)) == expected
        with sdpa_kernel(SDPBackend.MATH):
            assert count(lambda: token_log_probabilities(backbone, batch)) == expected
        assert count(lambda: token_log_probabilities(eager, batch)) == expected


def test_training_embeddings_and_norms_count_nothing(backbones):
    """By convention: a look-up and a norm are no matrix products, forward or backward."""
    weights = torch.nn.Embedding(50, 8)
    norm = torch.nn.LayerNorm(8)
    assert count(lambda: norm(weights(torch.arange(9))).sum().backward()) == 0


def test_training_a_frozen_model_costs_two_forwards_and_full_fine_tuning_three(backbones):
    """The paper's "three forwards" holds for full fine-tuning only: frozen weights get no gradient."""
    shape = Shape(8, 60, 2, 2)

    def ratio(kind: str) -> float:
        prices = Pricer(MetaRun.of(METHODS[kind](), backbones["t5"], recipe()))
        return prices.train(shape) / prices.predict(shape)

    assert ratio("full_ft") == pytest.approx(3.0, abs=0.01)
    assert 1.9 < ratio("ia3") < 2.2
    assert 1.9 < ratio("bitfit") < 2.2


def test_meta_count_equals_the_count_of_a_real_step(backbones):
    """On the meta device attention is plain products; a real step with real attention kernels costs the same."""
    for name, backbone in backbones.items():
        rows = [encode(backbone, prompt) for prompt in evaluation_prompts(toy_task(4), "random")]
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            token_log_probabilities(backbone, collate(rows, backbone.pad_id))
        prices = Pricer(MetaRun.of(METHODS["zero_shot"](), backbone, recipe()))
        assert prices.predict(shape_of(rows)) == pytest.approx(counter.get_total_flops(), rel=1e-9), name
