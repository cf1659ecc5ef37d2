"""The losses against hand-computed values: unequal lengths, one-token and many-token choices, padding."""

import math

import pytest
import torch

from adaptbench.training.losses import LOSSES, per_run_loss

# Two examples, three choices; probabilities of each token. The second example has only two choices.
P = [[[0.5], [0.25, 0.5], [0.1, 0.2, 0.4]], [[0.9, 0.8], [0.3]]]
LABEL = [1, 0]


def tensors():
    log_p = torch.zeros(2, 3, 3, dtype=torch.float64)
    mask = torch.zeros(2, 3, 3, dtype=torch.bool)
    for n, choices in enumerate(P):
        for c, tokens in enumerate(choices):
            log_p[n, c, : len(tokens)] = torch.tensor([math.log(p) for p in tokens], dtype=torch.float64)
            mask[n, c, : len(tokens)] = True
    return log_p, mask, torch.tensor(LABEL)


def by_hand(name: str, n: int) -> float:
    choices, right = P[n], LABEL[n]
    means = [sum(map(math.log, tokens)) / len(tokens) for tokens in choices]
    if name == "lm":
        return -means[right]
    if name == "unlikelihood":
        wrong = [p for c, tokens in enumerate(choices) if c != right for p in tokens]
        return -sum(math.log(1 - p) for p in wrong) / len(wrong)
    return -means[right] + math.log(sum(math.exp(mean) for mean in means))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_hand_computed_values(name):
    values = LOSSES[name](*tensors())
    assert values.tolist() == pytest.approx([by_hand(name, 0), by_hand(name, 1)], abs=1e-12)


def test_a_run_averages_its_own_examples_only():
    log_p, mask, label = tensors()
    together = per_run_loss(list(LOSSES), log_p, mask, label, runs=1)
    apart = per_run_loss(list(LOSSES), log_p, mask, label, runs=2)
    assert together.shape == (1,)
    assert apart.shape == (2,)
    assert together.item() == pytest.approx(apart.mean().item())
    assert apart[0].item() == pytest.approx(sum(by_hand(name, 0) for name in LOSSES))


@pytest.mark.parametrize("name", LOSSES)
def test_padding_gets_no_gradient_and_certainty_stays_finite(name):
    log_p, mask, label = tensors()
    log_p[1, 1, 0] = 0.0  # a wrong choice the model is certain of
    log_p.requires_grad_(True)
    LOSSES[name](log_p, mask, label).sum().backward()
    assert log_p.grad.isfinite().all()
    assert (log_p.grad[~mask] == 0).all()
