"""How text becomes tokens: one rule for zero-shot, in-context learning and tuning.

A prompt and its answer are tokenised as one text, demonstrations before them included, and cut where the prompt alone
ends: the boundary that lm-evaluation-harness (0.4.13) draws for causal models. Where a token holds the end of the
prompt and the beginning of an answer, as happens in languages without spaces, the cut is before it, for all answers.
An encoder-decoder reads its input and its answer apart. What a tokenizer puts around a text (a beginning mark, T5's
`</s>`, a language code) is added once around the whole, and never between a prompt and its answer.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from adaptbench.errors import InputError

Ids = tuple[int, ...]
AS_TEXT = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # how vocabularies name the tokens for bytes of unknown characters


@dataclass(frozen=True)
class Marks:
    """The special tokens that a tokenizer puts before and after a text."""

    before: Ids
    after: Ids


@lru_cache(maxsize=8)
def marks(tokenizer: Any, target: bool = False) -> Marks:
    """The marks around a text, or around an encoder-decoder's answer (`target`)."""
    (bare,), whole = token_ids(tokenizer, ["a"], target), _call(tokenizer, ["a"], target, add_special_tokens=True)[0]
    for start in range(len(whole) - len(bare) + 1):
        if bare and tuple(whole[start : start + len(bare)]) == bare:
            return Marks(tuple(whole[:start]), tuple(whole[start + len(bare) :]))
    return Marks((), ())


def token_ids(tokenizer: Any, texts: Sequence[str], target: bool = False) -> list[Ids]:
    """Ids of each text without marks. Text stays text: `</s>` inside a row is four characters, not a control token."""
    special = control_ids(tokenizer)
    found = []
    for text, ids in zip(texts, _call(tokenizer, texts, target), strict=True):
        if not special.isdisjoint(ids):
            ids = _call(tokenizer, [_spelled_out(tokenizer, text)], target)[0]
        found.append(tuple(ids))
    return found


@dataclass(frozen=True)
class Placed:
    """The tokens of a text without marks, and where each stands in it."""

    ids: Ids
    offsets: tuple[tuple[int, int], ...]  # first character and the one after the last
    words: tuple[int | None, ...]  # which of the text's words, as the tokenizer cuts it up before anything else


def placed_tokens(tokenizer: Any, text: str) -> Placed:
    """The tokens of `token_ids` and their places, which are those in the text as it was given.

    Raises:
        InputError: a tokenizer that does not say where its tokens stand.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"model.path: {type(tokenizer).__name__} does not say where its tokens stand in a text; expected a fast "
            "tokenizer (tokenizer.json)"
        )
    cuts: list[int] = []
    found = tokenizer(text, return_offsets_mapping=True, **AS_TEXT)
    if not control_ids(tokenizer).isdisjoint(found["input_ids"]):
        cuts = _cuts(tokenizer, text)
        found = tokenizer(_spelled_out(tokenizer, text), return_offsets_mapping=True, **AS_TEXT)
    blanks = [cut + index for index, cut in enumerate(cuts)]  # places of the blanks put in, none of the text's own
    offsets = tuple(tuple(place - bisect_left(blanks, place) for place in span) for span in found["offset_mapping"])
    return Placed(tuple(found["input_ids"]), offsets, tuple(found.word_ids()))  # type: ignore[arg-type]


def joined(tokenizer: Any, prompt: str, answers: Sequence[str]) -> tuple[Ids, list[Ids]]:
    """Ids of a prompt, and of each answer as it continues the prompt; an answer begins with its delimiter.

    White space at the end of the prompt belongs to the answer, as in lm-evaluation-harness. An empty prompt is the
    beginning (or else end) of sequence token.
    """
    kept = prompt.rstrip()
    alone, *wholes = token_ids(tokenizer, [kept, *(prompt + answer for answer in answers)])
    source = alone[: common_length(alone, *wholes)]
    before = marks(tokenizer).before
    if not before and not source:
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        before = () if start is None else (start,)
    return (*before, *source), [whole[len(source) :] for whole in wholes]


def common_length(first: Ids, *others: Ids) -> int:
    """How many leading ids all have in common."""
    length = min(map(len, (first, *others)))
    for other in others:
        while first[:length] != other[:length]:
            length = next(i for i in range(length) if first[i] != other[i])
    return length


@lru_cache(maxsize=8)
def control_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the special tokens, those without a role included; not of unknown words' token, nor of single bytes."""
    known = getattr(tokenizer, "added_tokens_decoder", {}).items()
    added = {index for index, token in known if token.special and not BYTE.fullmatch(token.content)}
    return frozenset(added.union(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}


def _call(tokenizer: Any, texts: Sequence[str], target: bool, add_special_tokens: bool = False) -> list[list[int]]:
    named = {"text_target": list(texts)} if target else {"text": list(texts)}
    return tokenizer(**named, **{**AS_TEXT, "add_special_tokens": add_special_tokens})["input_ids"]


def _spelled_out(tokenizer: Any, text: str) -> str:
    """The text with a blank inside what is read as a control token, for vocabularies that hold those names as words."""
    return " ".join(text[start:end] for start, end in pairwise([0, *_cuts(tokenizer, text), len(text)]))


def _cuts(tokenizer: Any, text: str) -> list[int]:
    """Where blanks have to go into a text.

    A tokenizer that says where its tokens stand is asked, since some read capitals or full-width letters as others;
    else the names are looked for.
    """
    special = control_ids(tokenizer)
    if getattr(tokenizer, "is_fast", False):
        found = tokenizer(text, return_offsets_mapping=True, **AS_TEXT)
        spans = zip(found["input_ids"], found["offset_mapping"], strict=True)
        starts = [start for index, (start, _) in spans if index in special]
    else:
        names = [name for name in tokenizer.all_special_tokens if name != tokenizer.unk_token]
        starts = [match.start() for match in re.finditer("|".join(map(re.escape, names)), text, re.IGNORECASE)]
    return [start + 1 for start in starts]
