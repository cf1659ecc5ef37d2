"""Exact match and token F1 of short answers, as SQuAD v1.1 defines them (Rajpurkar et al. 2016), as shares.

Each item counts by its best reference. Texts are compared in lower case, without ASCII punctuation and English
articles. As in version 1.1, two texts of which nothing is left match exactly and have no token in common.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

from adaptbench.metrics.base import Metric, mean, register

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> list[str]:
    """The words that are compared."""
    # Punctuation goes first and leaves no space: "a.m." becomes one word, and "A." an article.
    return ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split()


def overlap(answer: list[str], reference: list[str]) -> float:
    """F1 of two bags of words: the harmonic mean of the shares of the answer and of the reference in common."""
    common = sum((Counter(answer) & Counter(reference)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(answer), common / len(reference)
    return 2 * precision * recall / (precision + recall)


def exact_match(answer: str, references: Sequence[str], classes: int) -> tuple[float, float]:
    """(2,): is the answer one of the references, and one item."""
    words = normalised(answer)
    return float(any(words == normalised(reference) for reference in references)), 1.0


def token_f1(answer: str, references: Sequence[str], classes: int) -> tuple[float, float]:
    """(2,): F1 with the best reference, and one item."""
    words = normalised(answer)
    return max(overlap(words, normalised(reference)) for reference in references), 1.0


register(Metric("exact_match", "exact match", "text", exact_match, mean))
register(Metric("token_f1", "token F1", "text", token_f1, mean))
