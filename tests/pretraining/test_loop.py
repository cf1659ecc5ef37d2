"""Learning rates, which parameters decay, and when a checkpoint is written."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from adaptbench.pretraining import loop
from adaptbench.pretraining.loop import Checkpoint, Pass, Trainee, learning_rate, optimizer_of, train
from adaptbench.schema import PretrainRecipe


def recipe(**changes) -> PretrainRecipe:
    return PretrainRecipe(**{"kind": "continued", "lr": 2.0, **changes})


def test_a_linear_schedule_warms_up_and_ends_at_nothing():
    given = recipe(schedule="linear", warmup_fraction=0.1)
    rates = [learning_rate(given, step, 20) for step in range(20)]
    assert rates[:3] == [1.0, 2.0, 2.0]
    assert rates[2:] == pytest.approx([2.0 * (20 - step) / 18 for step in range(2, 20)])
    assert learning_rate(given, 20, 20) == 0


def test_a_cosine_schedule_ends_at_a_fraction():
    given = recipe(warmup=4, final_lr_fraction=0.25)
    assert [learning_rate(given, step, 14) for step in (0, 3, 4)] == [0.5, 2.0, 2.0]
    assert learning_rate(given, 9, 14) == pytest.approx(2.0 * 0.625)
    assert learning_rate(given, 14, 14) == pytest.approx(0.5)


def test_matrices_decay_and_vectors_do_not():
    model = nn.ModuleDict({"lm_head": nn.Linear(3, 2), "dense": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    groups = optimizer_of(model, recipe(weight_decay=0.01, embedding_lr_factor=8.0, adam_epsilon=1e-6)).param_groups
    found = {
        name: (group["weight_decay"], group["factor"], group["eps"])
        for group in groups
        for parameter in group["params"]
        for name, own in model.named_parameters()
        if own is parameter
    }
    assert found == {
        "lm_head.weight": (0.01, 8.0, 1e-6),
        "lm_head.bias": (0.0, 8.0, 1e-6),
        "dense.weight": (0.01, 1.0, 1e-6),
        "dense.bias": (0.0, 1.0, 1e-6),
        "norm.weight": (0.0, 1.0, 1e-6),
        "norm.bias": (0.0, 1.0, 1e-6),
    }


@pytest.mark.parametrize(
    ("minutes", "kept"),
    [(0, [1, 2, 3, 4, 5, 6, 7]), (2.5, [3, 6, 7]), (10, [7])],
)
def test_checkpoints_are_minutes_apart_and_the_last_step_has_one(tmp_path, monkeypatch, minutes, kept):
    """A step takes a minute."""

    class Line(nn.Linear):
        device = torch.device("cpu")

    model, now, steps = Line(2, 1), [0.0], []

    def passes(step):
        now[0] += 60
        return [Pass(lambda: model(torch.ones(1, 2)).sum())]

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Checkpoint, "save", lambda self, content: steps.append(content["state"]["step"]))
    trainee = Trainee(model, model, 7, passes, save=lambda folder: None)
    train("toy", trainee, recipe(), Checkpoint(tmp_path / "toy.pt", minutes, {}), autocast=False)
    assert steps == kept
