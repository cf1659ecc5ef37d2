"""Per-run optimizers against the reference ones, run by run; clipping and failures stay within a run."""

import pytest
import torch
from torch import nn
from transformers import Adafactor as ReferenceAdafactor
from transformers import get_linear_schedule_with_warmup

from adaptbench.training import large_matrices
from adaptbench.training.optim import Adafactor, AdamW, RunOptimizer, linear_schedule

SHAPES = ((6, 4), (1, 7), (3, 2, 5), (6, 4))


def gradients(step: int, run: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * step + run)
    return [torch.randn(shape, generator=generator).double() * (run + 1) for shape in SHAPES]


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("scale_parameter", [True, False])
@pytest.mark.parametrize("kind", ["adafactor", "adamw"])
def test_every_run_follows_the_reference_optimizer(kind, scale_parameter, runs):
    """100 steps of one or three runs at once against as many reference optimizers, on vectors, matrices and stacks."""
    torch.manual_seed(0)
    lr = 0.01
    stacked = [nn.Parameter(torch.randn(runs, *shape, dtype=torch.float64)) for shape in SHAPES]
    alone = [[nn.Parameter(parameter[run].detach().clone()) for parameter in stacked] for run in range(runs)]
    if kind == "adafactor":
        update = Adafactor(scale_parameter)
        references = [
            ReferenceAdafactor(vectors, lr=lr, scale_parameter=scale_parameter, relative_step=False, warmup_init=False)
            for vectors in alone
        ]
    else:
        update = AdamW()
        references = [torch.optim.AdamW(vectors, lr=lr, weight_decay=0.0) for vectors in alone]
    ours = RunOptimizer(stacked, update, runs)
    alive = torch.ones(runs, dtype=torch.bool)
    for step in range(100):
        ours.zero_grad()
        for run in range(runs):
            for parameter, vector, grad in zip(stacked, alone[run], gradients(step, run), strict=True):
                parameter.grad[run] += grad
                vector.grad = grad.clone()
            references[run].step()
        ours.step(lr, clip_norm=float("inf"), alive=alive)
    for run in range(runs):
        for parameter, vector in zip(stacked, alone[run], strict=True):
            assert (parameter[run] - vector).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("update", [Adafactor(), Adafactor(False), AdamW(), AdamW(weight_decay=0.1)], ids=repr)
def test_a_large_matrix_moves_in_pieces_as_in_one(update, dtype, monkeypatch):
    """Pieces of three rows, and a last one of two; its gradient is clipped."""
    moved = []
    for large in (True, False):
        monkeypatch.setattr(large_matrices, "PIECE", 3 * 17)
        monkeypatch.setattr(large_matrices, "LARGE", 1 if large else 10**9)
        torch.manual_seed(0)
        weight, bias = nn.Parameter(torch.randn(20, 17).to(dtype)), nn.Parameter(torch.randn(17).to(dtype))
        optimizer = RunOptimizer([weight, bias], update, 1, run_axis=False)
        for step in range(6):
            optimizer.zero_grad()
            generator = torch.Generator().manual_seed(step)
            weight.grad += torch.randn(20, 17, generator=generator).to(dtype)
            bias.grad += 1
            optimizer.step(0.05, clip_norm=1.0, alive=torch.ones(1, dtype=torch.bool))
        moved.append(weight.detach().float())
    torch.manual_seed(0)
    start = torch.randn(20, 17).to(dtype).float()
    assert (moved[0] - moved[1]).abs().max() <= (1e-6 if dtype == torch.float32 else 0.02)
    assert (moved[0] - start).abs().mean() > 0.01


def test_a_models_own_weights_are_trained_in_place():
    model = nn.Linear(3, 2)
    storage = model.weight.data_ptr()
    reference = nn.Linear(3, 2)
    reference.load_state_dict(model.state_dict())
    ours = RunOptimizer(list(model.parameters()), Adafactor(), 1, run_axis=False)
    theirs = ReferenceAdafactor(reference.parameters(), lr=0.1, scale_parameter=True, relative_step=False)
    x = torch.randn(4, 3)
    for _ in range(5):
        ours.zero_grad()
        model(x).square().sum().backward()
        ours.step(0.1, float("inf"), torch.ones(1, dtype=torch.bool))
        theirs.zero_grad()
        reference(x).square().sum().backward()
        theirs.step()
    assert torch.allclose(model.weight, reference.weight, atol=1e-6)
    assert torch.allclose(model.bias, reference.bias, atol=1e-6)
    assert model.weight.data_ptr() == storage


def test_gradients_are_clipped_run_by_run():
    """A run with a huge gradient must not shrink the step of its neighbour."""

    def sgd(value, grad, state, step, lr):
        return lr * grad

    parameter = nn.Parameter(torch.zeros(2, 1, 3))
    optimizer = RunOptimizer([parameter], sgd, 2)
    parameter.grad[0] = torch.tensor([0.3, 0.0, 0.4])
    parameter.grad[1] = torch.tensor([30.0, 0.0, 40.0])
    assert optimizer.grad_norms().tolist() == pytest.approx([0.5, 50.0])
    optimizer.step(1.0, clip_norm=1.0, alive=torch.ones(2, dtype=torch.bool))
    assert parameter[0, 0].tolist() == pytest.approx([-0.3, 0.0, -0.4])
    assert parameter[1, 0].tolist() == pytest.approx([-0.6, 0.0, -0.8], rel=1e-5)


def test_a_run_without_finite_gradient_stops_alone():
    parameter = nn.Parameter(torch.ones(2, 1, 3))
    optimizer = RunOptimizer([parameter], AdamW(), 2)
    parameter.grad[0] = 1.0
    parameter.grad[1] = float("nan")
    alive = optimizer.step(0.1, 1.0, torch.ones(2, dtype=torch.bool))
    assert alive.tolist() == [True, False]
    assert (parameter[0] < 1).all()
    assert (parameter[1] == 1).all()


@pytest.mark.parametrize(("steps", "fraction"), [(100, 0.06), (200, 0.06), (90, 0.06), (10, 0.0), (1, 0.06)])
def test_the_schedule_is_transformers_linear_one(steps, fraction):
    """With a warm-up that is not rounded to whole steps, as the T-Few authors call it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = get_linear_schedule_with_warmup(optimizer, steps * fraction, steps)
    for step in range(steps):
        assert linear_schedule(step, steps, fraction) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
