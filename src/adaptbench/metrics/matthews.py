"""Matthews correlation of any number of classes: R_K of Gorodkin (2004), as scikit-learn's matthews_corrcoef."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from adaptbench.metrics.base import Array, Metric, one_hot, ratio, register

ROUNDING = 1e-12  # a variance below this share of its largest value is zero: one odd item in a million has 2e-6


def margins(answer: ArrayLike, label: ArrayLike, classes: int) -> Array:
    """(2 + 2C,): hit, 1, the predicted class, the actual class."""
    right = np.equal(answer, label).astype(float)[..., None]
    return np.concatenate([right, np.ones_like(right), one_hot(answer, classes), one_hot(label, classes)], axis=-1)


def correlation(sums: Array) -> Array:
    """(..., 2 + 2C) -> (...) in [-1, 1]; 0 where all predictions or all labels are of one class.

    Answers that are no class count as one more class.
    """
    hits, items, counts = sums[..., :1], sums[..., 1:2], sums[..., 2:]
    predicted, actual = np.split(ratio(counts, items), 2, axis=-1)  # shares of the classes
    predicted = np.concatenate([predicted, np.maximum(1 - predicted.sum(axis=-1, keepdims=True), 0)], axis=-1)
    covariance = ratio(hits, items)[..., 0] - (predicted[..., :-1] * actual).sum(axis=-1)
    variances = (1 - (predicted**2).sum(axis=-1)), (1 - (actual**2).sum(axis=-1))
    degenerate = (np.minimum(*variances) <= ROUNDING) | (items[..., 0] == 0)
    correlated = ratio(covariance, np.sqrt(np.maximum(variances[0] * variances[1], 0)))
    return np.where(degenerate, 0.0, np.clip(correlated, -1, 1))


def no_correlation(choices: Sequence[int]) -> float:
    """Chance: renaming the classes of uniform guesses leaves their distribution as it is and sums to no covariance."""
    return 0.0


register(
    Metric(
        "matthews",
        "Matthews",
        "label",
        margins,
        correlation,
        chance=no_correlation,
        lowest=-1.0,
        by_class=True,
        broadcasts=True,
    )
)
