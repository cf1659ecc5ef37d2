"""Peak memory, by tensors: weights, activations, gradients and optimizer state, whichever are alive at once.

The count follows every tensor storage of a step from its creation to its release. It runs on the meta device, so
it is the same on every machine and works for models no machine here can hold; on real tensors it counts the same.
An allocator adds rounding and workspaces, and fused attention keeps less than the score matrices counted here while
training; a prediction's attention counts as fused.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adaptbench.costs.meta import MetaRun, no_gradients_left
from adaptbench.data.batching import Shape
from adaptbench.models.anatomy import Anatomy
from adaptbench.scoring.limits import PassSize

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default  # its kernels hold no scores where none are kept


@dataclass(frozen=True)
class Memory:
    """Bytes alive at the peak, by what they are."""

    weights: int = 0  # of the base model and of what is trained
    activations: int = 0  # and whatever else is alive for a moment
    gradients: int = 0
    optimizer: int = 0  # statistics, and the temporaries of its step
    kv_cache: int = 0

    @property
    def peak(self) -> int:
        return sum(vars(self).values())


class PeakTracker(TorchDispatchMode):
    """Bytes of all tensor storages alive, and their peak, while the mode is on."""

    def __init__(self, already: Iterable[Tensor]):
        super().__init__()
        self.current = 0
        self.peak = 0
        self.kind = "weights"  # what a storage created now is counted as
        self.memory = Memory()
        self._held: Counter[str] = Counter()
        self._kinds: weakref.WeakKeyDictionary[torch.UntypedStorage, list[str]] = weakref.WeakKeyDictionary()
        for tensor in already:
            self._add(tensor)
        self.kind = "activations"

    @contextmanager
    def as_kind(self, kind: str) -> Iterator[None]:
        """Count what is created inside as `kind`."""
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before

    def relabel(self, tensors: Iterable[Tensor | None], kind: str) -> None:
        """Count these tensors' storages as `kind` from now on."""
        for tensor in (part for whole in tensors if whole is not None for part in _strided(whole)):
            if (cell := self._kinds.get(tensor.untyped_storage())) is not None:
                size = tensor.untyped_storage().nbytes()
                self._held[cell[0]] -= size
                self._held[kind] += size
                cell[0] = kind

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not _ATTENTION:
            with self:  # in inference mode a composite operation comes whole, the cross-entropy's log-softmax inside
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        for part in _strided(tensor):
            self._add_storage(part)

    def _add_storage(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._kinds:
            return
        cell = self._kinds[storage] = [self.kind]
        size = storage.nbytes()
        self.current += size
        self._held[self.kind] += size
        if self.current > self.peak:
            self.peak = self.current
            self.memory = Memory(**self._held)
        weakref.finalize(storage, self._release, size, cell)

    def _release(self, size: int, cell: list[str]) -> None:
        self.current -= size
        self._held[cell[0]] -= size


def _strided(tensor: Tensor) -> tuple[Tensor, ...]:
    """The tensor, or the two that hold a sparse one: those have no storage of their own."""
    return (tensor._indices(), tensor._values()) if tensor.layout is torch.sparse_coo else (tensor,)


def predict_memory(run: MetaRun, shape: Shape) -> Memory:
    """The peak of scoring a batch of this shape, in passes as large as the model's setting lets one run have."""
    size = run.task.pass_size(run.adaptation.backbone, shape)
    with PeakTracker(own_tensors(run)) as tracker:
        run.predict(replace(shape, rows=min(shape.rows, size.rows)), size)
    return tracker.memory


def train_memory(run: MetaRun, shape: Shape) -> Memory:
    """The peak of a training step of this shape that finds the optimizer's state of an earlier one, in such passes."""
    size = run.task.pass_size(run.adaptation.backbone, shape).within(PassSize.of_recipe(run.recipe))
    with no_gradients_left(run), PeakTracker(own_tensors(run)) as tracker:
        with tracker.as_kind("optimizer"):
            optimizer = run.optimizer()
        tracker.relabel(run.adaptation.parameters, "weights")  # they moved into the optimizer's buffers
        tracker.relabel((parameter.grad for parameter in run.adaptation.parameters), "gradients")
        with tracker.as_kind("optimizer"):
            run.optimizer_step(optimizer)
        optimizer.zero_grad()
        run.forward_backward(replace(shape, rows=min(shape.rows, size.rows)), size)
        with tracker.as_kind("optimizer"):
            run.optimizer_step(optimizer)
    return tracker.memory


def kv_cache_bytes(anatomy: Anatomy, tokens: int, dtype: torch.dtype) -> int:
    """Bytes of keys and values of `tokens` tokens in every decoder self-attention (paper, section 2.1)."""
    widths = sum(2 * site.heads * site.head_width for site in anatomy.attentions if site.kind == "decoder")
    return widths * tokens * dtype.itemsize


def own_tensors(run: MetaRun) -> list[Tensor]:
    """What a run holds before any step."""
    model = run.adaptation.backbone.model
    return [*model.parameters(), *model.buffers(), *run.adaptation.parameters]
