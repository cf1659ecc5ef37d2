"""How text becomes tokens: one rule for zero-shot, in-context learning and tuning.

A prompt and its answer are tokenised as one text, demonstrations before them included, and cut where the prompt alone
ends: the boundary that lm-evaluation-harness (0.4.13) draws for causal models. An encoder-decoder reads its input and
its answer apart. What a tokenizer puts around a text (a beginning mark, T5's `</s>`, a language code) is added once
around the whole, and never between a prompt and its answer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Ids = tuple[int, ...]


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


def joined(tokenizer: Any, prompt: str, answers: Sequence[str]) -> tuple[Ids, list[Ids]]:
    """Ids of a prompt, and of each answer as it continues the prompt; an answer begins with its delimiter.

    White space at the end of the prompt belongs to the answer, as in lm-evaluation-harness. An empty prompt is the
    beginning (or else end) of sequence token.
    """
    kept = prompt.rstrip()
    source, *wholes = token_ids(tokenizer, [kept, *(prompt + answer for answer in answers)])
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
    """Ids of the special tokens, without the one that stands for unknown words."""
    return frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}


def _call(tokenizer: Any, texts: Sequence[str], target: bool, add_special_tokens: bool = False) -> list[list[int]]:
    named = {"text_target": list(texts)} if target else {"text": list(texts)}
    options = {"add_special_tokens": add_special_tokens, "split_special_tokens": True, "verbose": False}
    return tokenizer(**named, **options)["input_ids"]


def _spelled_out(tokenizer: Any, text: str) -> str:
    """The text with a blank inside every control token's name, for vocabularies that hold those names as words."""
    names = [name for name in tokenizer.all_special_tokens if name != tokenizer.unk_token]
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(pattern, lambda found: f"{found[0][0]} {found[0][1:]}", text, flags=re.IGNORECASE)
