"""Correlations of numbers: Pearson's of the values, Spearman's of their ranks.

Both are 0 where the answers or the references are all equal, and NaN if a value is NaN.

How Spearman is bootstrapped: ranks are computed once, over all evaluated items, and a draw keeps the ranks of the
items it draws. So the interval is that of Pearson's correlation of these ranks; ranking every draw anew would differ
by terms of order 1/N only, but could not be a sum over items.
"""

import numpy as np
from numpy.typing import ArrayLike

from adaptbench.metrics.base import Array, Metric, Values, ratio, register

ROUNDING = 1e-12  # a variance below this share of the mean square is zero: what rounding leaves of equal values


def moments(answer: ArrayLike, reference: ArrayLike, classes: int) -> Array:
    """(6,): 1, x, y, x^2, y^2, xy."""
    x, y = np.asarray(answer, dtype=float), np.asarray(reference, dtype=float)
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)


def pearson(sums: Array) -> Array:
    """(..., 6) -> (...) in [-1, 1]."""
    items = sums[..., :1]
    x, y, xx, yy, xy = np.moveaxis(ratio(sums[..., 1:], items), -1, 0)
    of_x, of_y = xx - x * x, yy - y * y
    degenerate = (items[..., 0] == 0) | (of_x <= ROUNDING * xx) | (of_y <= ROUNDING * yy)
    # A product of roots: the product of two small variances may be too small for a float.
    scale = np.sqrt(np.maximum(of_x, 0)) * np.sqrt(np.maximum(of_y, 0))
    return np.where(degenerate, 0.0, np.clip(ratio(xy - x * y, scale), -1, 1))


def standardise(values: Values) -> Array:
    """(N,) -> (N,) within [-1, 1] about their mean: a correlation is the same, and its moments do not cancel."""
    numbers = np.asarray(values, dtype=float)
    centred = numbers - numbers.mean()  # equal values that rounding sets off their mean stay equal
    return ratio(centred, np.abs(centred).max())


def ranks(values: Values) -> Array:
    """(N,) -> (N,) ranks from 1, equal values sharing their average; all NaN if one value is."""
    numbers = np.asarray(values, dtype=float)
    if np.isnan(numbers).any():
        return np.full_like(numbers, np.nan)
    _, position, count = np.unique(numbers, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[position]


def standardised(answers: Values, references: Values) -> tuple[Array, Array]:
    """Pearson's `prepare`."""
    return standardise(answers), standardise(references)


def ranked(answers: Values, references: Values) -> tuple[Array, Array]:
    """Spearman's `prepare`."""
    return standardised(ranks(answers), ranks(references))


register(Metric("pearson", "Pearson", "number", moments, pearson, prepare=standardised, lowest=-1.0, broadcasts=True))
register(Metric("spearman", "Spearman", "number", moments, pearson, prepare=ranked, lowest=-1.0, broadcasts=True))
