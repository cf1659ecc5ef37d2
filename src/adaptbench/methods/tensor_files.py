"""Tensors from a file somebody else may have written: read whole and compared with what is expected, or refused."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from adaptbench.errors import InputError, one_line

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # a file may be of another precision


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        InputError: there is no such file, it is cut short, or it is no safetensors file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: not a safetensors file: {one_line(error)}") from error


def check_tensors(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: Path, reader: str) -> None:
    """Find fault with tensors from a file before any of them is used.

    Args:
        expected: names and shapes; they may be on the meta device.
        reader: what reads them, as the message calls it.

    Raises:
        InputError: a tensor too many or too few, another shape, another kind of numbers, NaN or infinity.
    """
    if left_over := state.keys() - expected.keys():
        raise InputError(f"{origin}: {reader} has no place for {listed(left_over)}")
    if missing := expected.keys() - state.keys():
        raise InputError(f"{origin}: {reader} misses {listed(missing)}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            raise InputError(f"{origin}: {shown(name)} has the shape {shapes}")
        kinds = FLOATS if expected[name].is_floating_point() else (expected[name].dtype,)
        if tensor.dtype not in kinds:
            raise InputError(f"{origin}: {shown(name)} has {tensor.dtype}, expected {' or '.join(map(str, kinds))}")
        if not tensor.float().isfinite().all():
            raise InputError(f"{origin}: {shown(name)} has values that are NaN or infinite")


def shown(value: Any) -> str:
    """A name or setting as a message shows it: on one line, and not endlessly."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first few names in alphabetical order, and how many more there are."""
    first, rest = sorted(names)[:most], len(set(names)) - most
    return ", ".join(shown(name) for name in first) + (f" and {rest} more" if rest > 0 else "")
