"""Extractive question answering: long contexts as overlapping windows, and answers as pieces of the context.

A window is a row of its own: the question, and as much of the context as fits. Windows begin `stride` tokens before the
end of the one before, as `return_overflowing_tokens` of transformers has it. Where a window does not hold the whole
answer, the right answer is its first token (BERT's [CLS]), the null position.

Answers are chosen as the question-answering pipeline of transformers 4 did (5 has none): in every window probabilities
of starts and ends over the context's tokens and the null position, the product of both for a span, cut words made whole
as far as the window has them, and equal answers of several windows added up.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptbench.data.texts import BETWEEN, PairMarks, Text, pair_marks
from adaptbench.data.tokenization import Ids, Placed, marks, placed_tokens, token_ids
from adaptbench.errors import InputError
from adaptbench.models.backbone import Backbone

Span = tuple[int, int]  # first character of the context and the one after the last
QUESTION = 64  # tokens that an over-long question is cut to, as in BERT's own code


@dataclass(frozen=True, kw_only=True)
class Window(Text):
    """A row that holds a part of the context. Virtual tokens, the question and marks come before that part."""

    null: int  # the position that stands for "not in this window"
    first: int  # position of the context's first token here
    token: int  # which of the whole context's tokens that is
    offsets: tuple[Span, ...]  # of every token of the context here
    words: tuple[Span, ...]  # of the word it belongs to, as far as that is here

    @property
    def positions(self) -> range:
        """Where the tokens of the context stand."""
        return range(self.first, self.first + len(self.offsets))


@dataclass(frozen=True)
class SpanAnswer:
    """A piece of the context; an empty one says that it holds no answer."""

    text: str
    score: float  # probability of start times that of end, added up over windows
    span: Span = (0, 0)


def encode_windows(backbone: Backbone, question: str, context: str, stride: int = 128, where: str = "") -> list[Window]:
    """The windows of one question, with virtual token k as id -1 - k before all in each.

    A question that leaves no room is refused, or cut where `model.overlong` says so.

    Args:
        stride: tokens of the context that two neighbours have in common.
        where: the data set and row, for messages.

    Raises:
        InputError: no tokens, no room for a window, or a tokenizer that does not say where its tokens stand.
    """
    tokenizer = backbone.tokenizer
    around = pair_marks(tokenizer)
    if around is None:
        question, single = f"{question}{BETWEEN}", marks(tokenizer)
        around = PairMarks(single.before, (), single.after, (0,) * 5)
    (asked,), read = token_ids(tokenizer, [question]), placed_tokens(tokenizer, context)
    if not asked or not read.ids:
        raise InputError(f"{where}: the tokenizer returns no tokens for the {'context' if asked else 'question'}")
    fixed = backbone.virtual_tokens + len(around.before) + len(around.between) + len(around.after)
    least = min(stride, len(read.ids) - 1)
    whole = len(asked)
    if backbone.max_length - fixed - whole <= least and backbone.overlong == "truncate":
        asked = asked[:QUESTION]
    room = backbone.max_length - fixed - len(asked)
    if room <= least:
        raise InputError(
            f"{where}: a question of {len(asked)} tokens leaves {room} of model.max_length={backbone.max_length} to "
            f"the context, expected more than dataset.stride={stride}"
        )
    starts = [0]
    while starts[-1] + room < len(read.ids):
        starts.append(starts[-1] + room - stride)
    windows = [_window(backbone, around, asked, read, slice(start, start + room), context) for start in starts]
    return [replace(window, truncated=whole - len(asked)) for window in windows]


def _window(backbone: Backbone, around: PairMarks, asked: Ids, read: Placed, part: slice, context: str) -> Window:
    ids, types = around.wrap(asked, read.ids[part])
    virtual = tuple(range(-1, -1 - backbone.virtual_tokens, -1))
    offsets = read.offsets[part]
    return Window(
        ids=(*virtual, *ids),
        types=(*(0 for _ in virtual), *types),
        null=len(virtual),
        first=len(virtual) + len(around.before) + len(asked) + len(around.between),
        token=part.start,
        offsets=offsets,
        words=tuple(_words(offsets, read.words[part], context)),
    )


def _words(offsets: Sequence[Span], words: Sequence[int | None], context: str) -> Iterable[Span]:
    """The word of every token. Where a tokenizer cuts no words, or at other places than blanks, that is the token."""
    for word, group in groupby(zip(words, offsets, strict=True), key=lambda pair: pair[0]):
        spans = [span for _, span in group]
        whole = spans[0][0], spans[-1][1]
        one = word is not None and len(context[slice(*whole)].split()) <= 1
        yield from ([whole] * len(spans) if one else spans)


def answer_positions(windows: Sequence[Window], answer: Span | None) -> list[tuple[int, int]]:
    """The positions of the answer's first and last token in each window of a question.

    Both are the null position where the window does not hold all of it, or where there is no answer (None).

    Args:
        answer: its characters in the context. Tokens that hold only a part of it are of it.

    Raises:
        ValueError: no token of the context holds any of it.
    """
    if answer is None:
        return [(window.null, window.null) for window in windows]
    start, end = answer
    spans = {window.token + i: span for window in windows for i, span in enumerate(window.offsets)}
    inside = [token for token, (first, last) in spans.items() if first < end and last > start and last > first]
    if not inside:
        raise ValueError(f"no token of the context holds any of the characters {start} to {end}")
    found = []
    for window in windows:
        first, last = (window.first + token - window.token for token in (min(inside), max(inside)))
        whole = first in window.positions and last in window.positions
        found.append((first, last) if whole else (window.null, window.null))
    return found


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
            read = context[start_char:end_char].lower()
            span = _stripped(context, start_char, end_char)
            known = found.get(read, SpanAnswer(context[slice(*span)], 0.0, span))
            found[read] = replace(known, score=known.score + score)
    told = [answer for answer in found.values() if answer.text]  # blanks alone are no answer
    answers = [*told, *([SpanAnswer("", null)] if unanswerable else [])]
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
