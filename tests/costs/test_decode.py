"""Priced decoding against real decoding: the FLOPs of `generate` on real tensors, and caches counted by hand."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, GenerationConfig

from adaptbench.costs.decode import decode_cache_bytes, decode_flops, decode_memory
from adaptbench.costs.flops import count
from adaptbench.costs.memory import PeakTracker, kv_cache_bytes
from adaptbench.costs.meta import MetaRun
from adaptbench.data.batching import Batch, Shape
from adaptbench.methods import METHODS
from adaptbench.methods.base import Adaptation
from adaptbench.models.backbone import Backbone, load_backbone
from adaptbench.scoring.shared_context import shared_context
from adaptbench.tasks.decoding import Decoding, decode
from adaptbench.tasks.decoding_inputs import base_of, caches
from tests.conftest import WORDS, bpe_tokenizer
from tests.costs.test_flops import LAYERS, D, attention, decoder_forward, t5_forward
from tests.factories import recipe
from tests.methods.peft_types import prepared
from tests.methods.roster import VARIANTS
from tests.models.architectures import WINDOW, config_of, save_tiny

SHAPE = Shape(3, 11, 1, 1)
PRODUCED = 9
BYTES = 4  # of a number in single precision


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Backbone]:
    def make(name: str) -> Backbone:
        tokenizer = bpe_tokenizer([WORDS] * 4, end_of_sequence=name in ("mbart", "bart"))
        folder = save_tiny(config_of(name, len(tokenizer)), tokenizer, tmp_path_factory.mktemp(name))
        return load_backbone.__wrapped__(name, str(folder), device="cpu")

    return make


def run_of(backbone: Backbone, method: str = "zero_shot") -> MetaRun:
    return MetaRun.of(VARIANTS[method] if method in VARIANTS else METHODS[method](), backbone, recipe())


@contextmanager
def endless(adaptation: Adaptation) -> Iterator[Backbone]:
    """Inside, answers of the adapted model go on to the limit."""
    backbone = replace(adaptation.backbone, tokenizer=None)
    model = base_of(backbone)
    before, model.generation_config = model.generation_config, GenerationConfig(eos_token_id=[])
    try:
        yield backbone
    finally:
        model.generation_config = before


def decoded(adaptation: Adaptation, shape: Shape, beams: int = 1, already_read: int = 0) -> int:
    """FLOPs of really decoding a batch of this shape."""
    backbone = adaptation.backbone
    virtual = -1 - torch.arange(backbone.virtual_tokens).expand(shape.rows, -1)
    words = torch.randint(5, 100, (shape.rows, shape.source - backbone.virtual_tokens))
    source = torch.cat([virtual, words], dim=1)
    none = torch.zeros(shape.rows, 1, 1, dtype=torch.long)
    label = torch.zeros(shape.rows, dtype=torch.long)
    batch = Batch(source, source < 1000, none, none == 0, label, already_read)
    answers: list = []
    with adaptation.attached(), endless(adaptation) as backbone:
        flops = count(lambda: answers.extend(decode(backbone, batch, Decoding(beams, PRODUCED))))
    assert [len(answer) for answer in answers] == [PRODUCED] * shape.rows
    return flops


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("architecture", ["t5", "llama", "gpt2", "opt"])
def test_what_is_priced_is_what_a_real_answer_costs(backbones, architecture, beams):
    real = decoded(METHODS["zero_shot"]().prepare(backbones[architecture], (1,)), SHAPE, beams)
    assert decode_flops(run_of(backbones[architecture]), SHAPE, PRODUCED, beams=beams) == real


@pytest.mark.parametrize("method", ["lora", "prefix", "prompt", "unipelt_pt", "intrinsic_said"])
@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_what_a_method_adds_is_priced(backbones, architecture, method):
    backbone = backbones[architecture]
    real = decoded(VARIANTS[method].prepare(backbone, (1,)).for_inference(), SHAPE, beams=2)
    assert decode_flops(run_of(backbone, method), SHAPE, PRODUCED, beams=2) == real


@pytest.mark.parametrize("name", ["mbart", "bloom", "falcon_7b", "mistral_windows", "gemma3_text"])
def test_other_architectures_and_windows_are_priced(tiny, name):
    """Answers go past the window, where a step's price stops rising in the layers that have one."""
    backbone = tiny(name)
    assert PRODUCED > WINDOW
    real = decoded(METHODS["zero_shot"]().prepare(backbone, (1,)), Shape(2, 3, 1, 1))
    assert decode_flops(run_of(backbone), Shape(2, 3, 1, 1), PRODUCED) == real


