"""Bytes a user would have to keep, from shapes alone: the same files that a finished run writes."""

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from adaptbench.methods.base import Adaptation, Method

NPY_HEADER = 128  # bytes before the numbers of a one-dimensional array (NumPy's format 1.0)
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64", torch.int32: "I32"}


def stored_bytes(method: Method, adaptation: Adaptation, context: int) -> int:
    """Size of all files one run stores; `context` is how many demonstration tokens an in-context method keeps."""
    adaptation = adaptation.for_inference()
    tensors, metadata = method.stored_tensors(adaptation)
    head = adaptation.backbone.head
    if adaptation.contexts is None and not tensors and head is None:
        return 0
    own = NPY_HEADER + 4 * context if adaptation.contexts is not None else 0
    own += safetensors_bytes(tensors, metadata) if tensors else 0
    own += safetensors_bytes(head.state_of(0)) if head is not None else 0
    return own + len(method.settings(adaptation).encode())


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> int:
    """Size of a safetensors file: eight bytes, a JSON header padded to a multiple of eight, and the numbers."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        start, end = end, end + tensor.numel() * tensor.dtype.itemsize
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"))
    return 8 + -(-len(text.encode()) // 8) * 8 + end
