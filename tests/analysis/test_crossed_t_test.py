"""The paired test: false positives by simulation, arithmetic against scipy's and against an analysis by hand."""

import numpy as np
import pytest
from scipy import special
from scipy import stats as reference

from analysis import statistics as stats

EXPERIMENTS = 8_000  # at a true rate of 5 % the standard error of a simulated one is 0.24 points


def differences(rng, experiments, seeds, items, seed_sd, gap=0.0):
    """(E, S, N) in {-1, 0, 1}: first - second, two methods that answer the same items after the same draws.

    The logit of a right answer is 0.8 +- gap / 2 + item (sd 1, shared by both methods) + item for this method (sd 0.5)
    + seed for this method (sd `seed_sd`). With gap 0 the methods are equally good.
    """

    def normal(*shape, sd):
        return np.float32(sd) * rng.standard_normal(shape, dtype=np.float32)

    item = normal(experiments, 1, items, sd=1.0)
    first, second = (
        special.expit(
            np.float32(0.8 + side * gap / 2)
            + item
            + normal(experiments, 1, items, sd=0.5)
            + normal(experiments, seeds, 1, sd=seed_sd)
        )
        for side in (1, -1)
    )
    drawn = rng.random((experiments, seeds, items), dtype=np.float32)  # one number decides both answers
    better, worse = first * (1 - second), second * (1 - first)
    return (drawn < better).astype(np.int8) - (drawn > 1 - worse).astype(np.int8)


def rejected(cells, level=0.05):
    """Share of experiments called different."""
    return float((stats.crossed_t_test(cells).p < level).mean())


@pytest.mark.parametrize("seed_sd", [0.1, 0.2, 0.3, 0.5])
def test_equal_methods_differ_significantly_in_3_to_6_percent(seed_sd):
    """1, 6 and 11 datasets of 56 items, and one of 277, where seeds outweigh items soonest."""
    rng = np.random.default_rng([5, round(10 * seed_sd)])
    datasets = [differences(rng, EXPERIMENTS, 5, 56, seed_sd) for _ in range(11)]
    large = differences(rng, EXPERIMENTS, 5, 277, seed_sd)
    found = {}
    for seeds in (2, 3, 5):
        for count in (1, 6, 11):
            found[seeds, count] = rejected([cell[:, :seeds] for cell in datasets[:count]])
        found[seeds, "1 of 277 items"] = rejected([large[:, :seeds]])
    assert all(0.03 <= rate <= 0.06 for (seeds, _), rate in found.items() if seeds > 2), found
    assert all(0.01 <= rate <= 0.06 for (seeds, _), rate in found.items() if seeds == 2), found  # conservative


def test_two_seeds_are_conservative_over_several_datasets():
    rng = np.random.default_rng(6)
    assert rejected([differences(rng, EXPERIMENTS, 2, 56, 0.3) for _ in range(6)]) < 0.03


def test_methods_of_unlike_spread_hold_the_level():
    """Datasets whose seeds differ little beside some whose seeds differ strongly."""
    rng = np.random.default_rng(7)
    spreads = (0.05, 0.1, 0.2, 0.4, 0.6, 1.0)
    for seeds in (3, 5):
        assert 0.03 <= rejected([differences(rng, EXPERIMENTS, seeds, 56, sd) for sd in spreads]) <= 0.06


def test_five_points_are_found_on_eleven_datasets():
    """About 5.6 points; nearly always below 0.05, and mostly below what hundreds of comparisons ask for."""
    rng = np.random.default_rng(8)
    cells = [differences(rng, 1_000, 5, 277, 0.2, gap=0.315) for _ in range(11)]
    assert np.mean([cell.mean() for cell in cells]) == pytest.approx(0.056, abs=0.003)
    assert rejected(cells) > 0.99
    assert rejected(cells, level=0.05 / 500) > 0.9


def test_the_interval_leaves_out_zero_exactly_where_the_p_value_is_below_the_level():
    rng = np.random.default_rng(9)
    for level in (0.9, 0.95):
        for gap in (0.0, 0.6):
            cells = [differences(rng, 500, 3, 56, 0.3, gap) for _ in range(2)]
            test = stats.crossed_t_test(cells)
            low, high = test.interval(level)
            assert ((low > 0) | (high < 0)).tolist() == (test.p < 1 - level).tolist()
            assert (high - test.estimate).tolist() == pytest.approx((test.estimate - low).tolist())