def by_hand(architecture: str, rows: int, s: int, produced: int, vocabulary: int, cached: bool) -> int:
    """From what a pass over all tokens costs.

    A cache spares attention of earlier tokens. Without one every token is a pass of its own, which computes logits of
    all that T5's decoder reads, and of a decoder's last token alone.
    """
    if architecture == "t5":
        cross = rows * LAYERS * s * 2 * 2 * D * D  # keys and values for the decoder
        encoder = t5_forward(rows, s, 0, vocabulary) - cross
        if cached:
            steps = sum(attention(1, past) for past in range(1, produced + 1))
            return t5_forward(rows, s, produced, vocabulary) + rows * LAYERS * (steps - attention(produced, produced))
        return encoder + sum(t5_forward(rows, s, u, vocabulary) - encoder for u in range(1, produced + 1))
    length = s + produced - 1
    if cached:
        steps = attention(s, s) + sum(attention(1, past) for past in range(s + 1, length + 1))
        whole = decoder_forward(architecture, rows, s, produced - 1, vocabulary)
        return whole + rows * LAYERS * (steps - attention(length, length))
    return sum(decoder_forward(architecture, rows, s + u, 0, vocabulary) for u in range(produced))


@pytest.mark.parametrize("produced", [1, 2, 5, 100])
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("architecture", ["t5", "llama", "opt"])
def test_answers_of_any_length_cost_what_a_hand_count_says(backbones, architecture, cached, produced):
    backbone = backbones[architecture]
    expected = by_hand(architecture, 2, 7, produced, backbone.model.config.vocab_size, cached)
    assert decode_flops(run_of(backbone), Shape(2, 7, 3, 4), produced, cached) == expected


def test_the_counter_of_pytorch_says_the_same_of_dense_products(tiny):
    """Attention written out, no kernel that the counter passes over."""
    backbone = tiny("falcon_7b")
    model = backbone.model
    model.generation_config = GenerationConfig(pad_token_id=0)
    ids = torch.randint(5, 100, (2, 7))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=PRODUCED, do_sample=False)
    assert decode_flops(run_of(backbone), Shape(2, 7, 1, 1), PRODUCED) == counter.get_total_flops()


@pytest.mark.parametrize("kind", ["LORA", "PROMPT_TUNING", "PREFIX_TUNING"])
@pytest.mark.parametrize("name", ["t5", "llama"])
def test_a_model_that_peft_wraps_is_priced_by_the_passes_it_makes(backbones, kind, name):
    adaptation = prepared(kind, replace(backbones[name], name=f"priced_{name}"))
    run = run_with(adaptation)
    assert decode_flops(run, SHAPE, PRODUCED, beams=2) == decoded(adaptation, SHAPE, beams=2)
    assert (decode_cache_bytes(run, SHAPE, PRODUCED) > 0) == caches(adaptation.backbone) == (kind == "LORA")


def run_with(adaptation: Adaptation) -> MetaRun:
    run = run_of(adaptation.backbone)
    run.adaptation = adaptation
    return run


