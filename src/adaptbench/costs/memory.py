"""Peak memory, by tensors: weights, activations, gradients and optimizer state, whichever are alive at once.

The count follows every tensor storage of a step from its creation to its release. It runs on the meta device, so
it is the same on every machine and works for models no machine here can hold. On an accelerator the allocator's
peak of one real step is measured instead; it adds rounding and workspaces.
"""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adaptbench.costs.meta import MetaRun, no_gradients_left
from adaptbench.data.batching import Shape
from adaptbench.models.anatomy import Anatomy


class PeakTracker(TorchDispatchMode):
    """Bytes of all tensor storages alive, and their peak, while the mode is on."""

    def __init__(self, already: Iterable[Tensor]):
        super().__init__()
        self.current = 0
        self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        for tensor in already:
            self._add(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.current -= size


def predict_peak(run: MetaRun, shape: Shape) -> int:
    """Bytes at the peak of scoring one batch of this shape."""
    with PeakTracker(_parameters(run)) as tracker:
        run.predict(shape)
    return tracker.peak


def train_peak(run: MetaRun, shape: Shape) -> int:
    """Bytes at the peak of two training steps of this shape (the second one finds the optimizer's state)."""
    with no_gradients_left(run), PeakTracker(_parameters(run)) as tracker:
        optimizer = run.optimizer()
        for _ in range(2):
            optimizer.zero_grad()
            run.forward_backward(shape)
            run.optimizer_step(optimizer)
    return tracker.peak


def kv_cache_bytes(anatomy: Anatomy, tokens: int, dtype: torch.dtype) -> int:
    """Bytes of keys and values of `tokens` tokens in every decoder self-attention (paper, section 2.1)."""
    widths = sum(2 * site.heads * site.head_width for site in anatomy.attentions if site.kind == "decoder")
    return widths * tokens * dtype.itemsize


def _parameters(run: MetaRun) -> list[Tensor]:
    model = run.adaptation.backbone.model
    return [*model.parameters(), *model.buffers(), *run.adaptation.parameters]
