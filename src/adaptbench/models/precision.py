"""Single precision where half is too little."""

from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """In single precision at least."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor
