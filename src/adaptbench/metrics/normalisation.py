"""Which choice ranks first: log-likelihoods of choices, divided by their length, and the highest of an item."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

NORMS = ("token", "none", "character", "byte")  # what a log-likelihood is divided by; the T-Few paper's first
LENGTHS = {"token": "tokens", "character": "characters", "byte": "bytes"}  # the column that holds it

Array = NDArray[Any]


def normalised(columns: Mapping[str, Any], norm: str) -> Array:
    """(M,) log-likelihood of each choice over its length; a choice without characters counts as one.

    Args:
        columns: `log_likelihood`, `tokens`, `characters` and `bytes` of M choices.
    """
    values = np.asarray(columns["log_likelihood"], dtype=float)
    if norm not in LENGTHS:
        return values
    return values / np.maximum(np.asarray(columns[LENGTHS[norm]], dtype=float), 1)


def first_ranked(items: Array, choices: Array, values: Array) -> Array:
    """(N,) the choice of highest value of each item, the first of equals; NaN ranks last.

    Args:
        items: (M,) item of each choice, 0..N-1.
        choices: (M,) its index among the item's choices; items may have different numbers of them.
        values: (M,) its value.
    """
    table = np.full((int(items.max()) + 1, int(choices.max()) + 1), -np.inf)
    table[items, choices] = np.where(np.isnan(values), -np.inf, values)
    return table.argmax(axis=1)
