"""Updates of one large matrix on a CPU, in pieces that stay in a core's cache.

Full fine-tuning moves hundreds of millions of weights. The dozen operations of an update, each over all of a matrix,
take their time for memory; over some of its rows at a time they do not. What they compute is the same.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

PIECE = 2**17  # elements
LARGE = 4 * PIECE
Pieces = Iterator[tuple[slice, Tensor]]  # rows of a matrix, and their change


def is_large(value: Tensor) -> bool:
    """Whether a buffer (1, M, D) is one that this is for."""
    return value.device.type == "cpu" and value.dim() == 3 and len(value) == 1 and value.numel() >= LARGE


def ranges(value: Tensor) -> Iterator[slice]:
    """Ranges of the M rows of (1, M, D)."""
    rows = max(1, PIECE // value.shape[2])
    return (slice(start, start + rows) for start in range(0, value.shape[1], rows))


def moving_mean(state: dict[str, Tensor], name: str, value: Tensor, decay: float) -> Tensor:
    """The mean of the values so far, the last ones weighing most; kept in `state`."""
    if name not in state:
        state[name] = torch.zeros_like(value)
    return state[name].mul_(decay).add_(value, alpha=1 - decay)


def factored(
    value: Tensor,
    grad: Callable[[slice], Tensor],
    state: dict[str, Tensor],
    lr: Tensor,
    *,
    decay: float,
    epsilon: float,
    clip_threshold: float,
    smallest_scale: float | None,
) -> Pieces:
    """Adafactor's changes of a matrix (1, M, D), a piece after the other; a piece may be changed once its own is there.

    Args:
        grad: rows -> their gradient in the precision of `value`, as a tensor of its own.
        smallest_scale: of a step relative to the matrix's size; None where steps are not relative.
    """
    rows, columns, size = [], value.new_zeros(1, value.shape[2]), value.new_zeros(())
    for piece in ranges(value):
        square = grad(piece).square_().add_(epsilon)
        rows.append(square.mean(-1))
        columns += square.sum(-2)
        if smallest_scale is not None:
            size += value[:, piece].square().sum()
    row = moving_mean(state, "rows", torch.cat(rows, dim=1), decay)
    column = moving_mean(state, "columns", columns / value.shape[1], decay)
    by_row, by_column = (row / row.mean(-1, keepdim=True)).rsqrt()[..., None], column.rsqrt()[:, None]

    def direction(piece: slice) -> Tensor:
        return grad(piece).mul_(by_row[:, piece]).mul_(by_column)

    total = value.new_zeros(())
    for piece in ranges(value):
        total += direction(piece).square_().sum()
    rate = lr / ((total / value.numel()).sqrt() / clip_threshold).clamp(min=1.0)
    if smallest_scale is not None:
        rate = rate * (size / value.numel()).sqrt().clamp(min=smallest_scale)
    for piece in ranges(value):
        yield piece, direction(piece).mul_(rate)


def element_by_element(
    value: Tensor,
    grad: Callable[[slice], Tensor],
    state: dict[str, Tensor],
    moments: tuple[str, ...],
    change: Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor],
) -> Pieces:
    """The same for a rule whose elements know nothing of each other.

    Args:
        moments: names of what it keeps of every element.
        change: value, gradient and moments of a piece -> its change.
    """
    for name in moments:
        if name not in state:
            state[name] = torch.zeros_like(value)
    for piece in ranges(value):
        yield piece, change(value[:, piece], grad(piece), {name: state[name][:, piece] for name in moments})