def test_held_demonstrations_are_attended_to_and_not_read_again(backbones):
    backbone, shape, context = backbones["llama"], Shape(2, 5, 1, 1), [7] * 20
    run = run_of(backbone)
    with shared_context(backbone, context):
        real = decoded(METHODS["zero_shot"]().prepare(backbone, (1,)), shape, beams=2, already_read=20)
    held = decode_flops(run, shape, PRODUCED, beams=2, already_read=20)
    assert held == real
    assert held < decode_flops(run, Shape(2, 25, 1, 1), PRODUCED, beams=2) / 2
    longer = decode_flops(run, Shape(2, 25, 1, 1), PRODUCED, cached=False)
    assert decode_flops(run, shape, PRODUCED, cached=False, already_read=20) == longer


def test_the_cache_holds_every_beams_tokens_and_what_they_attend_to_in_the_encoder(backbones, tiny):
    t5 = decode_cache_bytes(run_of(backbones["t5"]), SHAPE, PRODUCED, beams=2)
    assert t5 == 3 * 2 * LAYERS * 2 * D * (PRODUCED + 11) * BYTES
    llama = decode_cache_bytes(run_of(backbones["llama"]), SHAPE, PRODUCED, already_read=20)
    assert llama == 3 * LAYERS * 2 * (D // 2) * (20 + 11 + PRODUCED - 1) * BYTES  # grouped: half the width
    assert llama == 3 * kv_cache_bytes(backbones["llama"].anatomy, 20 + 11 + PRODUCED - 1, torch.float32)
    prompted = decode_cache_bytes(run_of(backbones["t5"], "prompt"), SHAPE, PRODUCED)  # 3 virtual tokens in the decoder
    assert prompted == 3 * LAYERS * 2 * D * (3 + PRODUCED + 11) * BYTES
    windowed = decode_cache_bytes(run_of(tiny("mistral_windows")), SHAPE, PRODUCED)
    assert windowed == 3 * LAYERS * 2 * (2 * 12) * (WINDOW - 1) * BYTES


def test_the_cache_priced_is_the_cache_of_a_real_model(backbones):
    backbone, cache, ids = backbones["gpt2"], DynamicCache(), torch.randint(5, 100, (3, 11 + PRODUCED - 1))
    with torch.inference_mode():
        backbone.model(input_ids=ids, past_key_values=cache)
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert decode_cache_bytes(run_of(backbone), SHAPE, PRODUCED) == real


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_the_last_step_of_a_long_answer_holds_its_cache_at_the_peak(backbones, architecture):
    run, shape = run_of(backbones[architecture]), Shape(2, 5, 1, 1)
    short, long = (decode_memory(run, shape, produced) for produced in (200, 400))
    for memory, produced in ((short, 200), (long, 400)):
        cache = decode_cache_bytes(run, shape, produced)
        layer = cache / LAYERS / 2  # keys or values of one layer, in its old and its new length
        assert cache - layer < memory.kv_cache < cache + 2 * layer
    assert long.weights == short.weights >= run.adaptation.backbone.model.num_parameters() * BYTES
    assert long.peak > short.peak


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_a_real_answer_holds_what_is_priced_and_the_scores_of_its_search(backbones, architecture, beams):
    backbone, shape = backbones[architecture], Shape(2, 5, 1, 1)
    adaptation = METHODS["zero_shot"]().prepare(backbone, (1,))
    with PeakTracker([*backbone.model.parameters(), *backbone.model.buffers()]) as tracker:
        decoded(adaptation, shape, beams)
    scores = shape.rows * beams * backbone.model.config.vocab_size * BYTES
    priced = decode_memory(run_of(backbone), shape, PRODUCED, beams).peak
    assert priced < tracker.peak < priced + 12 * scores


def test_a_short_answer_to_a_long_prompt_peaks_while_the_prompt_is_read(backbones):
    run = run_of(backbones["llama"])
    reading = decode_memory(run, Shape(2, 300, 1, 1), 1)
    assert decode_memory(run, Shape(2, 300, 1, 1), 3) == reading
    assert reading.activations > decode_memory(run, Shape(2, 3, 1, 1), 298).activations
