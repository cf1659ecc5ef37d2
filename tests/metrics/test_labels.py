"""Accuracy, F1 and Matthews against scikit-learn, chance against all guesses there are."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptbench.errors import InputError
from adaptbench.metrics import get
from tests.metrics.references import REFERENCES

OF_ANY_NUMBER = ["accuracy", "f1_micro", "f1_macro", "matthews"]  # of classes
NAMES = ["f1", *OF_ANY_NUMBER]


def expected(name: str, answers: list[int], labels: list[int], classes: int) -> float:
    return REFERENCES[name](answers, labels, classes)


@settings(deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", NAMES)
def test_label_metrics_are_scikit_learns(name, data):
    classes = 2 if name == "f1" else data.draw(st.integers(2, 6), label="classes")
    label = st.integers(0, classes - 1)
    pairs = data.draw(st.lists(st.tuples(label, label), min_size=1, max_size=30), label="answers and labels")
    answers, labels = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert get(name).score(answers, labels, classes) == pytest.approx(
        expected(name, answers, labels, classes), rel=1e-12
    )


DEGENERATE = {
    "one item, right": ([1], [1]),
    "one item, wrong": ([0], [1]),
    "all of one class, all right": ([0, 0, 0], [0, 0, 0]),
    "all of class 1": ([1, 1], [1, 1]),
    "labels of one class": ([0, 1, 0], [1, 1, 1]),
    "one prediction for all": ([0, 0, 0], [0, 1, 0]),
    "one prediction, and it is wrong": ([1, 1], [0, 0]),
    "all wrong": ([1, 0, 1], [0, 1, 0]),
}


@pytest.mark.parametrize(("name", "classes"), [*((name, 2) for name in NAMES), *((name, 3) for name in OF_ANY_NUMBER)])
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_labels_score_as_in_scikit_learn(name, case, classes):
    answers, labels = DEGENERATE[case]
    assert get(name).score(answers, labels, classes) == pytest.approx(expected(name, answers, labels, classes))


def test_predictions_of_one_class_are_uncorrelated_although_sums_are_rounded():
    matthews = get("matthews")
    sums = matthews.per_item([1] * 9, [0, 1, 1] * 3, 2).sum(axis=0) / 7
    sums[3] = np.nextafter(sums[3], 0)  # the predictions of class 1: all of them
    assert matthews.aggregate(sums) == 0


def test_a_class_that_never_occurs_counts_as_zero_in_macro_f1():
    assert get("f1_macro").score([0, 1], [0, 1], 2) == 1
    assert get("f1_macro").score([0, 1], [0, 1], 4) == 0.5


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_an_answer_that_is_no_class_is_wrong_and_a_prediction_of_none(pairs):
    """As a generated text that names no class: scikit-learn, too, is told the classes and gets another label."""
    answers, labels = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    for name in OF_ANY_NUMBER:
        assert get(name).score(answers, labels, 3) == pytest.approx(expected(name, answers, labels, 3), rel=1e-12), name


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_micro_f1_is_accuracy_where_every_answer_is_a_class(pairs):
    answers, labels = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert get("f1_micro").score(answers, labels, 5) == get("accuracy").score(answers, labels, 5)


@pytest.mark.parametrize("name", ["accuracy", "f1_micro", "matthews"])
@pytest.mark.parametrize(("labels", "classes"), [([0, 0, 1, 1, 0], 2), ([1, 1, 1], 2), ([0, 1, 2, 2, 2, 0], 3)])
def test_chance_is_the_mean_over_all_guesses(name, labels, classes):
    metric = get(name)
    guesses = product(range(classes), repeat=len(labels))
    scores = [metric.score(guess, labels, classes) for guess in guesses]
    assert metric.chance([classes] * len(labels)) == pytest.approx(np.mean(scores), abs=1e-12)


def test_chance_of_accuracy_is_that_of_each_items_number_of_choices():
    assert get("accuracy").chance([2, 4, 4]) == pytest.approx(1 / 3)
    assert get("accuracy").score([3, 0], [3, 1]) == 0.5  # where items have choices of their own, there are no classes


def test_f1_of_one_class_refuses_three_classes():
    with pytest.raises(InputError, match=r"f1: judges two classes, but there are 3; use one of accuracy, f1_micro"):
        get("f1").score([0, 1, 2], [0, 1, 2], 3)


@pytest.mark.parametrize("name", ["f1", "f1_micro", "f1_macro", "matthews"])
def test_metrics_over_classes_need_their_number(name):
    with pytest.raises(InputError, match=f"{name}: there is no number of classes; use one of accuracy"):
        get(name).score([0, 1], [0, 1])


@pytest.mark.parametrize(("label", "classes", "message"), [(-1, 0, "0 or more"), (-1, 2, "0 to 1"), (2, 2, "0 to 1")])
def test_a_label_that_nobody_knows_is_not_judged(label, classes, message):
    with pytest.raises(InputError, match=f"accuracy: item 1 has label {label}, expected {message}"):
        get("accuracy").score([0, label], [0, label], classes)
