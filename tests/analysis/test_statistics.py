"""Estimators against values known by hand, and intervals against their promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import statistics as stats
from analysis.encoder_cells import COVERED

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=9)


@given(SHARES)
def test_median_and_iqr_are_numpys(values):
    median, iqr = stats.median_iqr(values)
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    assert (median, iqr) == pytest.approx((middle, high - low))


def test_interquartile_mean_drops_both_quarters():
    assert stats.iqm([0, 1, 2, 3, 4, 5, 6, 100]) == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_holm_by_hand():
    """Sorted .01 .02 .03 .04 times 4 3 2 1, then made monotone: .04 .06 .06 .06."""
    assert stats.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert stats.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert stats.holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values):
    adjusted = stats.holm(p_values)
    assert (adjusted >= np.array(p_values) - 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= -1e-12).all()


def test_certain_answers_have_no_interval():
    low, high = stats.hierarchical_bootstrap_ci([np.ones((5, 40)), np.ones((3, 20))])
    assert (low, high) == (1.0, 1.0)


def test_one_seed_gives_the_interval_of_a_proportion():
    """With one seed only items vary: a binomial proportion of 400 items has a standard error of 2.5 points."""
    correct = np.zeros((1, 400))
    correct[0, :200] = 1
    low, high = stats.hierarchical_bootstrap_ci([correct])
    assert (low, high) == pytest.approx((0.5 - 0.049, 0.5 + 0.049), abs=0.006)


def test_intervals_cover_what_they_promise():
    """200 simulated experiments of five seeds and 60 items with noise in both: about 95 % cover the truth."""
    rng = np.random.default_rng(0)
    truth, covered = 0.7, 0
    for _ in range(200):
        level = np.clip(truth + rng.normal(0, 0.05, 5)[:, None], 0, 1)
        correct = (rng.random((5, 60)) < level).astype(float)
        low, high = stats.hierarchical_bootstrap_ci([correct], over_seeds=stats.mean_over_seeds, replicates=400)
        covered += low <= truth <= high
    assert 0.90 <= covered / 200 <= 1.0


@pytest.mark.parametrize(("seeds", "percent"), COVERED.items())
def test_intervals_of_a_mean_are_too_short_where_only_seeds_vary(seeds, percent):
    """2,000 simulated experiments whose items are all alike, of which so many intervals hold the mean of all seeds."""
    rng = np.random.default_rng(seeds)
    levels = np.repeat(rng.normal(size=(2000, seeds, 1)), 2, axis=2)
    settings = {"over_seeds": stats.mean_over_seeds, "replicates": 1000}
    found = [stats.hierarchical_bootstrap_ci([cell], **settings) for cell in levels]
    assert np.mean([low <= 0 <= high for low, high in found]) == pytest.approx(percent / 100, abs=0.015)


def test_two_seeds_that_disagree_reach_further_than_themselves():
    """The lower and the higher of two seeds enclose the median of all with probability one half only."""
    cell = np.repeat([[0.0] * 40 + [1.0] * 60, [0.0] * 20 + [1.0] * 80], 10, axis=1)
    low, high = stats.hierarchical_bootstrap_ci([cell])
    assert low < 0.57
    assert high > 0.83


def test_the_same_records_give_the_same_interval():
    cell = (np.random.default_rng(3).random((5, 50)) < 0.6).astype(float)
    assert stats.hierarchical_bootstrap_ci([cell]) == stats.hierarchical_bootstrap_ci([cell])


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_mean_over_seeds_varies_as_its_standard_error(seeds):
    """Resampling S seeds alone would show (S - 1) / S of the variance."""
    levels = np.linspace(0, 1, seeds)
    cell = np.repeat(levels[:, None], 10, axis=1)
    found = stats.hierarchical_bootstrap([cell], over_seeds=stats.mean_over_seeds)
    assert found.std() == pytest.approx(levels.std(ddof=1) / np.sqrt(seeds), rel=0.05)
