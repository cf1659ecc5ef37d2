"""The paper's three losses (section 3.2), each with one value per run.

Every function takes the log-probabilities of all choices' tokens and reduces within a run only: first over an
example as the equations say, then the mean over the run's examples.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CERTAIN = -1e-6  # log p above this would make log(1 - p) infinite


def lm(log_p: Tensor, mask: Tensor, label: Tensor) -> Tensor:
    """L_LM = -1/T sum_t log p(y_t | x, y_<t), of the right choice (equation 1).

    Args:
        log_p: (N, C, T) log-probability of each token of each choice.
        mask: (N, C, T) True where a token is.
        label: (N,) the right choice.

    Returns:
        (N,) losses.
    """
    return -_choice_means(log_p, mask).gather(1, label[:, None])[:, 0]


def unlikelihood(log_p: Tensor, mask: Tensor, label: Tensor) -> Tensor:
    """L_UL = -sum_n sum_t log(1 - p(y^n_t | x, y^n_<t)) / sum_n T^n, over the wrong choices (equation 2).

    Shapes as in `lm`.
    """
    wrong = mask.clone()
    wrong[torch.arange(len(label), device=label.device), label] = False
    log_not_p = torch.log(-torch.expm1(log_p.clamp(max=CERTAIN)))
    return -(log_not_p * wrong).sum((1, 2)) / wrong.sum((1, 2))


def length_normalized(log_p: Tensor, mask: Tensor, label: Tensor) -> Tensor:
    """L_LN = -log softmax over choices of beta = 1/T sum_t log p, at the right one (equations 3 and 4).

    Shapes as in `lm`.
    """
    beta = _choice_means(log_p, mask).masked_fill(~mask.any(2), -torch.inf)
    return torch.nn.functional.cross_entropy(beta, label, reduction="none")


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "lm": lm,
    "unlikelihood": unlikelihood,
    "length_normalized": length_normalized,
}


def per_run_loss(names: Sequence[str], log_p: Tensor, mask: Tensor, label: Tensor, runs: int) -> Tensor:
    """(R,) sum of the named losses, each the mean over the examples of its run alone."""
    total = torch.stack([LOSSES[name](log_p, mask, label) for name in names]).sum(0)
    return total.view(runs, -1).mean(1)


def _choice_means(log_p: Tensor, mask: Tensor) -> Tensor:
    """(N, C) mean log-probability per token of each choice; 0 for an empty choice."""
    return (log_p * mask).sum(2) / mask.sum(2).clamp(min=1)
