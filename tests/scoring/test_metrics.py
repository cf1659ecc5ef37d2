"""Predictions under every length normalisation, by hand."""

import pytest

from adaptbench.data.templates import Prompt
from adaptbench.scoring.metrics import ChoiceScores, accuracy, chance, not_finite, predict, table

PROMPT = Prompt("1", "t", "question", ("no", "naïve yes", "z"), 1)
SCORES = ChoiceScores(PROMPT, (-3.0, -6.0, -2.0), (1, 4, 1))


@pytest.mark.parametrize(
    ("norm", "winner"),
    [("none", 2), ("token", 1), ("character", 1), ("byte", 1)],  # -6/4 = -1.5 ; -6/9 = -0.67 ; -6/10 = -0.6
)
def test_prediction_depends_on_the_normalisation(norm, winner):
    assert predict(SCORES, norm) == winner
    assert accuracy([SCORES], norm) == float(winner == 1)


def test_the_table_keeps_what_any_normalisation_needs():
    rows = table([SCORES])
    assert rows["log_likelihood"].tolist() == [-3.0, -6.0, -2.0]
    assert rows["tokens"].tolist() == [1, 4, 1]
    assert rows["characters"].tolist() == [2, 9, 1]
    assert rows["bytes"].tolist() == [2, 10, 1]
    assert set(rows["uid"]) == {"1"}


def test_chance_is_the_mean_over_items():
    two = Prompt("2", "t", "question", ("a", "b"), 0)
    assert chance([PROMPT, two]) == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_scores_that_are_not_numbers_are_reported():
    broken = ChoiceScores(PROMPT, (-3.0, float("nan"), -2.0), (1, 4, 1))
    assert not_finite([SCORES]) is None
    assert "1 items, first '1'" in (not_finite([SCORES, broken]) or "")
