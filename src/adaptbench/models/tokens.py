"""Which places of a pass hold the tokens of which row, for what a method computes from a text as a whole."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

_mean: Callable[[Tensor], Tensor] | None = None


@contextmanager
def tokens_at(mask: Tensor) -> Iterator[None]:
    """Inside, True in this mask (N, S) is where the rows of a pass have tokens."""
    with _meant(lambda values: _of_padded(values, mask)):
        yield


@contextmanager
def tokens_of_rows(owners: Tensor, lengths: Tensor) -> Iterator[None]:
    """Inside, the places of a pass hold tokens of rows that are laid end to end.

    Args:
        owners: (places,) the row of each, N where there is none.
        lengths: (N,) tokens of each row.
    """
    with _meant(lambda values: _of_packed(values, owners, lengths)):
        yield


@contextmanager
def _meant(mean: Callable[[Tensor], Tensor]) -> Iterator[None]:
    global _mean
    _mean = mean
    try:
        yield
    finally:
        _mean = None


def mean_over_tokens(values: Tensor) -> Tensor:
    """(R, M, 1), M being the rows and positions of a run -> the same, at every position its row's mean over tokens.

    Raises:
        RuntimeError: outside `tokens_at` and `tokens_of_rows`.
    """
    if _mean is None:
        raise RuntimeError("means over texts are taken under tokens_at or tokens_of_rows alone")
    return _mean(values)


def _of_padded(values: Tensor, mask: Tensor) -> Tensor:
    rows = values.reshape(*mask.shape, 1)
    real = mask[..., None].to(values.dtype)
    mean = (rows * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
    return mean.expand(rows.shape).reshape(values.shape)


def _of_packed(values: Tensor, owners: Tensor, lengths: Tensor) -> Tensor:
    """What stands where no token is gets no mean, but itself."""
    flat = values.flatten()
    sums = flat.new_zeros(len(lengths) + 1).index_add(0, owners, flat)
    means = sums[:-1] / lengths.to(flat.dtype)
    own = means.index_select(0, owners.clamp(max=len(lengths) - 1))
    return own.where(owners < len(lengths), flat).view(values.shape)
