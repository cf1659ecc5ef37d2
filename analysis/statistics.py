"""Estimates and their uncertainty, as small functions on arrays.

Letters: S seeds (few-shot draws), N evaluation items, D datasets, B bootstrap replicates, P pairs of methods.

The unit of evidence are the statistics of every item, (S, N, k): what a metric counts of item n after adaptation on
draw s. A score is computed from their sum over items; where it is their mean, a matrix (S, N) of values says as much.
The two axes are *crossed*: every seed answers the same items. So a replicate draws seeds and, independently, items, and
uses the same items for every seed. Drawing fresh items for every seed would let hard items average out, and the
interval would come out too narrow.
Datasets are not resampled: a claim is about the datasets that were run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from adaptbench.metrics import total
from adaptbench.metrics.base import mean

Array = NDArray[np.floating]

REPLICATES = 5_000
TOLERANCE = 1e-12  # means of whole numbers that differ by less are the same
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


@dataclass(frozen=True)
class ItemStatistics:
    """What a metric counts of every item, and how a score follows from the sum over items."""

    statistics: Array  # (S, N, k)
    aggregate: Callable[[Array], Array]  # (..., k) -> (...)

    @classmethod
    def of(cls, cell: "ItemStatistics | ArrayLike") -> "ItemStatistics":
        """As it is, or from a matrix (S, N) of values whose mean is the score."""
        if isinstance(cell, ItemStatistics):
            return cell
        values = np.asarray(cell, dtype=float)
        return cls(np.stack([values, np.ones_like(values)], axis=-1), mean)

    def select(self, seeds: Any, items: Any) -> "ItemStatistics":
        """Some of the seeds and some of the items."""
        return ItemStatistics(self.statistics[seeds][:, items], self.aggregate)

    def repeat(self, seeds: int) -> "ItemStatistics":
        """One seed's items, as if every one of so many seeds had answered alike."""
        return ItemStatistics(np.broadcast_to(self.statistics, (seeds, *self.statistics.shape[1:])), self.aggregate)

    @property
    def scores(self) -> Array:
        """(S,)"""
        return self.aggregate(total(self.statistics))

    @property
    def values(self) -> Array:
        """(S, N): what each item adds to the score. Their mean over items is the score.

        Where the score is a mean, the item's own value. Else the jackknife's pseudo-values (Tukey 1958): N times the
        score of all items less N - 1 times that of all others, moved so that their mean is the score itself.
        """
        if self.aggregate is mean and (self.statistics[..., 1] == 1).all():
            return self.statistics[..., 0]
        items = self.statistics.shape[1]
        sums, scores = total(self.statistics), self.scores[:, None]
        if items == 1:
            return scores
        pseudo = items * scores - (items - 1) * self.aggregate(sums[:, None] - self.statistics)
        return pseudo + scores - pseudo.mean(axis=1, keepdims=True)


def mean_over_seeds(scores: Array) -> Array:
    """(B, S) -> (B,)"""
    return scores.mean(axis=1)


def median_over_seeds(scores: Array) -> Array:
    """(B, S) -> (B,). By a full sort: for a handful of seeds this is several times faster than np.median."""
    ordered = np.sort(scores, axis=1)
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
    cells: Sequence[ItemStatistics | Array],  # D of (S, N); S and N may differ between datasets
    over_seeds: Callable[[Array], Array] = median_over_seeds,  # (B, S) -> (B,)
    replicates: int = REPLICATES,
    rng_seed: int = RNG_SEED,
) -> Array:
    """(B,) replicates of the mean over datasets of a statistic over seeds of the score of the drawn items.

    With one seed only the items vary, with one item only the seeds do. Resampling S seeds shows (S - 1) / S of their
    variance, so what they contribute is scaled to put the rest back. The median of three or more is left as it is: its
    replicates are coarse and already spread too far.
    """
    found = np.zeros(replicates)
    for stream, cell in enumerate(map(ItemStatistics.of, cells)):
        seeds, items, _ = cell.statistics.shape
        scores = cell.aggregate(drawn_sums(item_draws(items, replicates, rng_seed, stream), cell.statistics))  # (B, S)
        rng = np.random.default_rng([rng_seed, stream, seeds])
        drawn = rng.integers(0, seeds, size=(replicates, seeds))
        these_seeds = over_seeds(scores)
        short = seeds == 2 or (seeds > 2 and over_seeds is mean_over_seeds)
        scale = np.sqrt(seeds / (seeds - 1)) if short else 1.0
        found += these_seeds + scale * (over_seeds(np.take_along_axis(scores, drawn, axis=1)) - these_seeds)
    return found / len(cells)


