"""Estimates and their uncertainty, as small functions on arrays.

Letters: S seeds (few-shot draws), N evaluation items, D datasets, B bootstrap replicates, P pairs of methods.

The unit of evidence is the matrix `correct`, (S, N): was item n answered correctly after adaptation on draw s? Its
two axes are *crossed*: every seed answers the same items. So a replicate draws seeds and, independently, items, and
uses the same items for every seed. Drawing fresh items for every seed would let hard items average out, and the
interval would come out too narrow.
Datasets are not resampled: a claim is about the datasets that were run.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

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


def crossed_variances(cell: Array) -> tuple[Array, Array, Array]:
    """How much the mean of crossed outcomes, (..., S, N), varies with the seeds and with the items.

    Returns, each of shape (...), the variance of that mean due to seeds, that due to items, and the second with the
    noise of single answers still in it, as the first has it: of the sum it may count once. Mean squares of the two-way
    layout, both factors random. What cannot be seen for want of a second seed or item is zero.
    """
    seeds, items = cell.shape[-2:]
    none = np.zeros(cell.shape[:-2])
    by_seed, by_item = cell.mean(axis=-1), cell.mean(axis=-2)  # (..., S), (..., N)
    of_seeds = by_seed.var(axis=-1, ddof=1) / seeds if seeds > 1 else none
    of_items = by_item.var(axis=-1, ddof=1) / items if items > 1 else none
    if seeds == 1 or items == 1:
        return of_seeds, of_items, of_items
    squares = np.einsum("...sn,...sn->...", cell, cell) / (seeds * items) - by_seed.mean(axis=-1) ** 2
    noise = squares / ((seeds - 1) * (items - 1)) - of_seeds / (items - 1) - of_items / (seeds - 1)
    # Means over N answers move in steps of 1/N: equal ones do not prove that seeds are alike, unless all answers are.
    of_seeds = np.where(noise > 1e-12, np.maximum(of_seeds, 1 / (12 * items**2 * seeds)), of_seeds)
    return of_seeds, of_items - noise, of_items


def degrees_of_freedom(variances: Sequence[Array], freedoms: Sequence[int]) -> Array:
    """Of a sum of independent estimates of variances, after Satterthwaite (1946); one where there is nothing to sum.

    His formula with estimates for variances gives too few where many terms have two or four each, and with the squares
    unbiased (Johnson and Rust 1993) too many where one term outweighs the rest. The geometric mean of both errs least.
    """
    terms = [(v, freedom) for v, freedom in zip(variances, freedoms, strict=True) if freedom]
    total = np.sum(variances, axis=0) ** 2
    plain, unbiased = (sum(v**2 / (freedom + more) for v, freedom in terms) for more in (0, 2))
    fewest = np.divide(total, plain, out=np.ones_like(total), where=plain > 0)
    most = np.divide(total, unbiased, out=np.full_like(total, 3.0), where=plain > 0) - 2
    return np.sqrt(fewest * np.clip(most, fewest, np.maximum(fewest, sum(freedoms))))


def crossed_t_test(
    cells: Sequence[Array],  # D matrices (..., S, N); leading axes are experiments of the same shape
    level: float = 0.95,
) -> tuple[Array, Array, Array, Array]:
    """Mean over datasets of the mean of crossed outcomes, its interval (low, high), and a p-value for "it is zero".

    A t-test whose standard error holds both kinds of luck, in the draws (seeds) and in the items. The variance due to
    a handful of seeds is badly known, that due to hundreds of items well. Were there only seeds, the statistic would
    follow a t distribution with their few degrees of freedom, were there only items, one with many; with both (the
    Behrens-Fisher problem) it is taken to follow a mixture. The seeds' weight in it is their share of the variance to
    the power of half their degrees of freedom, at most one: the share by which they dominate the tail of Fisher's
    fiducial answer. Satterthwaite's single t distribution would be too liberal here, because seeds that happen to
    agree make its degrees of freedom look many.

    False positives at 5 %: 3 to 6 % with three seeds or more, fewer with two (conservative): see the tests.
    Seeds are independent between datasets: the same seed draws other rows there. With one seed only the items vary and
    the draw is taken for granted, with one item only the seeds. With one of both nothing is known: p is 1 and the
    interval has no ends.
    """
    cells = [np.asarray(cell, dtype=float) for cell in cells]
    estimate = np.mean([cell.mean(axis=(-2, -1)) for cell in cells], axis=0)
    of_seeds, of_items, raw_items = zip(*map(crossed_variances, cells), strict=True)
    seeds_freedom = degrees_of_freedom(of_seeds, [cell.shape[-2] - 1 for cell in cells])
    items_freedom = degrees_of_freedom(raw_items, [cell.shape[-1] - 1 for cell in cells])
    seeds_variance = np.sum(of_seeds, axis=0) / len(cells) ** 2
    variance = seeds_variance + np.maximum(np.sum(of_items, axis=0), 0) / len(cells) ** 2
    share = np.divide(seeds_variance, variance, out=np.zeros_like(variance), where=variance > 0)
    weight = share ** np.minimum(seeds_freedom / 2, 1)

    def beyond(t: Array) -> Array:
        """Probability of a statistic at least as far from zero as t."""
        return 2 * (weight * special.stdtr(seeds_freedom, -t) + (1 - weight) * special.stdtr(items_freedom, -t))

    error = np.sqrt(variance)
    moved = np.abs(estimate) > 1e-12
    p = beyond(np.divide(np.abs(estimate), error, out=np.where(moved, np.inf, 0.0), where=error > 0))
    near, far = (special.stdtrit(freedom, (1 + level) / 2) for freedom in (items_freedom, seeds_freedom))
    near, far = np.minimum(near, far), np.maximum(near, far)
    for _ in range(60):  # bisection: the quantile of a mixture lies between those of its parts
        middle = (near + far) / 2
        near, far = np.where(beyond(middle) > 1 - level, (middle, far), (near, middle))
    half = far * error
    if any(cell.shape[-2:] == (1, 1) for cell in cells):
        p, half = np.ones_like(estimate), np.full_like(estimate, np.inf)
    return estimate, estimate - half, estimate + half, p


def paired_difference(
    first: Sequence[Array],  # D matrices (S, N)
    second: Sequence[Array],  # D matrices of the same shapes: same seeds, same items, in the same order
    level: float = 0.95,
) -> tuple[float, float, float, float]:
    """Difference of accuracy, its interval (low, high) and a two-sided p-value for "no difference".

    The estimate is the mean over datasets of the mean over seeds and items of first - second. Everything the two
    methods share (the draw, the item) cancels before anything is estimated; `crossed_t_test` judges what is left. The
    interval leaves out zero exactly where the p-value is below 1 - level.
    """
    differences = [np.asarray(a, dtype=float) - np.asarray(b, dtype=float) for a, b in zip(first, second, strict=True)]
    estimate, low, high, p = crossed_t_test(differences, level)
    return float(estimate), float(low), float(high), float(p)


def holm(p_values: ArrayLike) -> Array:
    """Holm's step-down adjustment of (P,) p-values: reject where it is below the level, all P claims hold jointly."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
