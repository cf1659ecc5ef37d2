"""What every metric promises: a score is a function of sums over items, and can be bootstrapped as such."""

import time

import numpy as np
import pytest

from adaptbench.metrics import METRICS, total
from adaptbench.metrics.correlation import ranks
from tests.metrics.references import REFERENCES, items

every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)


@every_metric
def test_the_score_is_the_aggregate_of_the_sum_over_items(metric):
    answers, references, classes = items(metric, 40)
    statistics = metric.per_item(answers, references, classes)
    assert statistics.ndim == 2
    assert len(statistics) == 40
    assert metric.score(answers, references, classes) == metric.aggregate(total(statistics))
    assert metric.lowest < metric.score(answers, references, classes) < metric.highest


@every_metric
def test_all_items_at_once_are_judged_as_each_alone(metric):
    answers, references, classes = items(metric, 20)
    together = metric.per_item(answers, references, classes)
    if metric.prepare is not None:
        answers, references = metric.prepare(answers, references)
    alone = [
        metric.statistics(answer, reference, classes) for answer, reference in zip(answers, references, strict=True)
    ]
    assert np.array_equal(together, alone)


@every_metric
def test_aggregate_scores_many_draws_as_each_alone(metric):
    statistics = metric.per_item(*items(metric, 15))
    sums = np.random.default_rng(1).integers(0, 3, (2, 4, 15)) @ statistics
    sums[0, 0] = 0
    scores = metric.aggregate(sums)
    assert scores.shape == (2, 4)
    for place in np.ndindex(2, 4):
        assert scores[place] == metric.aggregate(sums[place])


@every_metric
def test_a_bootstrap_draw_scores_as_the_items_it_draws(metric):
    """Against the field's implementation, given the drawn items one by one."""
    answers, references, classes = items(metric, 30)
    statistics = metric.per_item(answers, references, classes)
    if metric.name == "spearman":  # ranks stay those among all items
        answers, references = ranks(answers).tolist(), ranks(references).tolist()
    judge = REFERENCES["pearson" if metric.name == "spearman" else metric.name]
    rng = np.random.default_rng(2)
    for _ in range(10):
        drawn = rng.integers(0, 30, 30)
        score = metric.aggregate(np.bincount(drawn, minlength=30) @ statistics)
        expected = judge([answers[item] for item in drawn], [references[item] for item in drawn], classes)
        assert score == pytest.approx(expected, rel=1e-12)


@every_metric
def test_draws_of_one_item_are_judged_without_rounding_noise(metric):
    """Equal values have no variance, whatever is left when it is computed from sums."""
    statistics = metric.per_item(*items(metric, 30))
    weights = 7.3 * np.eye(30)
    scores = metric.aggregate(weights @ statistics)
    assert scores.min() >= metric.lowest
    assert scores.max() <= metric.highest * (1 + 1e-12)  # sacrebleu's 100 is 100.00000000000004
    if metric.lowest < 0:
        assert (scores == 0).all()


@every_metric
def test_sums_of_nothing_score_zero(metric):
    size = metric.per_item(*items(metric, 5)).shape[1]
    with np.errstate(all="raise"):
        assert np.array_equal(metric.aggregate(np.zeros((3, size))), np.zeros(3))
        assert metric.aggregate(np.zeros(size)) == 0


@every_metric
def test_scores_do_not_depend_on_the_size_of_sums(metric):
    """So weights instead of counts, and means over templates, score as whole counts do."""
    statistics = metric.per_item(*items(metric, 40))
    sums = total(statistics)
    for factor in (1 / 40, 0.3, 1e6):
        assert metric.aggregate(factor * sums) == pytest.approx(metric.aggregate(sums), rel=1e-9)


@every_metric
def test_an_item_phrased_twice_counts_by_the_mean_of_its_statistics(metric):
    """Twice every item, averaged, is every item once."""
    answers, references, classes = items(metric, 25)
    twice = metric.per_item(answers * 2, references * 2, classes)
    averaged = (twice[:25] + twice[25:]) / 2
    expected = metric.score(answers, references, classes)
    assert metric.aggregate(total(averaged)) == pytest.approx(expected, rel=1e-9)


def test_the_mean_of_shares_is_exactly_numpys():
    """Accuracy over several templates stays what the mean of every item's share of right answers is."""
    accuracy, rng = METRICS["accuracy"], np.random.default_rng(0)
    for number in (1, 7, 129, 1000, 10_000):
        right = rng.random((number, 3)) < 0.7  # items by templates
        statistics = accuracy.per_item(right.ravel().astype(int), np.ones(3 * number, dtype=int))
        by_item = statistics.reshape(number, 3, 2).sum(axis=1) / 3
        assert accuracy.aggregate(total(by_item)) == np.mean([np.mean(share) for share in right])


@pytest.mark.parametrize("name", ["accuracy", "f1", "f1_micro", "f1_macro", "matthews", "pearson", "spearman"])
def test_ten_thousand_items_take_below_50_ms(name):
    metric = METRICS[name]
    arguments = items(metric, 10_000)
    assert fastest(lambda: metric.per_item(*arguments)) < 0.05


@pytest.mark.parametrize("name", ["exact_match", "token_f1", "bleu", "chrf"])
def test_a_thousand_sentences_take_below_a_second(name):
    metric = METRICS[name]
    arguments = items(metric, 1000)
    assert fastest(lambda: metric.per_item(*arguments)) < 1


@every_metric
def test_five_thousand_draws_are_scored_in_a_fraction_of_a_second(metric):
    sums = np.repeat(total(metric.per_item(*items(metric, 50)))[None], 5000, axis=0)
    assert fastest(lambda: metric.aggregate(sums)) < 0.25


def fastest(call, times: int = 3) -> float:
    """Seconds of the fastest of some calls: other processes may disturb one."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
