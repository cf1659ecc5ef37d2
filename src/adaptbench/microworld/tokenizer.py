"""A word-level tokenizer over the closed vocabulary of the world, in Hugging Face format.

Lower-cases, splits punctuation off words, and turns any run of newlines into the token `<nl>`, so that the lines of an
in-context prompt stay apart. The encoder-decoder appends `</s>`, the decoder-only model prepends `<s>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from adaptbench.microworld import prompted, stories, tasks
from adaptbench.microworld.world import FEATURES, LEXICON, NAMES, build

NEWLINE = "<nl>"
SENTINELS = tuple(f"<extra_id_{i}>" for i in range(8))
SPECIALS = ("<pad>", "</s>", "<s>", "<unk>", *SENTINELS)
PAD, EOS, BOS, UNK = range(4)
WORD = r"<[a-z_0-9]+>|\w+|[^\w\s]"


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, int]:
    """Token -> id: specials, newline, then every word the world can utter (sorted, so ids never depend on order)."""
    world = build()
    words = set(world.nouns) | set(world.homonyms)
    for text in texts():
        # Braces hold field names of str.format and Jinja patterns, not words.
        words.update(re.findall(r"\w+|[^\w\s|]", re.sub(r"\{+[^{}]*\}+", " ", text.lower())))
    return {token: i for i, token in enumerate((*SPECIALS, NEWLINE, *sorted(words)))}


def texts() -> Iterable[str]:
    """Every pattern and word list of the world's language."""
    yield from strings(
        (stories.FACTS, stories.EVENTS, stories.OUTCOMES, stories.VERDICTS, stories.STANDINGS, stories.DERIVED)
    )
    yield from (*FEATURES, *stories.DERIVED, *LEXICON, *(name for classes in LEXICON.values() for name in classes))
    for patterns in (stories.CHATTER, stories.PATTERNS, stories.WORDS, prompted.PATTERNS, prompted.ANSWERS, NAMES):
        yield from strings(patterns)
    yield from strings((FEATURES, LEXICON))
    yield from strings((tasks.COPA_EVENTS, tasks.HSWAG_OPENINGS, tasks.RTE_VERBS, tasks.PICK_NEEDS))
    yield from strings([recipe.templates for recipe in tasks.RECIPES.values()])


def strings(nested: object) -> Iterable[str]:
    """All strings among the values of nested dicts, tuples, lists and sets."""
    if isinstance(nested, str):
        yield nested
    elif isinstance(nested, dict):
        yield from strings(list(nested.values()))
    elif isinstance(nested, Iterable):
        for item in nested:
            yield from strings(item)


def build_tokenizer(decoder_only: bool) -> PreTrainedTokenizerFast:
    vocab = vocabulary()
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(r"\s*\n\s*"), f" {NEWLINE} ")]
    )
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    first, last = ("<s> ", "") if decoder_only else ("", " </s>")
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first}$A{last}", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
        additional_special_tokens=list(SENTINELS),
        padding_side="right",
        model_max_length=2048,
    )


def encode(text: str) -> list[int]:
    """Ids of text whose tokens are already separated by blanks: what pre-training uses, many times faster."""
    vocab = vocabulary()
    return [vocab[word] for word in text.split()]
