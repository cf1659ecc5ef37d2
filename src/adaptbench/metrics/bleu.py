"""BLEU of a corpus (Papineni et al. 2002) with sacrebleu's defaults: 13a tokens, n-grams up to 4, smoothing "exp".

Equal to sacrebleu's corpus_bleu to the last bit, for one or several references. It is a score of the corpus and not
a mean over items: in a single short item, or in few, an order without any n-gram makes it 0.

Smoothing and scale: an order n without a match, but with n-grams, has the precision 1 / (2^j total), where j counts
such orders so far (NIST's smoothing). Only there BLEU depends on the size of the sums: c times the sums give 1/c of
that precision. All else is a ratio of sums. Bootstrap draws of N items from N keep the size.
"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from adaptbench.metrics.base import Array, Metric, ratio, register
from adaptbench.metrics.sacre import segment_statistics, signature_of

ORDERS = 4
# numpy's own log and exp may differ in the last bit from the C library's, which sacrebleu uses.
LOG, EXP = np.frompyfunc(math.log, 1, 1), np.frompyfunc(math.exp, 1, 1)


def ngram_counts(answer: str, references: Sequence[str], classes: int) -> list[int]:
    """(10,): tokens of the answer, of the reference nearest in length, matches of orders 1 to 4, n-grams of these."""
    return segment_statistics("BLEU", answer, references)


def bleu(sums: Array) -> Array:
    """(..., 10) -> (...) in [0, 100]; 0 if no word matches, or if there is no n-gram of some order."""
    sums = np.asarray(sums, dtype=float)
    length, reference_length = sums[..., 0], sums[..., 1]
    matches, ngrams = sums[..., 2 : 2 + ORDERS], sums[..., 2 + ORDERS :]
    defined = np.asarray((matches > 0).any(axis=-1) & (ngrams > 0).all(axis=-1))

    unmatched = matches == 0
    halvings = 2.0 ** np.cumsum(unmatched, axis=-1)
    precisions = np.where(unmatched, ratio(100.0, halvings * ngrams), ratio(100.0 * matches, ngrams))
    logs = np.asarray(LOG(np.where(defined[..., None], precisions, 1.0)), dtype=float)  # (..., 4)
    mean_log = (logs[..., 0] + logs[..., 1] + logs[..., 2] + logs[..., 3]) / ORDERS

    brevity = EXP(np.minimum(1 - ratio(reference_length, length), 0.0))
    return np.where(defined, np.asarray(brevity * EXP(mean_log), dtype=float), 0.0)


register(Metric("bleu", "BLEU", "text", ngram_counts, bleu, highest=100.0, signature=partial(signature_of, "BLEU")))
