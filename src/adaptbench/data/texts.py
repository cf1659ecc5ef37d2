"""Texts and pairs of texts as a bare model reads them: one row each, whole, with the tokenizer's marks around them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from adaptbench.data.tokenization import Ids, marks, token_ids
from adaptbench.errors import InputError
from adaptbench.models.backbone import Backbone

BETWEEN = "\n"  # what stands between the texts of a pair where a tokenizer marks neither


@dataclass(frozen=True)
class Text:
    """A text or pair as token ids; `types` are 1 in the second text of a pair and the marks that belong to it."""

    ids: Ids
    types: Ids
    truncated: int = 0  # tokens that did not fit


@dataclass(frozen=True)
class PairMarks:
    """The special tokens that a tokenizer puts around and between two texts, with all their types."""

    before: Ids
    between: Ids
    after: Ids
    types: Ids  # of before, the first text, between, the second text, after: one each

    def wrap(self, first: Ids, second: Ids) -> tuple[Ids, Ids]:
        """The row of two texts, and its types."""
        parts = (self.before, first, self.between, second, self.after)
        types = (kind for part, kind in zip(parts, self.types, strict=True) for _ in part)
        return tuple(index for part in parts for index in part), tuple(types)


@lru_cache(maxsize=8)
def pair_marks(tokenizer: Any) -> PairMarks | None:
    """The marks of a pair; None where the tokenizer puts two texts together without any between them.

    Raises:
        InputError: a tokenizer whose pairs are not two texts and marks.
    """
    ((bare,), (other,)) = token_ids(tokenizer, ["a"]), token_ids(tokenizer, ["b"])
    found = tokenizer("a", "b", return_token_type_ids=True)
    whole, kinds = tuple(found["input_ids"]), tuple(found["token_type_ids"])
    first = _find(bare, whole, 0)
    second = _find(other, whole, first + len(bare))
    if first < 0 or second < 0:
        raise InputError("model.path: the tokenizer does not keep the two texts of a pair whole")
    before, between = whole[:first], whole[first + len(bare) : second]
    after = whole[second + len(other) :]
    bounds = (0, first, first + len(bare), second, second + len(other))
    types = tuple(kinds[place] if place < len(kinds) else 0 for place in bounds)
    return PairMarks(before, between, after, types) if between else None


def _find(part: Ids, whole: Ids, start: int) -> int:
    places = (i for i in range(start, len(whole)) if whole[i : i + len(part)] == part)
    return next(places, -1) if part and start >= 0 else -1


def encode_text(backbone: Backbone, first: str, second: str | None = None, where: str = "") -> Text:
    """Token ids of a text, or of a pair, with virtual token k as id -1 - k before all.

    A row that does not fit is refused, or where `model.overlong` says so loses its end: a pair the end of whichever
    text is longer, token by token, as `truncation=True` does in transformers.

    Args:
        where: the data set and row, for messages.

    Raises:
        InputError: no tokens, or too many.
    """
    tokenizer = backbone.tokenizer
    around = pair_marks(tokenizer) if second is not None else None
    if second is not None and around is None:
        first, second = f"{first}{BETWEEN}{second}", None
    text_ids = token_ids(tokenizer, [first] if second is None else [first, second])
    if not any(text_ids):
        raise InputError(f"{where}: the tokenizer returns no tokens")
    virtual = tuple(range(-1, -1 - backbone.virtual_tokens, -1))
    if around is None:
        mark = marks(tokenizer)
        room = backbone.max_length - len(virtual) - len(mark.before) - len(mark.after)
        kept = [text_ids[0][: _checked(backbone, room, text_ids, where)]]
        ids = (*mark.before, *kept[0], *mark.after)
        types: Ids = (0,) * len(ids)
    else:
        fixed = len(virtual) + len(around.before) + len(around.between) + len(around.after)
        kept = shortened(text_ids[0], text_ids[1], _checked(backbone, backbone.max_length - fixed, text_ids, where))
        ids, types = around.wrap(kept[0], kept[1])
    return Text((*virtual, *ids), (*(0 for _ in virtual), *types), sum(map(len, text_ids)) - sum(map(len, kept)))


def _checked(backbone: Backbone, room: int, text_ids: Sequence[Ids], where: str) -> int:
    """The places that there are for the tokens of a row's own texts."""
    total = sum(map(len, text_ids))
    if total > room and (backbone.overlong == "refuse" or room < len(text_ids)):
        raise InputError(
            f"{where}: {total + backbone.max_length - room} tokens do not fit model.max_length={backbone.max_length}"
            + (" (model.overlong=truncate shortens the text)" if backbone.overlong == "refuse" else "")
        )
    return room


def shortened(first: Ids, second: Ids, room: int) -> list[Ids]:
    """Two texts without the ends that do not fit: the longer one loses tokens until both are as long."""
    if len(first) + len(second) <= room:
        return [first, second]
    short = min(len(first), len(second), room // 2)
    return (
        [first[:short], second[: room - short]]
        if len(first) <= len(second)
        else [first[: room - short], second[:short]]
    )


def pad_texts(rows: Sequence[Text], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows as (N, S) ids, mask and types, padded on the right."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    types = torch.zeros((len(rows), width), dtype=torch.long)
    for n, row in enumerate(rows):
        ids[n, : len(row.ids)] = torch.tensor(row.ids)
        types[n, : len(row.types)] = torch.tensor(row.types)
    mask = torch.arange(width) < torch.tensor([len(row.ids) for row in rows])[:, None]
    return ids, mask, types
