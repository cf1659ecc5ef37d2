"""Tuners of Hugging Face PEFT in training: independent of the batch, seen by the optimizer, billed, in float32."""

from dataclasses import replace

import pytest
import torch

from adaptbench.costs.flops import count
from adaptbench.costs.memory import train_memory
from adaptbench.costs.meta import MetaRun
from adaptbench.data.batching import Shape, collate, encode
from adaptbench.data.fewshot import draw
from adaptbench.errors import InputError
from adaptbench.methods.base import Adaptation
from adaptbench.methods.peft_tuners import READ_VALUES
from adaptbench.models.backbone import load_backbone
from adaptbench.scoring.rank import token_log_probabilities
from adaptbench.training.loop import train
from adaptbench.training.losses import per_run_loss
from tests.factories import recipe, toy_task
from tests.methods.peft_types import MODELS, PROMPTS, RANDOM, RUN, SOME, TYPES, method, prepared, scores


def gradients(adaptation: Adaptation, rows) -> list[torch.Tensor]:
    """Of the sum over rows of a row's loss."""
    backbone = adaptation.backbone
    batch = collate(rows, backbone.pad_id)
    backbone.model.train()
    log_p = token_log_probabilities(backbone, batch)
    names = ["lm", "unlikelihood", "length_normalized"]
    loss = per_run_loss(names, log_p, batch.target_mask, batch.label, 1)[0] * len(rows)
    found = torch.autograd.grad(loss, adaptation.parameters, allow_unused=True)
    backbone.model.eval()
    zeros = map(torch.zeros_like, adaptation.parameters)
    return [zero if gradient is None else gradient for gradient, zero in zip(found, zeros, strict=True)]


@pytest.mark.parametrize(("kind", "model"), [cell for cell in SOME if cell[0] not in RANDOM])
def test_a_rows_gradient_does_not_depend_on_the_rows_beside_it(backbones, kind, model):
    adaptation = prepared(kind, backbones[model])
    rows = [encode(adaptation.backbone, prompt) for prompt in PROMPTS[:4]]
    together = gradients(adaptation, rows)
    each = [gradients(adaptation, [row]) for row in rows]
    scale = max(gradient.abs().max() for gradient in together)
    assert scale > 0
    for index, gradient in enumerate(together):
        assert (gradient - sum(alone[index] for alone in each)).abs().max() < 1e-4 * max(scale, 1)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "VBLORA", "OFT", "ADAPTION_PROMPT"])
def test_training_does_not_depend_on_how_rows_are_laid_out_in_passes(backbones, kind):
    """Passes of one row each and a pass of all follow the same path."""
    task, ends = toy_task(), []
    for limit in (1, 10**9):  # bytes of logits in a pass
        backbone = replace(backbones["llama"], logits_limit=limit)
        trained = replace(method(kind), steps=3, learning_rate=0.01)
        adaptation = trained.adapt(backbone, task, [draw(task, 1)], recipe(optimizer="adamw", warmup_fraction=0.0))
        ends.append(scores(adaptation, 8))
    assert (ends[0] - ends[1]).abs().max() < 1e-4


@pytest.mark.parametrize(("kind", "model"), SOME)
def test_every_type_that_runs_has_a_bill(backbones, kind, model):
    run = MetaRun.of(method(kind), backbones[model], recipe())
    assert run.adaptation.trainable == prepared(kind, backbones[model]).trainable
    shape = Shape(2, 6, 3, 3)
    assert count(lambda: run.forward_backward(shape)) > count(lambda: run.predict(shape)) > 0
    assert train_memory(run, shape).gradients > 0


@pytest.mark.parametrize(("kind", "model"), SOME)
def test_every_type_that_runs_is_trained(backbones, kind, model):
    """The model computes with what the optimizer changes."""
    start, trained = prepared(kind, backbones[model]), method(kind).prepare(backbones[model], (1,))
    for parameter, initial in zip(trained.parameters, start.parameters, strict=True):
        parameter.data.copy_(initial)
    task = toy_task()
    log = train(
        trained.backbone, trained.parameters, task, [draw(task, 1)], recipe(warmup_fraction=0.0),
        steps=2, learning_rate=0.1, run_axis=False,
    )  # fmt: skip
    assert not log.failures
    assert (scores(trained, 8) - scores(start, 8)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["LORA", "PROMPT_TUNING"])
@pytest.mark.parametrize("model", MODELS)
def test_counting_on_the_real_model_equals_counting_without_storage(backbones, kind, model):
    shape, counts = Shape(2, 9, 3, 4), []
    for backbone in (backbones[model].on_meta(), backbones[model]):
        run = MetaRun(method(kind).prepare(backbone, (0,)), recipe(), backbone)
        steps = count(lambda run=run: run.forward_backward(shape)), count(lambda run=run: run.predict(shape))
        counts.append((*steps, train_memory(run, shape)))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind in READ_VALUES and (kind, "llama") in RUN])
def test_a_type_that_computes_with_values_has_no_price_without_weights(backbones, kind):
    with pytest.raises(InputError, match="only with the model's weights"):
        method(kind).prepare(backbones["llama"].on_meta(), (0,))


HALF = ("ADAPTION_PROMPT", "LN_TUNING", "LORA", "PROMPT_TUNING", "SHADOW")


@pytest.mark.parametrize("kind", HALF)
def test_on_a_half_precision_model_training_is_in_single_precision(model_folders, kind):
    """PEFT's parameters are float32, or the optimizer's masters are: steps of 1e-4 are not rounded away."""
    task, folder = toy_task(), model_folders["llama"]
    moved = {}
    for dtype in ("float32", "bfloat16"):
        backbone = load_backbone.__wrapped__("llama", str(folder), dtype)
        trained = replace(method(kind), steps=30, learning_rate=1e-4, scale_parameter=False)
        start = trained.prepare(backbone, (1,))
        end = trained.adapt(backbone, task, [draw(task, 1)], recipe(warmup_fraction=0.0))
        pairs = zip(start.parameters, end.parameters, strict=True)
        moved[dtype] = sum((a.float() - b.float()).square().sum() for a, b in pairs).sqrt().item()
        if kind != "ADAPTION_PROMPT":
            assert {parameter.dtype for parameter in end.parameters} == {torch.float32}
    assert moved["bfloat16"] == pytest.approx(moved["float32"], rel=0.5 if kind == "ADAPTION_PROMPT" else 0.1)