def drawn_sums(draws: Array, statistics: Array) -> Array:
    """(B, N) counts, (S, N, k) -> (B, S, k). In single precision where that is exact: sums of small whole numbers."""
    seeds, items, k = statistics.shape
    columns = np.moveaxis(statistics, 1, 0).reshape(items, seeds * k)
    whole = np.array_equal(columns, np.rint(columns)) and np.abs(columns).max() * items < 2**24
    sums = draws @ columns.astype(np.float32) if whole else draws.astype(float) @ columns
    return sums.astype(float).reshape(len(draws), seeds, k)


def percentile_interval(replicates: Array, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of (B,) replicates."""
    low, high = np.percentile(replicates, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def hierarchical_bootstrap_ci(
    cells: Sequence[ItemStatistics | Array],  # D of (S, N)
    level: float = 0.95,
    over_seeds: Callable[[Array], Array] = median_over_seeds,
    replicates: int = REPLICATES,
    rng_seed: int = RNG_SEED,
) -> tuple[float, float]:
    """Percentile interval of the mean over datasets of the median over seeds, resampling seeds and items.

    Conservative with three seeds or more: it covers 96 to 100 % instead of 95. Where seeds differ so strongly that they
    outweigh the items of a data set, it cannot: the lowest and the highest of S seeds enclose the median of all seeds
    with probability 1 - 2 ** (1 - S) only.
    """
    return percentile_interval(hierarchical_bootstrap(cells, over_seeds, replicates, rng_seed), level)


def crossed_variances(cell: Array) -> tuple[Array, Array, Array]:
    """How much the mean of crossed outcomes, (..., S, N), varies with the seeds and with the items.

    From the mean squares of the two-way layout, both factors random. Returns, each of shape (...), the variance of that
    mean due to seeds, that due to items, and the noise of single answers, which both of them hold: their sum less the
    noise counts it once. What cannot be seen for want of a second seed or item is zero.
    """
    seeds, items = cell.shape[-2:]
    none = np.zeros(cell.shape[:-2])
    by_seed, by_item, mean = cell.mean(axis=-1), cell.mean(axis=-2), cell.mean(axis=(-2, -1))  # (..., S), (..., N)
    of_seeds = by_seed.var(axis=-1, ddof=1) / seeds if seeds > 1 else none
    of_items = by_item.var(axis=-1, ddof=1) / items if items > 1 else none
    noise = none
    if seeds > 1 and items > 1:
        spread = np.einsum("...sn,...sn->...", cell, cell) / (seeds * items) - mean**2
        noise = spread / ((seeds - 1) * (items - 1)) - of_seeds / (items - 1) - of_items / (seeds - 1)
        # A mean over N answers moves in steps of 1/N, a rounding of variance 1/(12 N^2): equal means do not prove that
        # seeds are alike.
        of_seeds = np.where(noise > TOLERANCE, np.maximum(of_seeds, 1 / (12 * items**2 * seeds)), of_seeds)
    # Where all answers differ alike no spread is seen at all. As if one item (or seed) in N had shown no difference:
    alike = (np.ptp(cell, axis=(-2, -1)) < TOLERANCE) & (np.abs(mean) > TOLERANCE)
    if items > 1:
        of_items = np.where(alike, (mean / items) ** 2, of_items)
    elif seeds > 1:
        of_seeds = np.where(alike, (mean / seeds) ** 2, of_seeds)
    return of_seeds, of_items, np.maximum(noise, 0)


def satterthwaite(variances: Sequence[Array], freedoms: Sequence[int]) -> Array:
    """Degrees of freedom of a sum of independent estimates of variances (Satterthwaite 1946); one if all are zero."""
    squares = np.sum([v**2 / freedom for v, freedom in zip(variances, freedoms, strict=True) if freedom], axis=0)
    total = np.sum(variances, axis=0)
    return np.divide(total**2, squares, out=np.ones_like(total), where=squares > 0)


@dataclass(frozen=True)
class CrossedT:
    """An estimate with its standard error, and the two t distributions its statistic is judged by; arrays (...)."""

    estimate: Array
    error: Array  # infinite where nothing is known
    seeds_df: Array
    items_df: Array
    weight: Array  # of the seeds' distribution, in 0..1

    def tail_probability(self, t: Array) -> Array:
        """Probability of a statistic at least as far from zero as t >= 0."""
        of_seeds, of_items = special.stdtr(self.seeds_df, -t), special.stdtr(self.items_df, -t)
        return 2 * (self.weight * of_seeds + (1 - self.weight) * of_items)

    @property
    def p(self) -> Array:
        """Two-sided p-value for "it is zero"."""
        size = np.abs(self.estimate)
        return self.tail_probability(np.divide(size, self.error, out=np.zeros_like(size), where=self.error > 0))

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """(low, high); it leaves out zero exactly where p is below 1 - level."""
        ends = [special.stdtrit(freedom, (1 + level) / 2) for freedom in (self.items_df, self.seeds_df)]
        near, far = np.minimum(*ends), np.maximum(*ends)
        for _ in range(60):  # bisection: the quantile of a mixture lies between those of its parts
            middle = (near + far) / 2
            near, far = np.where(self.tail_probability(middle) > 1 - level, (middle, far), (near, middle))
        return self.estimate - far * self.error, self.estimate + far * self.error


def crossed_t_test(cells: Sequence[Array]) -> CrossedT:
    """Is the mean over datasets of the mean of crossed outcomes zero?

    `cells` are D matrices (..., S, N); leading axes are experiments of the same shape. A t-test whose standard error
    holds both kinds of luck, in the draws (seeds) and in the items: V = seeds + items - noise, summed over datasets.
    Were there only seeds, the statistic would follow a t distribution with the seeds' few degrees of freedom; were
    there only items, one with the items' many. With both, the p-value is the average of the two, the first weighted
    with the seeds' share of V. (One t distribution with degrees of freedom in between, after Satterthwaite, is too
    strict for some designs and too liberal for others: seeds that happen to agree make them look many.) With two seeds
    on one dataset the weight is the root of the share: one degree of freedom estimates it too badly.

    False positives at 5 %: 3 to 6 % with three seeds or more, conservative with two (1 to 5 %); see the tests.
    Seeds are independent between datasets: the same seed draws other rows there. With one seed only the items vary and
    the draw is taken for granted, with one item only the seeds: the ordinary t-test over the other axis. With one of
    both nothing is known: p is 1 and the interval has no ends.
    """
    cells = [np.asarray(cell, dtype=float) for cell in cells]
    of_seeds, of_items, noise = zip(*map(crossed_variances, cells), strict=True)
    seeds_df = satterthwaite(of_seeds, [cell.shape[-2] - 1 for cell in cells])
    items_df = satterthwaite(of_items, [cell.shape[-1] - 1 for cell in cells])
    seeds_variance = np.sum(of_seeds, axis=0)
    variance = seeds_variance + np.maximum(np.sum(of_items, axis=0) - np.sum(noise, axis=0), 0)
    share = np.divide(seeds_variance, variance, out=np.zeros_like(variance), where=variance > 0)
    known = all(cell.shape[-2:] != (1, 1) for cell in cells)
    return CrossedT(
        estimate=np.mean([cell.mean(axis=(-2, -1)) for cell in cells], axis=0),
        error=np.sqrt(variance) / len(cells) if known else np.full_like(variance, np.inf),
        seeds_df=seeds_df,
        items_df=items_df,
        weight=share ** np.minimum(seeds_df / 2, 1),
    )


def paired_difference(
    first: Sequence[ItemStatistics | Array],  # D of (S, N)
    second: Sequence[ItemStatistics | Array],  # D of the same shapes: same seeds, same items, in the same order
    level: float = 0.95,
) -> tuple[float, float, float, float]:
    """Difference of scores, its interval (low, high) and a two-sided p-value for "no difference".

    The estimate is the mean over datasets and seeds of the difference of scores; an item's part in it is the difference
    of its values (`ItemStatistics.values`). Everything the two
    methods share (the draw, the item) cancels before anything is estimated; `crossed_t_test` judges what is left.
    """
    differences = [
        ItemStatistics.of(a).values - ItemStatistics.of(b).values for a, b in zip(first, second, strict=True)
    ]
    test = crossed_t_test(differences)
    low, high = test.interval(level)
    return float(test.estimate), float(low), float(high), float(test.p)


def holm(p_values: ArrayLike) -> Array:
    """Holm's step-down adjustment of (P,) p-values: reject where it is below the level, all P claims hold jointly."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
