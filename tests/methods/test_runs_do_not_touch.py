"""R runs trained in one pass equal R runs trained alone; what they add starts as nothing and all of it learns."""

import re
from dataclasses import replace

import pytest
import torch

from adaptbench.config import DatasetConfig
from adaptbench.data.batching import collate, encode
from adaptbench.data.fewshot import draw
from adaptbench.data.sources import load_task
from adaptbench.models.backbone import load_backbone
from adaptbench.scoring.evaluate import evaluate
from adaptbench.scoring.rank import token_log_probabilities
from adaptbench.training.stream import evaluation_prompts
from tests.conftest import ARCHITECTURES
from tests.factories import recipe, toy_task
from tests.methods.roster import NOT_THE_IDENTITY, VARIANTS

SEEDS = (3, 11, 7)


def trained(method, backbone, seeds, task, **settings):
    method = replace(method, steps=20, learning_rate=0.03 if settings.get("optimizer") != "adamw" else 0.01)
    return method.adapt(backbone, task, [draw(task, seed) for seed in seeds], recipe(**settings))


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).item()


@pytest.mark.parametrize("architecture", ["t5", "llama"])
@pytest.mark.parametrize("optimizer", ["adafactor", "adamw"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_fused_runs_equal_separate_runs(backbones, architecture, optimizer, variant):
    backbone, task = backbones[architecture], toy_task()
    fused = trained(VARIANTS[variant], backbone, SEEDS, task, optimizer=optimizer)
    start = VARIANTS[variant].prepare(backbone, SEEDS)
    moved = 0.0
    for run, seed in enumerate(SEEDS):
        alone = trained(VARIANTS[variant], backbone, [seed], task, optimizer=optimizer)
        for name, value in alone.delta.state_of(0).items():
            assert relative_difference(fused.delta.state_of(run)[name], value) < 1e-4, name
            moved = max(moved, (value - start.delta.state_of(run)[name]).abs().max().item())
        assert fused.log.shapes[run] == alone.log.shapes[0]
    assert moved > 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
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
        for one, other in zip(scores[run], evaluate(alone, prompts, batch_size=32)[0], strict=True):
            assert one.log_likelihoods == pytest.approx(other.log_likelihoods, rel=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_fused_evaluation_equals_separate_evaluation(backbones, variant):
    backbone, task = backbones["t5"], toy_task()
    prompts = evaluation_prompts(task, "random")
    fused = evaluate(trained(VARIANTS[variant], backbone, SEEDS, task), prompts, batch_size=10)
    for run, seed in enumerate(SEEDS):
        alone = evaluate(trained(VARIANTS[variant], backbone, [seed], task), prompts, batch_size=7)[0]
        for one, other in zip(fused[run], alone, strict=True):
            assert one.prompt == other.prompt
            assert one.log_likelihoods == pytest.approx(other.log_likelihoods, rel=1e-3, abs=1e-3)


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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_trainable_parameter_learns(backbones, architecture, variant):
    """Two steps move every parameter of every run, and nearly all of its elements (a relu unit may be dead)."""
    backbone, task = backbones[architecture], toy_task()
    method = replace(VARIANTS[variant], steps=2, learning_rate=0.05)
    start = method.prepare(backbone, SEEDS)
    end = method.adapt(backbone, task, [draw(task, seed) for seed in SEEDS], recipe(warmup_fraction=0.0))
    for run in range(len(SEEDS)):
        for name, value in end.delta.state_of(run).items():
            share = (value != start.delta.state_of(run)[name]).float().mean().item()
            assert share > (0.4 if "adapter" in variant else 0.97), (name, share)


def test_a_diverging_run_is_reported_and_the_others_do_not_notice(backbones):
    backbone, task = backbones["t5"], toy_task()
    method = VARIANTS["ia3"]
    healthy = trained(method, backbone, [SEEDS[0], SEEDS[2]], task)

    class Poisoned(type(method)):
        def prepare(self, backbone, seeds):
            adaptation = super().prepare(backbone, seeds)
            with torch.no_grad():
                for parameter in adaptation.delta.parameters():
                    parameter[1] = float("nan")
            return adaptation

    poisoned = trained(Poisoned(), backbone, SEEDS, task)
    assert list(poisoned.log.failures) == [1]
    assert "not finite at step 1" in poisoned.log.failures[1]
    for ours, theirs in ((0, 0), (2, 1)):
        for name, value in healthy.delta.state_of(theirs).items():
            assert relative_difference(poisoned.delta.state_of(ours)[name], value) < 1e-4
