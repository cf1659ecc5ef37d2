"""Estimates and their uncertainty, as small functions on arrays.

Letters: S seeds (few-shot draws), N evaluation items, D datasets, B bootstrap replicates, P pairs of methods.

The unit of evidence is the matrix `correct`, (S, N): was item n answered correctly after adaptation on draw s? Its
two axes are *crossed*: every seed answers the same items. So a replicate draws seeds and, independently, items, and
uses the same items for every seed. Drawing fresh items for every seed would let hard items average out, and the
interval would come out too narrow.
Datasets are not resampled: a claim is about the datasets that were run.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating]

REPLICATES = 5_000
RNG_SEED = 2205_05638  # fixed: the same records give the same intervals


def median_iqr(values: ArrayLike, axis: int = -1) -> tuple[Array, Array]:
    """Median and interquartile range along `axis` (the seeds): the two numbers of the paper's tables."""
    low, median, high = np.percentile(np.asarray(values, dtype=float), [25, 50, 75], axis=axis)
    return median, high - low


def iqm(values: ArrayLike) -> float:
    """Interquartile mean of all entries: the mean of what is left without the lowest and the highest quarter."""
    ordered = np.sort(np.asarray(values, dtype=float), axis=None)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def mean_over_seeds(accuracy: Array) -> Array:
    """(B, S) -> (B,)"""
    return accuracy.mean(axis=1)


def median_over_seeds(accuracy: Array) -> Array:
    """(B, S) -> (B,). By a full sort: for a handful of seeds this is several times faster than np.median."""
    ordered = np.sort(accuracy, axis=1)
    seeds = ordered.shape[1]
    return (ordered[:, (seeds - 1) // 2] + ordered[:, seeds // 2]) / 2


@lru_cache(maxsize=32)
def item_draws(items: int, replicates: int, rng_seed: int, stream: int) -> Array:
    """How often each item is drawn: (B, N) counts, every row adding up to N. Shared by all methods of a dataset."""
    rng = np.random.default_rng([rng_seed, stream])
    counts = np.empty((replicates, items), dtype=np.float32)
    block = max(1, 4_000_000 // items)  # keeps the scratch space of ten thousand items small
    for start in range(0, replicates, block):
        rows = min(block, replicates - start)
        drawn = rng.integers(0, items, size=(rows, items)) + items * np.arange(rows)[:, None]
        counts[start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items)
    counts.setflags(write=False)
    return counts


def hierarchical_bootstrap(
    cells: Sequence[Array],  # D matrices (S, N); S and N may differ between datasets
    over_seeds: Callable[[Array], Array] = median_over_seeds,  # (B, S) -> (B,)
    replicates: int = REPLICATES,
    rng_seed: int = RNG_SEED,
    few_seeds: bool = False,
) -> Array:
    """(B,) replicates of the mean over datasets of a statistic over seeds of the mean over items.

    With one seed only the items vary, with one item only the seeds do. Resampling S seeds shows (S - 1) / S of their
    variance; `few_seeds` scales what the seeds contribute to put the rest back, which the mean over three or five
    seeds needs. The median does not: its replicates are coarse and already spread too far.
    """
    total = np.zeros(replicates)
    for stream, cell in enumerate(cells):
        correct = np.asarray(cell, dtype=np.float32)
        seeds, items = correct.shape
        accuracy = (item_draws(items, replicates, rng_seed, stream) @ correct.T).astype(float) / items  # (B, S)
        rng = np.random.default_rng([rng_seed, stream, seeds])
        drawn = rng.integers(0, seeds, size=(replicates, seeds))
        these_seeds = over_seeds(accuracy)
        scale = np.sqrt(seeds / (seeds - 1)) if few_seeds and seeds > 1 else 1.0
        total += these_seeds + scale * (over_seeds(np.take_along_axis(accuracy, drawn, axis=1)) - these_seeds)
    return total / len(cells)


def percentile_interval(replicates: Array, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of (B,) replicates."""
    low, high = np.percentile(replicates, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def hierarchical_bootstrap_ci(
    cells: Sequence[Array],  # D matrices (S, N)
    level: float = 0.95,
    over_seeds: Callable[[Array], Array] = median_over_seeds,
    replicates: int = REPLICATES,
    rng_seed: int = RNG_SEED,
) -> tuple[float, float]:
    """Percentile interval of the mean over datasets of the median over seeds, resampling seeds and items."""
    return percentile_interval(hierarchical_bootstrap(cells, over_seeds, replicates, rng_seed), level)


def paired_difference(
    first: Sequence[Array],  # D matrices (S, N)
    second: Sequence[Array],  # D matrices of the same shapes: same seeds, same items, in the same order
    level: float = 0.95,
    replicates: int = REPLICATES,
    rng_seed: int = RNG_SEED,
) -> tuple[float, float, float, float]:
    """Difference of accuracy, its interval (low, high) and a two-sided p-value for "no difference".

    The estimate is the mean over datasets of the mean over seeds and items of first - second. Everything the two
    methods share (the draw, the item) cancels before resampling. The p-value is the share of replicates that lie at
    least as far from the estimate as zero does, so that it answers for both kinds of luck, in the draws and in the
    items. A sign-flip test over items takes the draws for granted, one over seeds takes the items for granted. Where no
    replicate lies so far out, the share is known only to be small, and the normal tail of the replicates' spread says
    how small: several hundred adjusted comparisons need to know.
    """
    cells = [np.asarray(a, dtype=float) - np.asarray(b, dtype=float) for a, b in zip(first, second, strict=True)]
    estimate = float(np.mean([cell.mean() for cell in cells]))
    drawn = hierarchical_bootstrap(cells, mean_over_seeds, replicates, rng_seed, few_seeds=True)
    # float32 item means: a replicate equal to the estimate up to rounding counts as equal
    beyond = int(np.sum(np.abs(drawn - estimate) >= abs(estimate) - 1e-6))
    low, high = percentile_interval(drawn, level)
    p = (1 + beyond) / (1 + replicates)
    if not beyond and (spread := float(drawn.std())) > 0:
        p = min(p, math.erfc(abs(estimate) / spread / math.sqrt(2)))
    return estimate, low, high, p


def holm(p_values: ArrayLike) -> Array:
    """Holm's step-down adjustment of (P,) p-values: reject where it is below the level, all P claims hold jointly."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
