"""Accuracy: the share of items that are answered rightly."""

import numpy as np
from numpy.typing import ArrayLike

from adaptbench.metrics.base import Array, Metric, mean, register, share_of_choices


def hit(answer: ArrayLike, label: ArrayLike, classes: int) -> Array:
    """(2,): right or wrong, and one item."""
    right = np.equal(answer, label).astype(float)
    return np.stack([right, np.ones_like(right)], axis=-1)


register(Metric("accuracy", "accuracy", "label", hit, mean, chance=share_of_choices, broadcasts=True))
