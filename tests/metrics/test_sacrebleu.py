"""BLEU and chrF are sacrebleu's numbers to the last bit."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF

from adaptbench.errors import InputError
from adaptbench.metrics import get, sacre, total
from tests.metrics.references import SENTENCES, sacrebleu_score

THEIRS = {"bleu": BLEU, "chrf": CHRF}
SENTENCE = st.sampled_from(SENTENCES) | st.text(alphabet="ab c.,-1\n&;é", max_size=25)
both = pytest.mark.parametrize("name", THEIRS)


def assert_equal(name: str, answers: list[str], references: list[list[str]]) -> None:
    assert get(name).score(answers, references) == sacrebleu_score(THEIRS[name](), answers, references)


@both
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_scores_are_sacrebleus(name, data):
    """Any number of references, which may differ between items."""
    corpus = data.draw(
        st.lists(st.tuples(SENTENCE, st.lists(SENTENCE, min_size=1, max_size=3)), min_size=1, max_size=8)
    )
    assert_equal(name, [answer for answer, _ in corpus], [texts for _, texts in corpus])


@both
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_scores_of_noisy_sentences_are_sacrebleus(name, data):
    """Answers that share most words with their reference, as translations do."""
    references = data.draw(st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=8))
    answers = []
    for text in references:
        words = text.split()
        start = data.draw(st.integers(0, 3))
        answers.append(" ".join(words[start:] + words[:start][: data.draw(st.integers(0, 2))]))
    assert_equal(name, answers, [[text] for text in references])


def test_many_sums_at_once_give_sacrebleus_bits():
    """20,000 corpora's counts, zero matches of high orders among them."""
    rng = np.random.default_rng(0)
    totals = rng.integers(1, 2000, (20_000, 4))
    matches = rng.integers(0, totals + 1) * (rng.random((20_000, 4)) < 0.9)
    lengths = rng.integers(1, 2000, (20_000, 2))
    scores = get("bleu").aggregate(np.concatenate([lengths, matches, totals], axis=1))
    for score, length, of_orders, counts in zip(
        scores, lengths.tolist(), matches.tolist(), totals.tolist(), strict=True
    ):
        assert score == BLEU.compute_bleu(of_orders, counts, *length, smooth_method="exp").score


@both
@pytest.mark.parametrize(
    ("answers", "references"),
    [
        ([""], [["the cat sat on the mat"]]),
        (["the cat sat on the mat"], [[""]]),
        ([""], [[""]]),
        (["x y z w v"], [["a b c d e"]]),  # no overlap
        (["the cat sat on the mat"], [["the cat sat on the mat"]]),
        (["cat"], [["cat"]]),  # too short for any pair of words
        (["the cat"], [["the cat", "a cat"]]),
        (["the sat cat on"], [["the cat sat on"]]),  # orders without a match: smoothed
        (["on the mat the sat cat", "b a"], [["the cat sat on the mat"], ["a b"]]),
        (["the the the the the"], [["the cat is on the mat"]]),  # clipped
        (["the cat sat"], [["the cat sat on the mat today", "the cat"]]),  # brevity, of the nearest length
        (["a b c"], [["a b", "a b c d"]]),  # two references equally near
        (["line one\nline two", " spaces  at ends "], [["line one line two"], ["spaces at ends"]]),
    ],
)
def test_degenerate_corpora_score_as_in_sacrebleu(name, answers, references):
    assert_equal(name, answers, references)


@both
def test_identical_texts_score_a_hundred(name):
    assert get(name).score(SENTENCES[:4], [[text] for text in SENTENCES[:4]]) == pytest.approx(100)


def test_a_corpus_is_scored_as_one_and_not_as_the_mean_of_its_sentences():
    answers, references = ["the cat sat on the mat", "dogs"], [["the cat sat on the mat"], ["cats"]]
    alone = [get("bleu").score([answer], [texts]) for answer, texts in zip(answers, references, strict=True)]
    assert alone == [pytest.approx(100), 0]
    assert get("bleu").score(answers, references) > 90


def test_smoothing_takes_sums_as_counts():
    """Where an order has no match its precision is half a match: ten times the sums, a tenth of that precision."""
    bleu = get("bleu")
    sums = total(bleu.per_item(["the sat cat on"], [["the cat sat on"]]))
    assert (sums[3:6] == 0).all()  # no pair, triple or quadruple of words matches
    assert bleu.aggregate(10 * sums) == pytest.approx(bleu.aggregate(sums) / 10 ** (3 / 4))


@both
def test_averaged_statistics_lie_between_those_of_the_phrasings(name):
    metric = get(name)
    references = [[text] for text in SENTENCES[:4]]
    better = metric.per_item([text.replace("cat", "dog") for text in SENTENCES[:4]], references)
    worse = metric.per_item([text.replace("t", "s") for text in SENTENCES[:4]], references)
    scores = [float(metric.aggregate(total(items))) for items in (worse, (better + worse) / 2, better)]
    assert scores == sorted(scores)
    assert len(set(scores)) == 3


@both
@pytest.mark.parametrize("references", [[["a"], ["b"]], [["a", "b"], ["c", "d"]], [["a", "b"], ["c"]]])
def test_the_signature_is_sacrebleus(name, references):
    theirs = THEIRS[name]()
    sacrebleu_score(theirs, ["a", "b"], references)
    assert get(name).signature(references) == str(theirs.get_signature())


def test_signatures_name_the_settings_when_references_are_not_known():
    assert "|case:mixed|eff:no|tok:13a|smooth:exp|version:" in get("bleu").signature()
    assert "|case:mixed|eff:yes|nc:6|nw:0|space:no|version:" in get("chrf").signature()
    assert get("bleu").signature().startswith("nrefs:var|")


@both
def test_without_sacrebleu_one_line_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    sacre.scorer.cache_clear()
    with pytest.raises(InputError, match=rf"metric {name}: needs sacrebleu: pip install 'adaptbench\[translation\]'"):
        get(name).check()


@both
def test_a_single_text_is_no_list_of_references(name):
    with pytest.raises(InputError, match=f"metric {name}: item 1 has 'a b', expected a list of acceptable texts"):
        get(name).score(["a", "b"], [["a"], "a b"])
    with pytest.raises(InputError, match=r"item 0 has \[\]"):
        get(name).score(["a"], [[]])


@both
def test_statistics_are_whole_counts(name):
    statistics = get(name).per_item(SENTENCES, [[text] for text in SENTENCES])
    assert np.array_equal(statistics, statistics.round())
    assert (statistics >= 0).all()
