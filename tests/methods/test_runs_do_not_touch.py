"""R runs trained in one pass equal R runs trained alone; what they add starts as nothing and all of it learns."""

import copy
import re
from dataclasses import replace

import pytest
import torch

from adaptbench.data.batching import collate, encode
from adaptbench.data.fewshot import draw
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.data.sources import load_task
from adaptbench.methods import METHODS
from adaptbench.methods.base import TrainedMethod
from adaptbench.models.backbone import load_backbone
from adaptbench.schema import DatasetConfig
from adaptbench.scoring.evaluate import evaluate
from adaptbench.scoring.rank import token_log_probabilities
from tests.conftest import ARCHITECTURES
from tests.factories import recipe, toy_task
from tests.methods.roster import NOT_THE_IDENTITY, VARIANTS

SEEDS = (3, 11, 7)
SHOTS = (8, 3, 5)  # unequal, as are lengths and numbers of tokens


@pytest.fixture
def double():
    """Double precision, so that only the order of sums distinguishes fused from separate runs."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def doubled(backbone):
    return replace(backbone, model=copy.deepcopy(backbone.model).double(), dtype=torch.float64)


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).item()


def with_one_run_poisoned(method, run):
    """The same method, but one run starts at NaN."""

    class Poisoned(type(method)):
        def prepare(self, backbone, seeds):
            adaptation = super().prepare(backbone, seeds)
            with torch.no_grad():
                for parameter in adaptation.delta.parameters():
                    parameter[run] = float("nan")
            return adaptation

    return Poisoned(**vars(method))


def assert_same_runs(fused, alone, run, start):
    """Equal parameters; returns the largest way one has moved. Key biases are left out: softmax ignores them, so their
    gradient is rounding noise, which optimizers normalise into steps."""
    moved = 0.0
    for name, value in alone.delta.state_of(0).items():
        if not re.search(r"(\.k|k_proj)\.bias$", name):
            assert relative_difference(fused.delta.state_of(run)[name].double(), value.double()) < 1e-6, name
            moved = max(moved, (value - start[name]).abs().max().item())
    return moved


@pytest.mark.parametrize("variant", VARIANTS)
def test_fused_runs_equal_separate_runs_beside_one_that_diverges(backbones, double, variant):
    """50 steps, unequal shots and lengths. The middle run is NaN from the start: it alone fails."""
    backbone, task = doubled(backbones["t5"]), toy_task()
    method = replace(VARIANTS[variant], steps=50, learning_rate=0.03)
    draws = [draw(task, seed, shots) for seed, shots in zip(SEEDS, SHOTS, strict=True)]
    fused = with_one_run_poisoned(method, 1).adapt(backbone, task, draws, recipe(batch_size=2))
    assert list(fused.log.failures) == [1]
    assert "not finite at step 1" in fused.log.failures[1]
    prompts = evaluation_prompts(task, "random", limit=5)
    scores = evaluate(fused, prompts, batch_size=9)
    for run in (0, 2):
        alone = method.adapt(backbone, task, [draws[run]], recipe(batch_size=2))
        start = method.prepare(backbone, [SEEDS[run]]).for_inference().delta.state_of(0)
        assert assert_same_runs(fused, alone, run, start) > 1e-4
        assert fused.log.shapes[run] == alone.log.shapes[0]
        for together, separate in zip(scores[run], evaluate(alone, prompts, batch_size=7)[0], strict=True):
            assert together.prompt == separate.prompt
            assert together.log_likelihoods == pytest.approx(separate.log_likelihoods, rel=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_fused_runs_equal_separate_runs_on_a_decoder_with_adamw(backbones, double, variant):
    backbone, task = doubled(backbones["llama"]), toy_task()
    method = replace(VARIANTS[variant], steps=8, learning_rate=0.01)
    draws = [draw(task, seed, shots) for seed, shots in zip(SEEDS[:2], SHOTS, strict=False)]
    settings = recipe(batch_size=2, optimizer="adamw")
    fused = method.adapt(backbone, task, draws, settings)
    alone = method.adapt(backbone, task, draws[1:], settings)
    start = method.prepare(backbone, SEEDS[1:2]).for_inference().delta.state_of(0)
    assert assert_same_runs(fused, alone, 1, start) > 1e-4


@pytest.mark.parametrize("kind", [kind for kind, m in METHODS.items() if issubclass(m, TrainedMethod) and not m.fuses])
def test_what_cannot_be_fused_says_so(backbones, kind):
    with pytest.raises(ValueError, match="one run at a time"):
        METHODS[kind](name=kind).prepare(backbones["t5"], SEEDS)


@pytest.mark.parametrize("variant", ["ia3", "lora", "prompt"])
def test_fused_runs_equal_separate_runs_on_the_shipped_model(variant):
    """A trained model, a task of its world: the same parameters, and the same scores.

    Left out are queries and keys of the decoder's self-attention. It is saturated, their gradients are rounding noise,
    and Adafactor normalises noise into steps of full size, fused or not; what they do to the scores is nil.
    """
    backbone = load_backbone("micro_t0", "microworld:micro_t0")
    task = load_task(DatasetConfig(name="micro_rte", source="microworld"))
    prompts = evaluation_prompts(task, "random", limit=32)
    method = replace(VARIANTS[variant], steps=20, learning_rate=3e-3)
    few_shot_sets = [draw(task, seed) for seed in SEEDS]
    fused = method.adapt(backbone, task, few_shot_sets, recipe(batch_size=8))
    scores = evaluate(fused, prompts, batch_size=96)
    for run, few_shot in enumerate(few_shot_sets):
        alone = method.adapt(backbone, task, [few_shot], recipe(batch_size=8))
        for name, value in alone.delta.state_of(0).items():
            if not re.search(r"decoder.*SelfAttention\.[qk]\.", name):
                assert relative_difference(fused.delta.state_of(run)[name], value) < 1e-4, name
        for together, separate in zip(scores[run], evaluate(alone, prompts, batch_size=32)[0], strict=True):
            assert together.log_likelihoods == pytest.approx(separate.log_likelihoods, rel=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in NOT_THE_IDENTITY])
def test_a_fresh_delta_leaves_the_model_unchanged(backbones, architecture, variant):
    """All but prefix tuning start as the identity; a prefix takes attention from the first step."""
    backbone = backbones[architecture]
    rows = [encode(backbone, prompt) for prompt in evaluation_prompts(toy_task(4), "random")]
    batch = collate(rows * 2, backbone.pad_id)
    adaptation = VARIANTS[variant].prepare(backbone, (1, 2))
    with torch.inference_mode():
        before = token_log_probabilities(backbone, batch)
        with adaptation.attached():
            during = token_log_probabilities(backbone, batch)
        after = token_log_probabilities(backbone, batch)
    assert (during - before).abs().max() < 1e-6
    assert torch.equal(after, before)


@pytest.mark.parametrize("architecture", ["t5", "gpt2"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_trainable_parameter_learns(backbones, architecture, variant):
    """Two steps move every parameter of every run, and nearly all of its elements (a relu unit may be dead)."""
    backbone, task = backbones[architecture], toy_task()
    steps = 4 if variant == "intrinsic_said" else 2  # there the first step moves part of θ only
    method = replace(VARIANTS[variant], steps=steps, learning_rate=0.05)
    start = method.prepare(backbone, SEEDS[:2]).for_inference()
    end = method.adapt(
        backbone, task, [draw(task, seed) for seed in SEEDS[:2]], recipe(warmup_fraction=0.0, batch_size=2)
    )
    for run in range(2):
        for name, value in end.delta.state_of(run).items():
            if name.endswith(".seed") or name.endswith(".k.bias"):  # softmax ignores a bias of keys
                continue
            share = (value != start.delta.state_of(run)[name]).float().mean().item()
            assert share > (0.4 if variant.startswith(("adapter", "compacter", "unipelt")) else 0.97), (name, share)
