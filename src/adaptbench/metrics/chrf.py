"""chrF of a corpus (Popović 2015) with sacrebleu's defaults: chrF2, character n-grams up to 6, no spaces.

Equal to sacrebleu's corpus_chrf to the last bit. Of several references an item counts the one that is best for it.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from adaptbench.metrics.base import Array, Metric, ratio, register
from adaptbench.metrics.sacre import segment_statistics, signature_of

ORDERS = 6
BETA_SQUARED = 4  # recall weighs twice as much as precision


def ngram_counts(answer: str, references: Sequence[str], classes: int) -> list[int]:
    """(18,): for each order 1 to 6 the n-grams of the answer, those of the reference, and those in common."""
    return segment_statistics("CHRF", answer, references)


def chrf(sums: Array) -> Array:
    """(..., 18) -> (...) in [0, 100]: F of precision and recall, each averaged over the orders both texts have."""
    sums = np.asarray(sums, dtype=float)
    of_answer, of_reference, common = (sums[..., start::3] for start in range(3))  # (..., 6)
    counted = (of_answer > 0) & (of_reference > 0)
    orders = counted.sum(axis=-1)
    precision = ratio(np.where(counted, ratio(common, of_answer), 0.0).sum(axis=-1), orders)
    recall = ratio(np.where(counted, ratio(common, of_reference), 0.0).sum(axis=-1), orders)
    return 100 * ratio((1 + BETA_SQUARED) * precision * recall, BETA_SQUARED * precision + recall)


register(Metric("chrf", "chrF", "text", ngram_counts, chrf, highest=100.0, signature=partial(signature_of, "CHRF")))
