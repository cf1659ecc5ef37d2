"""A batch in several passes has the gradients of the batch in one: losses are per example, then their mean.

The released code trains on HellaSwag with batches of four, two of them accumulated, and on all else with eight.
"""

from dataclasses import replace

import pytest
import torch

from adaptbench.data.batching import Encoded, encode
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.methods import METHODS
from adaptbench.schema import RecipeConfig
from adaptbench.scoring.limits import PassSize
from adaptbench.tasks import choices
from adaptbench.tasks.choices import Choices
from adaptbench.training.log import TrainingLog
from adaptbench.training.loop import accumulate
from adaptbench.training.losses import LOSSES
from adaptbench.training.optim import Adafactor, RunOptimizer
from tests.factories import toy_task

PROMPTS = evaluation_prompts(toy_task(24, "yes ||| no ||| maybe not ||| the large red house"), "random")
ALL = list(LOSSES)
EIGHT = PassSize(rows=8)
CLOSE = 1e-6  # parts of both models compute in single precision, whatever the rest does
SIZES = {
    "4 x 2": PassSize(rows=4),
    "unequal parts": PassSize(rows=3),
    "rows": PassSize(rows=1),
    "two choices": PassSize(1, 2),
    "one choice": PassSize(3, 1),
}


@pytest.fixture
def precise(exact):
    """The models, and what is trained beside them, in double precision."""
    torch.set_default_dtype(torch.float64)
    yield exact
    torch.set_default_dtype(torch.float32)


def batches(backbone, runs):
    """Eight rows for every run, of unequal length, with unequal numbers of choices."""
    rows = [encode(backbone, prompt) for prompt in PROMPTS[: 8 * runs]]
    rows = [cut(row) if index % 3 == 0 else row for index, row in enumerate(rows)]
    return [rows[8 * run : 8 * run + 8] for run in range(runs)]


def cut(row: Encoded) -> Encoded:
    """The same with the first two choices."""
    return replace(row, choices=row.choices[:2], prompt=replace(row.prompt, label=row.prompt.label % 2))


def gradients(backbone, kind, names, size, runs):
    """The losses, and the gradient of every parameter, its leading axis the runs."""
    adaptation = METHODS[kind]().prepare(backbone, tuple(range(1, runs + 1)))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adaptation.parameters:
            parameter += 0.1 * torch.randn_like(parameter)
    optimizer = RunOptimizer(adaptation.parameters, Adafactor(), runs)
    log = TrainingLog(most=size)
    with adaptation.attached():
        losses = accumulate(
            Choices(),
            adaptation.backbone,
            batches(adaptation.backbone, runs),
            RecipeConfig(losses=list(names)),
            optimizer,
            log,
        )
    return losses, [parameter.grad.clone() for parameter in adaptation.parameters]


def assert_equal(found, expected, tolerance):
    """Losses, and gradients relative to the largest."""
    assert torch.allclose(found[0], expected[0], atol=tolerance, rtol=0)
    largest = max(gradient.abs().max() for gradient in expected[1])
    assert largest > 0
    for gradient, reference in zip(found[1], expected[1], strict=True):
        assert (gradient - reference).abs().max() < tolerance * largest


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("names", [*([name] for name in ALL), ALL], ids="+".join)
def test_two_passes_of_four_have_the_gradients_of_one_of_eight(precise, names, runs):
    whole = gradients(precise["t5"], "ia3", names, EIGHT, runs)
    assert_equal(gradients(precise["t5"], "ia3", names, SIZES["4 x 2"], runs), whole, CLOSE)


@pytest.mark.parametrize("kind", ["ia3", "lora", "prefix", "prompt"])
@pytest.mark.parametrize("model", ["t5", "llama"])
def test_gradients_do_not_depend_on_the_passes(precise, model, kind):
    """Nor on slices of choices, whose logits are computed twice."""
    whole = gradients(precise[model], kind, ALL, EIGHT, 2)
    for size in SIZES.values():
        assert_equal(gradients(precise[model], kind, ALL, size, 2), whole, CLOSE)


@pytest.mark.parametrize("model", ["t5", "llama"])
def test_single_precision_agrees_to_a_millionth(backbones, model):
    whole = gradients(backbones[model], "ia3", ALL, EIGHT, 3)
    assert_equal(gradients(backbones[model], "ia3", ALL, SIZES["4 x 2"], 3), whole, 2e-6)


def test_choices_that_do_not_share_a_pass_may_be_sliced(precise):
    backbone = replace(precise["llama"], packs_choices=False)
    whole = gradients(backbone, "ia3", ALL, EIGHT, 2)
    for size in SIZES.values():
        assert_equal(gradients(backbone, "ia3", ALL, size, 2), whole, CLOSE)


def test_dropout_is_the_same_when_a_slice_is_computed_again(precise, monkeypatch):
    """Or else gradients would belong to another loss: here they are those of the loss that was reported."""
    backbone = precise["t5"]
    dropouts = [module for module in backbone.model.modules() if isinstance(module, torch.nn.Dropout)]
    for module in dropouts:
        monkeypatch.setattr(module, "p", 0.3)
    adaptation = METHODS["ia3"]().prepare(backbone, (1,))
    optimizer = RunOptimizer(adaptation.parameters, Adafactor(), 1)
    (rows,) = batches(backbone, 1)

    def loss():
        torch.manual_seed(0)
        backbone.model.train()
        with adaptation.attached():
            value = accumulate(
                Choices(), backbone, [rows], RecipeConfig(losses=ALL), optimizer, TrainingLog(most=PassSize(1, 2))
            )
        backbone.model.eval()
        return value.item()

    start = loss()
    parameter = adaptation.parameters[0]
    direction = parameter.grad.clone()
    assert direction.norm() > 0
    expected, step = direction.square().sum().item(), 1e-4
    with torch.no_grad():
        parameter += step * direction
    assert (loss() - start) / step == pytest.approx(expected, rel=1e-2)


def test_a_pass_that_failed_leaves_no_gradient_behind(precise, monkeypatch):
    """Memory runs out in the second of two passes: the first one's gradients do not count twice."""
    whole = gradients(precise["t5"], "ia3", ALL, EIGHT, 2)
    calls, read = [], choices.in_slices

    def second_fails(backbone, batch, choices):
        calls.append(batch.targets.shape[0])
        if len(calls) == 2:
            raise torch.OutOfMemoryError
        return read(backbone, batch, choices)

    monkeypatch.setattr(choices, "in_slices", second_fails)
    assert_equal(gradients(precise["t5"], "ia3", ALL, PassSize(rows=4), 2), whole, CLOSE)
    assert calls == [8, 8, 4, 4, 4, 4], "rows over both runs"
