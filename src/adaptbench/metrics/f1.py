"""F1 of labels: 2 TP / (predicted + actual), of class 1, of all classes together, or its mean over the classes.

Equal to scikit-learn's f1_score with labels=range(classes) and zero_division=0.
"""

from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from adaptbench.metrics.base import Array, Metric, one_hot, ratio, register, share_of_choices


def by_class(answer: ArrayLike, label: ArrayLike, classes: int) -> Array:
    """(3C,): of every class the true positives, then the predictions, then the items."""
    predicted, actual = one_hot(answer, classes), one_hot(label, classes)
    return np.concatenate([predicted * actual, predicted, actual], axis=-1)


def over_classes(answer: ArrayLike, label: ArrayLike, classes: int) -> Array:
    """(3,): `by_class` summed over the classes. An answer that is no class is an item without a prediction."""
    counts = by_class(answer, label, classes)
    return counts.reshape(*counts.shape[:-1], 3, classes).sum(axis=-1)


def of_class_one(answer: ArrayLike, label: ArrayLike, classes: int) -> Array:
    """(3,): `by_class` of class 1."""
    predicted, actual = np.equal(answer, 1), np.equal(label, 1)
    return np.stack([predicted & actual, predicted, actual], axis=-1).astype(float)


def f1(sums: Array) -> Array:
    """(..., 3) -> (...); 0 where the class neither occurs nor is predicted."""
    return ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def macro(sums: Array) -> Array:
    """(..., 3C) -> (...): the mean over all C classes.

    A class that neither occurs nor is predicted counts as 0, as in scikit-learn. So a data set (or a bootstrap draw)
    that lacks a class cannot reach 1.
    """
    true_positives, predicted, actual = np.split(sums, 3, axis=-1)
    return ratio(2 * true_positives, predicted + actual).mean(axis=-1)


BY_CLASS = partial(Metric, answers="label", by_class=True, broadcasts=True)
register(BY_CLASS("f1", "F1", statistics=of_class_one, aggregate=f1, binary=True))
# Equal to accuracy where every answer is one of the classes, and so is its chance level.
register(BY_CLASS("f1_micro", "micro-F1", statistics=over_classes, aggregate=f1, chance=share_of_choices))
register(BY_CLASS("f1_macro", "macro-F1", statistics=by_class, aggregate=macro))
