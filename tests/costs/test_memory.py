"""The tensor-level peak against hand counts."""

import pytest
import torch

from adaptbench.costs.memory import PeakTracker, kv_cache_bytes, predict_memory, train_memory
from adaptbench.costs.meta import MetaRun
from adaptbench.data.batching import Shape, collate, encode, shape_of
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.methods import METHODS
from adaptbench.models.anatomy import Anatomy, AttentionSite
from adaptbench.scoring.rank import token_log_probabilities
from tests.factories import recipe, toy_task
from tests.methods.roster import ON_LANGUAGE_MODELS


def test_tracker_follows_creation_and_release():
    a = torch.zeros(1000)
    with PeakTracker([a]) as tracker:
        b = a + 1  # 4000 more
        c = b * 2  # 4000 more: the peak
        del b
        view = c.view(10, 100)  # shares storage
        d = view.sum()
    assert tracker.peak == 12_000
    assert tracker.current == 8_000 + d.nbytes


def test_temporaries_inside_an_operation_count_without_gradients_too():
    logits, targets = torch.randn(10, 1000), torch.zeros(10, dtype=torch.long)
    with torch.inference_mode(), PeakTracker([]) as tracker:
        torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    assert tracker.peak >= logits.nbytes  # the log-softmax


def peaks(backbone, kind, shape):
    run = MetaRun.of(METHODS[kind](), backbone, recipe())
    return train_memory(run, shape).peak


def test_full_fine_tuning_pays_for_gradients_of_every_weight(backbones):
    backbone, shape = backbones["t5"], Shape(1, 4, 2, 1)
    weights = sum(p.nbytes for p in backbone.model.parameters())
    full, ia3 = peaks(backbone, "full_ft", shape), peaks(backbone, "ia3", shape)
    assert full > 2 * weights  # weights and gradients
    assert weights < ia3 < 1.6 * weights
    assert full - ia3 > 0.9 * weights


def test_peak_grows_with_the_batch_and_is_the_same_every_time(backbones):
    run = MetaRun.of(METHODS["ia3"](), backbones["t5"], recipe())
    small, large = predict_memory(run, Shape(1, 8, 2, 2)).peak, predict_memory(run, Shape(8, 64, 2, 2)).peak
    assert large > small
    assert predict_memory(run, Shape(1, 8, 2, 2)).peak == small
    assert train_memory(run, Shape(2, 8, 2, 2)) == train_memory(run, Shape(2, 8, 2, 2))


def test_items_add_up_to_the_peak_and_say_what_it_holds(backbones):
    backbone, shape = backbones["t5"], Shape(2, 8, 2, 2)
    weights = sum(p.nbytes for p in backbone.model.parameters())
    for kind in ON_LANGUAGE_MODELS:
        run = MetaRun.of(METHODS[kind](), backbone, recipe())
        own = 0 if kind == "full_ft" else sum(p.nbytes for p in run.adaptation.parameters)
        predicted = predict_memory(run, shape)
        assert weights + own <= predicted.weights <= 1.02 * weights + own  # buffers besides
        assert predicted.gradients == predicted.optimizer == predicted.kv_cache == 0
        if run.adaptation.parameters:
            trained = train_memory(run, shape)
            assert trained.peak == sum(vars(trained).values())
            assert trained.gradients == sum(p.nbytes for p in run.adaptation.parameters)
            assert trained.optimizer > 0
            assert trained.activations > predicted.activations


def test_real_tensors_count_as_meta_ones(backbones):
    """The tracker on a real prediction on the CPU gives the peak of the meta device."""
    backbone = backbones["llama"]
    rows = [encode(backbone, prompt) for prompt in evaluation_prompts(toy_task(4), "random")]
    batch = collate(rows, backbone.pad_id)
    run = MetaRun.of(METHODS["zero_shot"](), backbone, recipe())
    with torch.inference_mode(), PeakTracker([*backbone.model.parameters(), *backbone.model.buffers()]) as tracker:
        token_log_probabilities(backbone, batch)
    held = sum(
        value.nbytes for value in vars(batch).values() if isinstance(value, torch.Tensor)
    )  # was there before, and is not counted
    assert tracker.peak + held == pytest.approx(predict_memory(run, shape_of(rows)).peak, rel=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_agree_with_the_allocator(backbones):
    """Within a tenth on a model whose tensors are large against the allocator's blocks."""
    from experiments.bench.steps import measure, random_backbone
    from tests.costs.test_quote import config_of

    config = config_of("model=qwen3_0_6b", "method=ia3")
    backbone = random_backbone(config, torch.device("cuda"))
    found = measure(backbone, config, runs=1, steps=2, one=Shape(8, 93, 2, 5))
    assert found["peak_over_estimate"] == pytest.approx(1.0, abs=0.1)


def test_kv_cache_of_gpt3_is_the_papers_144_gb():
    """32 examples of 512 tokens on GPT-3 175B, 96 layers of width 12,288 (section 2.1): so it means 32-bit values."""
    layers = tuple(AttentionSite(f"layer {i}", heads=96, head_width=128, kind="decoder") for i in range(96))
    tokens = 32 * 512
    size = kv_cache_bytes(Anatomy((), (), layers), tokens, torch.float32)
    assert size == 96 * 2 * 12_288 * 4 * tokens
    assert size / 2**30 == 144