@pytest.mark.parametrize("shape", [(5, 1), (1, 40)])
def test_one_item_or_one_seed_is_scipys_t_test_over_the_other(shape):
    cell = np.random.default_rng(10).normal(0.1, 0.2, shape)
    expected = reference.ttest_1samp(cell.ravel(), 0)
    test = stats.crossed_t_test([cell])
    assert (test.estimate, test.p) == pytest.approx((cell.mean(), expected.pvalue))
    assert test.interval(0.95) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_datasets_of_one_seed_are_satterthwaites_t_test():
    """Two samples, one mirrored: the mean of both is half of what Welch's test compares."""
    rng = np.random.default_rng(11)
    first, second = rng.normal(0.3, 0.2, 30), rng.normal(0.1, 0.6, 12)
    p = stats.crossed_t_test([first[None], -second[None]]).p
    assert float(p) == pytest.approx(reference.ttest_ind(first, second, equal_var=False).pvalue)


def test_seeds_and_items_by_hand():
    """The two-way analysis of 3 seeds and 4 items: mean squares, and the two t distributions they lead to.

    Row means 0, 1/4 and 1, column means 1/3, 2/3, 1/3 and 1/3, mean 5/12. Sums of squares around the mean: seeds
    4 x (25 + 4 + 49) / 144 = 13/6, items 3 x (1 + 9 + 1 + 1) / 144 = 1/4, all 5 - 12 x 25/144 = 35/12, rest 1/2.
    """
    cell = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]], dtype=float)
    seeds, items, noise = (13 / 6 / 2) / 12, (1 / 4 / 3) / 12, (1 / 2 / 6) / 12  # mean squares over S x N
    assert [float(v) for v in stats.crossed_variances(cell)] == pytest.approx([seeds, items, noise])
    variance = seeds + items - noise
    t = 5 / 12 / np.sqrt(variance)
    tails = [2 * reference.t.sf(t, freedom) for freedom in (2, 3)]
    share = seeds / variance
    test = stats.crossed_t_test([cell])
    assert float(test.estimate) == pytest.approx(5 / 12)
    assert float(test.p) == pytest.approx(share * tails[0] + (1 - share) * tails[1])


def test_differences_without_any_spread_are_not_certain():
    """Four items, always right against always wrong: too few to exclude chance in hundreds of comparisons."""
    for shape in ((1, 4), (4, 1), (3, 4)):
        estimate, low, high, p = stats.paired_difference([np.ones(shape)], [np.zeros(shape)])
        assert estimate == 1
        assert low < 1 < high
        assert 1e-3 < p < 0.05
    assert stats.paired_difference([np.ones((3, 300))], [np.zeros((3, 300))])[3] < 1e-4


def test_one_answer_says_nothing():
    estimate, low, high, p = stats.paired_difference([np.ones((1, 1))], [np.zeros((1, 1))])
    assert (estimate, low, high, p) == (1, -np.inf, np.inf, 1)


def test_paired_differences_cancel_what_both_share():
    """Two methods that differ on three of 300 items: unpaired noise would drown it, pairing does not."""
    rng = np.random.default_rng(1)
    second = (rng.random((5, 300)) < 0.5).astype(float)
    first = second.copy()
    wrong = np.flatnonzero(second.max(axis=0) == 0)[:3]
    first[:, wrong] = 1
    estimate, low, high, p = stats.paired_difference([first], [second])
    assert estimate == pytest.approx(0.01)
    assert -0.005 < low < estimate < high < 0.03
    assert p < 0.2
    same = stats.paired_difference([second], [second])
    assert same[:3] == (0.0, 0.0, 0.0)
    assert same[3] == 1.0


def test_a_difference_far_from_nothing_survives_hundreds_of_comparisons():
    """0.8 against 0.6: seeds that differ no more than chance has them, on one dataset and on six."""
    rng = np.random.default_rng(4)
    better, worse = ([(rng.random((5, 500)) < share).astype(float) for _ in range(6)] for share in (0.8, 0.6))
    assert stats.holm([stats.paired_difference(better[:1], worse[:1])[3]] * 10)[0] < 0.05
    p = stats.paired_difference(better, worse)[3]
    assert 0 < p < 1e-5
    assert stats.holm([p] * 400)[0] < 0.05
