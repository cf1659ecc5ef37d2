"""Pearson and Spearman against scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from adaptbench.metrics import get
from adaptbench.metrics.correlation import ranks
from tests.metrics.references import REFERENCES

NUMBER = st.floats(-100, 100, width=16)
PAIRS = st.lists(st.tuples(NUMBER, NUMBER), min_size=2, max_size=30)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@settings(deadline=None)
@given(pairs=PAIRS)
def test_correlations_are_scipys(name, pairs):
    answers, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    expected = REFERENCES[name](answers, references, 0)
    assert get(name).score(answers, references) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(st.lists(NUMBER, min_size=1, max_size=40))
def test_ranks_are_scipys_average_ranks(values):
    assert np.array_equal(ranks(values), stats.rankdata(values))


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize(
    ("answers", "references", "expected"),
    [
        ([3.0], [4.0], 0),  # a single item
        ([0.1] * 10, [0.3, 0.2] * 5, 0),  # one answer for all
        ([0.3, 0.2] * 5, [0.1] * 10, 0),
        ([0.7] * 3, [0.7] * 3, 0),
        ([0.1, 0.2, 0.4], [0.1, 0.2, 0.4], 1),
        ([0.1, 0.2, 0.4], [-0.1, -0.2, -0.4], -1),
        ([1, 2], [5, 9], 1),
    ],
)
def test_degenerate_numbers(name, answers, references, expected):
    assert get(name).score(answers, references) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("offset", [0, 1e8])
@pytest.mark.parametrize("scale", [1e-200, 1, 1e200])
def test_neither_offset_nor_scale_costs_digits(offset, scale):
    """Moments of numbers far from zero would cancel, and squares of very small ones vanish."""
    rng = np.random.default_rng(0)
    references = rng.normal(size=500)
    answers = references + rng.normal(size=500)
    shifted = (answers + offset) * scale
    expected = stats.pearsonr(answers + offset, references).statistic
    assert get("pearson").score(shifted, references) == pytest.approx(expected, rel=1e-9)


def test_equal_values_are_uncorrelated_although_their_mean_is_rounded():
    equal = [0.1 + 0.2] * 7
    assert np.mean(equal) != equal[0]
    assert get("pearson").score(equal, [0.0, 1, 2, 3, 4, 5, 6]) == 0


def test_draws_of_one_item_are_uncorrelated_although_sums_are_rounded():
    """One pair of numbers, however often it is drawn, has no variance; its rounded moments may seem to have some."""
    rng = np.random.default_rng(0)
    pearson = get("pearson")
    statistics = pearson.per_item(rng.normal(size=300), rng.normal(size=300))
    scores = pearson.aggregate(rng.random((300, 1)) * statistics)
    assert np.array_equal(scores, np.zeros(300))


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_number_that_is_none_shows_in_the_score(name):
    assert np.isnan(get(name).score([1.0, float("nan"), 2.0], [1.0, 2.0, 3.0]))


def test_spearmans_ranks_are_those_among_all_items():
    """A draw keeps them: two items far apart in rank weigh as such, although between them there is nothing left."""
    spearman = get("spearman")
    statistics = spearman.per_item([1, 2, 3, 9], [1, 2, 9, 3])
    draw = np.array([2, 1, 0, 1])
    expected = stats.pearsonr([1, 1, 2, 4], [1, 1, 2, 3]).statistic
    assert spearman.aggregate(draw @ statistics) == pytest.approx(expected)
    assert spearman.aggregate(draw @ statistics) < 1 - 1e-3  # ranked anew, they would agree perfectly
