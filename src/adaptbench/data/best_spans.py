"""The most probable answers to a question, from the scores of its windows' positions.

Answers are chosen as the question-answering pipeline of transformers 4 did (5 has none): in every window probabilities
of starts and ends over the context's tokens and the null position, the product of both for a span, cut words made whole
as far as the window has them, and equal answers of several windows added up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptbench.data.windows import Span, Window


@dataclass(frozen=True)
class SpanAnswer:
    """A piece of the context; an empty one says that it holds no answer."""

    text: str
    score: float  # probability of start times that of end, added up over windows
    span: Span = (0, 0)


def best_answers(
    windows: Sequence[Window],
    context: str,
    starts: Sequence[ArrayLike],
    ends: Sequence[ArrayLike],
    *,
    count: int = 1,
    max_tokens: int = 15,
    whole_words: bool = True,
    unanswerable: bool = False,
) -> list[SpanAnswer]:
    """The most probable answers to a question, best first.

    Args:
        starts: for every window the logits of all its positions; what stands after them is padding.
        ends: likewise.
        count: how many answers at most.
        max_tokens: the longest answer.
        whole_words: answers begin and end where words do.
        unanswerable: "no answer" is one of them, as probable as in the window where it is least so.
    """
    found: dict[str, SpanAnswer] = {}
    null = 1.0
    per_window = 2 * count + 10 if whole_words else count  # some become equal where words are made whole
    for window, start, end in zip(windows, starts, ends, strict=True):
        null_start, start_p = _probabilities(window, start)
        null_end, end_p = _probabilities(window, end)
        null = min(null, null_start * null_end)
        for first, last, score in _spans(start_p, end_p, per_window, max_tokens):
            places = window.words if whole_words else window.offsets
            start_char, end_char = places[first][0], places[last][1]
            text = context[start_char:end_char].lower()
            span = _stripped(context, start_char, end_char)
            earlier = found.get(text, SpanAnswer(context[slice(*span)], 0.0, span))
            found[text] = replace(earlier, score=earlier.score + score)
    with_text = [answer for answer in found.values() if answer.text]  # blanks alone are no answer
    answers = [*with_text, *([SpanAnswer("", null)] if unanswerable else [])]
    return sorted(answers, key=lambda answer: -answer.score)[:count]


def _probabilities(window: Window, logits: ArrayLike) -> tuple[float, NDArray[np.float64]]:
    """Of the null position and of each token of the context, which together are one."""
    values = np.asarray(logits, dtype=np.float64)
    kept = np.concatenate([[values[window.null]], values[window.first : window.positions.stop]])
    weights = np.exp(kept - kept.max())
    probabilities = weights / weights.sum()
    return float(probabilities[0]), probabilities[1:]


def _spans(
    start: NDArray[np.float64], end: NDArray[np.float64], count: int, max_tokens: int
) -> list[tuple[int, int, float]]:
    """The most probable spans of at most `max_tokens` tokens: first and last token of each, and its probability."""
    length = len(start)
    firsts = np.repeat(np.arange(length), max_tokens)
    lasts = firsts + np.tile(np.arange(max_tokens), length)
    firsts, lasts = firsts[lasts < length], lasts[lasts < length]
    scores = start[firsts] * end[lasts]
    best = np.argsort(-scores, kind="stable")[:count]
    return [(int(firsts[i]), int(lasts[i]), float(scores[i])) for i in best]


def _stripped(context: str, start: int, end: int) -> Span:
    """Without the blanks at both ends, which some tokenizers count to their tokens."""
    text = context[start:end]
    return start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())
