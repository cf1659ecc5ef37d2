"""Training in bfloat16 finds what training in float32 finds: steps too small for a bfloat16 weight are not lost."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from adaptbench.costs.memory import Memory, train_memory
from adaptbench.costs.meta import MetaRun
from adaptbench.data.batching import Shape
from adaptbench.data.fewshot import draw
from adaptbench.methods import METHODS
from adaptbench.methods.base import TrainedMethod
from adaptbench.models.backbone import Backbone
from adaptbench.training.optim import RunOptimizer
from tests.factories import recipe, toy_task
from tests.methods.roster import VARIANTS

WHOLE = ("full_ft", "fish_mask", "hf_peft")  # one run at a time


def in_half(backbone: Backbone) -> Backbone:
    return replace(backbone, model=copy.deepcopy(backbone.model).bfloat16(), dtype=torch.bfloat16)


def method(name: str) -> TrainedMethod:
    if name not in WHOLE:
        return replace(VARIANTS[name], steps=40, learning_rate=1e-2, scale_parameter=False)
    rate = {"full_ft": 3e-3, "fish_mask": 1e-1, "hf_peft": 1e-2}[name]
    return METHODS[name](name=name, steps=40, learning_rate=rate, scale_parameter=name != "hf_peft")


def losses(method: TrainedMethod, backbone: Backbone) -> Tensor:
    """(steps, R) training losses."""
    task = toy_task()
    sets = [draw(task, seed, 16) for seed in range(8 if method.fuses else 3)]
    groups = [sets] if method.fuses else [[few_shot] for few_shot in sets]
    logs = [method.adapt(backbone, task, group, recipe()).log for group in groups]
    return torch.cat([torch.tensor(log.losses) for log in logs], dim=1)


@pytest.mark.parametrize("name", [*VARIANTS, *WHOLE])
def test_the_loss_in_bfloat16_is_that_in_float32(name, backbones):
    """Averaged over steps and runs: single runs differ by luck, since every product is rounded otherwise."""
    single, half = (losses(method(name), backbone) for backbone in (backbones["t5"], in_half(backbones["t5"])))
    assert single[-5:].mean() < 0.9 * single[0].mean()  # it trains
    assert half.mean().item() == pytest.approx(single.mean().item(), rel=0.02)
    assert half[-5:].mean().item() == pytest.approx(single[-5:].mean().item(), rel=0.05)


def test_steps_below_the_precision_of_a_weight_add_up():
    """Half a unit in the last place of a bfloat16 one is 2^-9: a step of 3e-4 is lost unless a master remembers it."""
    weight = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    optimizer = RunOptimizer([weight], lambda value, grad, state, step, lr: lr.expand_as(value), 1, False)
    for _ in range(100):
        optimizer.step(3e-4, clip_norm=1.0, alive=torch.ones(1, dtype=torch.bool))
    assert weight.dtype == torch.bfloat16
    assert weight.float().unique().tolist() == [torch.tensor(1 - 100 * 3e-4).bfloat16().item()]


def test_masters_of_half_precision_weights_are_on_the_bill(backbones):
    """Four bytes for the master of every weight, beside the statistics, which are the same in both."""

    def held(backbone: Backbone) -> Memory:
        run = MetaRun.of(METHODS["full_ft"](name="full_ft"), backbone, recipe())
        return train_memory(run, Shape(rows=4, source=8, choices=2, target=2))

    single, half = held(backbones["t5"]), held(in_half(backbones["t5"]))
    weights = sum(parameter.numel() for parameter in backbones["t5"].model.parameters())
    assert 2 * half.weights == single.weights
    assert 2 * half.gradients == single.gradients
    assert half.optimizer - single.optimizer == 4 * weights
