"""The field's own implementation of every metric, and items to judge."""

import re
import string
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from sacrebleu.metrics import BLEU, CHRF
from scipy import stats
from sklearn import metrics as sklearn_metrics

CLASSES = {"f1": 2}  # of the labels that a metric is tried on; 3 elsewhere
SENTENCES = (
    "the cat sat on the mat .",
    "The cat sat, quietly, on a mat!",
    "It costs 3,000.50 dollars (about 2-3 % more) today; isn't that much?",
    'He said "no" & left -- twice.',
    "the the the the",
    "Das Mädchen liest ein Buch über Übersetzungen.",
    "Das Maedchen las dieses Buch ueber Uebersetzung .",
    "猫はマットの上に座った。",
    "a",
    "A quick brown fox jumps over the lazy dog near the river bank",
    "A quick brown dog jumps over the lazy fox by the river bank",
    "",
)


def sacrebleu_score(metric: BLEU | CHRF, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """sacrebleu wants one stream for each reference, with None where an item has fewer."""
    streams = [
        [texts[number] if number < len(texts) else None for texts in references]
        for number in range(max(len(texts) for texts in references))
    ]
    return metric.corpus_score(answers, streams).score


def f1(answers: Sequence[int], labels: Sequence[int], classes: int, average: str) -> float:
    if average == "binary":
        return sklearn_metrics.f1_score(labels, answers, zero_division=0)
    return sklearn_metrics.f1_score(labels, answers, labels=range(classes), average=average, zero_division=0)


def matthews(answers: Sequence[int], labels: Sequence[int]) -> float:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A single label was found")
        return sklearn_metrics.matthews_corrcoef(labels, answers)


def squad_words(text: str) -> list[str]:
    """The words that SQuAD's script compares, found by going through a text's runs of letters and digits."""
    kept = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    runs = re.findall(r"\w+|\W+", kept)
    return "".join(" " if run in ("a", "an", "the") else run for run in runs).split()


def exact_match(answer: str, reference: str) -> float:
    return float(" ".join(squad_words(answer)) == " ".join(squad_words(reference)))


def token_f1(answer: str, reference: str) -> float:
    """Dice's coefficient of two bags of words; 0 where nothing is left of a text, as in version 1.1."""
    found, right = squad_words(answer), squad_words(reference)
    common = sum(min(found.count(word), right.count(word)) for word in set(found))
    return 2 * common / (len(found) + len(right)) if common else 0.0


def mean_of_best(judge: Callable[[str, str], float], answers: Sequence[str], references: Sequence[Sequence[str]]):
    """SQuAD's scores: of each item that of its best reference, and their mean."""
    pairs = zip(answers, references, strict=True)
    return float(np.mean([max(judge(answer, text) for text in texts) for answer, texts in pairs]))


def correlation(function: Callable, answers: Sequence[float], references: Sequence[float]) -> float:
    """scipy's, which is not defined for one pair, nor for constants: 0 here."""
    if len(answers) < 2 or np.ptp(answers) == 0 or np.ptp(references) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        return function(answers, references).statistic


REFERENCES: dict[str, Callable[[Sequence, Sequence, int], float]] = {
    "accuracy": lambda answers, labels, classes: sklearn_metrics.accuracy_score(labels, answers),
    "f1": lambda answers, labels, classes: f1(answers, labels, classes, "binary"),
    "f1_micro": lambda answers, labels, classes: f1(answers, labels, classes, "micro"),
    "f1_macro": lambda answers, labels, classes: f1(answers, labels, classes, "macro"),
    "matthews": lambda answers, labels, classes: matthews(answers, labels),
    "pearson": lambda answers, references, classes: correlation(stats.pearsonr, answers, references),
    "spearman": lambda answers, references, classes: correlation(stats.spearmanr, answers, references),
    "exact_match": lambda answers, references, classes: mean_of_best(exact_match, answers, references),
    "token_f1": lambda answers, references, classes: mean_of_best(token_f1, answers, references),
    "bleu": lambda answers, references, classes: sacrebleu_score(BLEU(), answers, references),
    "chrf": lambda answers, references, classes: sacrebleu_score(CHRF(), answers, references),
}


def items(metric, number: int, seed: int = 0) -> tuple[list, list, int]:
    """Random answers that are related to their references, those, and the number of classes."""
    rng = np.random.default_rng(seed)
    if metric.answers == "label":
        classes = CLASSES.get(metric.name, 3)
        labels = rng.integers(0, classes, number)
        answers = np.where(rng.random(number) < 0.5, labels, rng.integers(0, classes, number))
        return answers.tolist(), labels.tolist(), classes
    if metric.answers == "number":
        references = rng.normal(size=number).round(1)
        return (references + rng.normal(size=number)).round(1).tolist(), references.tolist(), 0
    texts = [SENTENCES[row] for row in rng.integers(0, len(SENTENCES) - 1, number)]  # without the empty one
    return (
        [" ".join([text, *text.split()[: rng.integers(0, 3)]]) for text in texts],
        [[text, SENTENCES[rng.integers(0, 3)]] for text in texts],
        0,
    )
