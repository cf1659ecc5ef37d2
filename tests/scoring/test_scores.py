"""From answers to scores: predictions under every length normalisation by hand, items in several templates, chance."""

from dataclasses import replace

import pytest

from adaptbench.data.example import TaskData
from adaptbench.data.templates import UNLABELLED, Prompt
from adaptbench.errors import InputError
from adaptbench.metrics import get, metrics_for
from adaptbench.scoring.scores import (
    by_template,
    chance,
    check_metric,
    classes,
    headline,
    item_statistics,
    items,
    scores,
)
from adaptbench.tasks.choices import Choices, ChoiceScores
from adaptbench.tasks.classification import Classification

PROMPT = Prompt("1", "t", "question", ("no", "naïve yes", "z"), 1)
SCORES = ChoiceScores(PROMPT, (-3.0, -6.0, -2.0), (1, 4, 1))
CHOICES, ACCURACY = Choices(), get("accuracy")


def answered(uid, template, label, right):
    """An item with two choices, of which the model prefers the right one or the other."""
    best = label if right else 1 - label
    return ChoiceScores(
        Prompt(uid, template, "question", ("no", "yes"), label), tuple(-1.0 - (i != best) for i in (0, 1)), (1, 1)
    )


@pytest.mark.parametrize(
    ("norm", "winner"),
    [("none", 2), ("token", 1), ("character", 1), ("byte", 1)],  # -6/4 = -1.5 ; -6/9 = -0.67 ; -6/10 = -0.6
)
def test_prediction_depends_on_the_normalisation(norm, winner):
    assert CHOICES.prediction(SCORES, norm) == winner
    assert scores(CHOICES, [SCORES], norm)["accuracy"] == float(winner == 1)


def test_the_table_keeps_what_any_normalisation_needs():
    rows = CHOICES.table([SCORES])
    assert rows["log_likelihood"].tolist() == [-3.0, -6.0, -2.0]
    assert rows["tokens"].tolist() == [1, 4, 1]
    assert rows["characters"].tolist() == [2, 9, 1]
    assert rows["bytes"].tolist() == [2, 10, 1]
    assert set(rows["uid"]) == {"1"}


def test_every_metric_of_the_kind_of_answer_is_scored():
    answers = [answered("1", "t", 0, True), answered("2", "t", 1, False), answered("3", "t", 1, True)]
    found = scores(CHOICES, answers, "token")
    assert list(found) == [metric.name for metric in metrics_for("label", 2)]
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3)  # one hit, one prediction and two items of class 1


def test_metrics_of_two_classes_are_left_out_where_there_are_three():
    assert "f1" not in scores(CHOICES, [SCORES], "token")


def with_choices(template: str, choices: tuple[str, ...], uid: str = "1") -> ChoiceScores:
    return ChoiceScores(Prompt(uid, template, "question", choices, 0), (-1.0,) * len(choices), (1,) * len(choices))


@pytest.mark.parametrize(
    ("answers", "number"),
    [
        ([with_choices("a", ("no", "yes")), with_choices("a", ("no", "yes"))], 2),
        ([with_choices("a", ("no", "yes")), with_choices("b", ("false", "true"))], 2),  # other words for the classes
        ([with_choices("a", ("he fell", "it rained")), with_choices("a", ("she sang", "he ran"))], 0),
        ([with_choices("a", ("no", "yes")), with_choices("a", ("yes", "no"))], 0),
        ([with_choices("a", ("no", "yes")), with_choices("b", ("no", "maybe", "yes"))], 0),
    ],
)
def test_choices_are_classes_where_a_template_offers_every_row_the_same(answers, number):
    assert classes(CHOICES, [answer.prompt for answer in answers]) == number
    assert list(scores(CHOICES, answers, "token")) == [metric.name for metric in metrics_for("label", number)]


def test_rows_with_choices_of_their_own_have_one_score():
    answers = [with_choices("a", ("he fell", "it rained")), with_choices("a", ("a cat", "a dog"), "2")]
    assert scores(CHOICES, answers, "token") == {"accuracy": 1.0}
    assert by_template(ACCURACY, CHOICES, answers, "token") == {"a": {"score": 1.0, "n": 2}}


def test_a_head_has_its_classes_whatever_the_texts():
    prompts = [Prompt(uid, "t", f"text {uid}", (), 0) for uid in "12"]
    assert classes(Classification(4), prompts) == 4
    assert classes(Classification(1, regression=True), prompts) == 0


def test_a_metric_that_the_choices_do_not_suit_is_refused_before_training():
    task = TaskData("t", 1, (), (), (), metric="matthews")
    free = [with_choices("a", ("he fell", "it rained")).prompt, with_choices("a", ("a cat", "a dog")).prompt]
    with pytest.raises(InputError, match="metric matthews: there is no number of classes; use one of accuracy"):
        check_metric(task, free)
    check_metric(task, [PROMPT])
    with pytest.raises(InputError, match="metric f1: judges two classes, but there are 3; use one of accuracy, f1_"):
        check_metric(replace(task, metric="f1"), [PROMPT])


def test_an_item_counts_once_however_many_templates_phrase_it():
    answers = [answered("1", "a", 0, True), answered("1", "b", 0, False), answered("2", "a", 1, True)]
    assert scores(CHOICES, answers, "token")["accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert item_statistics(ACCURACY, CHOICES, answers, "token", 2).tolist() == [[0.5, 1], [1, 1]]
    assert items(answers) == 2


def test_without_labels_there_is_no_score():
    unknown = replace(SCORES, prompt=replace(PROMPT, label=UNLABELLED))
    assert set(scores(CHOICES, [SCORES, unknown], "token").values()) == {None}


def test_chance_is_the_mean_over_items():
    two = Prompt("2", "t", "question", ("a", "b"), 0)
    assert chance(ACCURACY, CHOICES, [PROMPT, two]) == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert chance(get("f1_macro"), CHOICES, [PROMPT]) is None


def test_the_score_is_the_data_sets_metric_or_else_the_first_of_its_kind():
    task = TaskData("t", 1, (), (), ())
    assert headline(task).name == "accuracy"
    assert headline(replace(task, metric="matthews")).name == "matthews"


def test_scores_that_are_not_numbers_are_reported():
    broken = ChoiceScores(PROMPT, (-3.0, float("nan"), -2.0), (1, 4, 1))
    assert CHOICES.problem([SCORES]) is None
    assert "1 items, first '1'" in (CHOICES.problem([SCORES, broken]) or "")
