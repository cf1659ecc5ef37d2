"""Budgets of trainable parameters: which width, rank or length of a method comes closest to one from below."""

import re
from collections.abc import Callable
from typing import Any

from adaptbench.errors import InputError
from adaptbench.models.backbone import Backbone

DENOMINATORS = ("all", "non_embedding")
UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
LARGEST = 2**20  # no width or rank is larger


def non_embedding(backbone: Backbone) -> int:
    """Parameters of the model without the matrices that words are looked up and predicted with; tied ones once."""
    tables = (backbone.model.get_input_embeddings(), backbone.model.get_output_embeddings())
    weights: dict[int, Any] = {id(table.weight): table.weight for table in tables if table is not None}
    return backbone.parameters_total - sum(weight.numel() for weight in weights.values())


def parse(budget: str) -> tuple[float, bool]:
    """A budget as a number of parameters, or as a share ("10%"): the number, and whether it is a share.

    Raises:
        InputError: neither.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?(?:e[0-9]+)?)\s*([%kmb]?)\s*", budget.lower())
    if match is None or not float(match[1]):
        raise InputError(f"method.budget={budget}: expected a share of the model's parameters (10%) or a number (1M)")
    return (float(match[1]) / 100, True) if match[2] == "%" else (float(match[1]) * UNITS[match[2]], False)


def parameters_allowed(budget: str, of: str, backbone: Backbone) -> int:
    """The budget as a number of parameters of this model."""
    amount, is_share = parse(budget)
    whole = backbone.parameters_total if of == "all" else non_embedding(backbone)
    return int(amount * whole) if is_share else int(amount)


def largest(parameters: Callable[[int], int], allowed: int) -> int:
    """The largest size whose number of parameters, which grows with it, is within what is allowed; 0 if none is."""
    low, high = 0, 1
    while high <= LARGEST and parameters(high) <= allowed:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(middle) <= allowed else (low, middle)
    return low
