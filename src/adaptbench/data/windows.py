"""Extractive question answering: long contexts as overlapping windows, and where an answer stands in each.

A window is a row of its own: the question, and as much of the context as fits. Windows begin `stride` tokens before the
end of the one before, as `return_overflowing_tokens` of transformers has it. Where a window does not hold the whole
answer, the right answer is its first token (BERT's [CLS]), the null position.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

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
    (asked,), placed = token_ids(tokenizer, [question]), placed_tokens(tokenizer, context)
    if not asked or not placed.ids:
        raise InputError(f"{where}: the tokenizer returns no tokens for the {'context' if asked else 'question'}")
    fixed = backbone.virtual_tokens + len(around.before) + len(around.between) + len(around.after)
    least = min(stride, len(placed.ids) - 1)
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
    while starts[-1] + room < len(placed.ids):
        starts.append(starts[-1] + room - stride)
    windows = [_window(backbone, around, asked, placed, slice(start, start + room), context) for start in starts]
    return [replace(window, truncated=whole - len(asked)) for window in windows]


def _window(backbone: Backbone, around: PairMarks, asked: Ids, placed: Placed, part: slice, context: str) -> Window:
    ids, types = around.wrap(asked, placed.ids[part])
    virtual = tuple(range(-1, -1 - backbone.virtual_tokens, -1))
    offsets = placed.offsets[part]
    return Window(
        ids=(*virtual, *ids),
        types=(*(0 for _ in virtual), *types),
        null=len(virtual),
        first=len(virtual) + len(around.before) + len(asked) + len(around.between),
        token=part.start,
        offsets=offsets,
        words=tuple(_words(offsets, placed.words[part], context)),
    )


def _words(offsets: Sequence[Span], words: Sequence[int | None], context: str) -> Iterable[Span]:
    """The word of every token. Where a tokenizer cuts no words, or at other places than blanks, that is the token."""
    for word, group in groupby(zip(words, offsets, strict=True), key=lambda pair: pair[0]):
        spans = [span for _, span in group]
        whole = spans[0][0], spans[-1][1]
        is_word = word is not None and len(context[slice(*whole)].split()) <= 1
        yield from ([whole] * len(spans) if is_word else spans)


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
