"""Exact match and token F1 behave as SQuAD's published script for version 1.1."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptbench.metrics import get
from adaptbench.metrics.squad import normalised
from tests.metrics.references import REFERENCES

TEXT = st.text(alphabet="ab the,.'!-AThé«\n", max_size=20)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Cat", "cat"),
        ("  a   cat\tand\nthe dog ", "cat and dog"),
        ("An apple a day", "apple day"),
        ("theatre, anthem; area", "theatre anthem area"),  # articles are whole words
        ("U.S.A.", "usa"),  # punctuation leaves no space
        ("rock-n-roll", "rocknroll"),
        ("A. Smith", "smith"),  # punctuation goes before articles
        ("it's", "its"),
        ("the-cat", "thecat"),
        ("$5,000", "5000"),
        ("ÉCOLE’s", "école’s"),  # only ASCII punctuation counts
        ("«a»", "« »"),
        ("The a an.", ""),
        ("", ""),
    ],
)
def test_normalisation(text, words):
    assert normalised(text) == words.split()


@pytest.mark.parametrize(
    ("answer", "references", "exact", "f1"),
    [
        ("Denver Broncos", ["Denver Broncos"], 1, 1),
        ("the Denver Broncos!", ["denver broncos"], 1, 1),
        ("Broncos", ["Denver Broncos"], 0, 2 / 3),
        ("Broncos Denver", ["Denver Broncos"], 0, 1),  # a bag of words
        ("Denver Denver Broncos", ["Denver Broncos"], 0, 0.8),  # 2 of 3 words, 2 of 2
        ("in the city of Paris", ["Paris", "the city of Paris"], 0, 6 / 7),  # the best reference counts
        ("Paris", ["London", "Paris"], 1, 1),
        ("London", ["Paris"], 0, 0),  # no overlap
        ("", ["Paris"], 0, 0),
        ("Paris", [""], 0, 0),
        ("", ["the"], 1, 0),  # nothing is left of either: version 1.1 finds no common token
        ("", [""], 1, 0),
    ],
)
def test_scores_of_one_answer(answer, references, exact, f1):
    assert get("exact_match").score([answer], [references]) == exact
    assert get("token_f1").score([answer], [references]) == pytest.approx(f1)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_scores_of_any_texts_are_those_of_an_implementation_apart(items):
    answers, references = [answer for answer, _ in items], [texts for _, texts in items]
    for name in ("exact_match", "token_f1"):
        expected = REFERENCES[name](answers, references, 0)
        assert get(name).score(answers, references) == pytest.approx(expected, rel=1e-12), name


def test_scores_are_the_mean_over_items():
    answers, references = ["a dog", "one two", "x"], [["Dog"], ["two three"], ["y", "z"]]
    assert get("exact_match").score(answers, references) == pytest.approx(1 / 3)
    assert get("token_f1").score(answers, references) == pytest.approx((1 + 0.5 + 0) / 3)


@settings(deadline=None)
@given(TEXT, TEXT, TEXT)
def test_more_references_never_lower_a_score_and_f1_is_symmetric(answer, first, second):
    for name in ("exact_match", "token_f1"):
        metric = get(name)
        both = metric.score([answer], [[first, second]])
        assert both == max(metric.score([answer], [[first]]), metric.score([answer], [[second]]))
        assert metric.score([answer], [[first]]) == pytest.approx(metric.score([first], [[answer]]))


@settings(deadline=None)
@given(TEXT)
def test_a_text_matches_itself_however_it_is_cased_and_spaced(text):
    assert get("exact_match").score([f" {text.upper()}  "], [[text]]) == 1
    assert get("token_f1").score([f"The {text}"], [[text]]) == (1 if normalised(text) else 0)
