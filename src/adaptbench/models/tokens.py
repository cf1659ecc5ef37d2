"""Which places of a pass hold tokens, for what a method computes from a text as a whole."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

_mask: Tensor | None = None  # (N, S)


@contextmanager
def tokens_at(mask: Tensor) -> Iterator[None]:
    """Inside, True in this mask (N, S) is where the rows of a pass have tokens."""
    global _mask
    _mask = mask
    try:
        yield
    finally:
        _mask = None


def mean_over_tokens(values: Tensor) -> Tensor:
    """(R, M, 1), M being the rows and positions of a run -> the same, at every position its row's mean over tokens.

    Raises:
        RuntimeError: outside `tokens_at`.
    """
    if _mask is None:
        raise RuntimeError("means over texts are taken under tokens_at alone")
    rows = values.reshape(*_mask.shape, 1)
    real = _mask[..., None].to(values.dtype)
    mean = (rows * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
    return mean.expand(rows.shape).reshape(values.shape)
