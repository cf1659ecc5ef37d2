"""sacrebleu's objects, imported when they are first needed: it is an optional dependency."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from adaptbench.errors import InputError


@lru_cache
def scorer(name: str) -> Any:
    """sacrebleu.metrics.<name> with sacrebleu's defaults.

    Raises:
        InputError: sacrebleu is not installed.
    """
    try:
        import sacrebleu.metrics
    except ImportError as error:
        raise InputError(f"metric {name.lower()}: needs sacrebleu: pip install 'adaptbench[translation]'") from error
    return getattr(sacrebleu.metrics, name)()


def signature_of(name: str, references: Sequence[Sequence[str]] | None = None) -> str:
    """sacrebleu's signature: what others need to know in order to compare scores.

    Args:
        references: for each item the acceptable texts. If their number differs, or is not known, nrefs is "var".
    """
    numbers = {len(texts) for texts in references or ()}
    metric = scorer(name)
    metric.num_refs = numbers.pop() if len(numbers) == 1 else -1  # -1 is sacrebleu's own mark for "var"
    return str(metric.get_signature())


def segment_statistics(name: str, answer: str, references: Sequence[str]) -> list[int]:
    """What sacrebleu sums up over a corpus, of one segment. Its own tests of significance start from the same."""
    return scorer(name)._extract_corpus_statistics([answer], [[text] for text in references])[0]
