"""What a continued pre-training cost: FLOPs counted by shape, and the memory of its largest pass."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from adaptbench.costs.flops import count
from adaptbench.costs.memory import PeakTracker
from adaptbench.models.backbone import from_config
from adaptbench.pretraining.objectives import Objective, QuestionBatch, summed_loss

MOMENTS = 2  # numbers that AdamW keeps for each parameter, in single precision
WIDTH = 8  # any: what a predicted token costs does not depend on it


class FlopsOfPasses:
    """Counts a pass of every shape once, on the meta device where the model runs there."""

    def __init__(self, model: PreTrainedModel, objective: Objective):
        self._model = model
        self._objective = objective
        self._price(1, WIDTH, 1)  # what cannot be counted is known before the training

    @cached_property
    def _counted(self) -> PreTrainedModel:
        try:
            meta = from_config(self._model.config, torch.float32, self._objective.auto).requires_grad_(True)
            summed_loss(meta, _batch(1, WIDTH, 1, meta.device)).backward()
        except Exception:  # whatever code may raise that asks what tensors contain
            return self._model
        return meta

    def _price(self, rows: int, width: int, predicted: int) -> int:
        model = self._counted
        with sdpa_kernel(SDPBackend.MATH):
            found = count(lambda: summed_loss(model, _batch(rows, width, predicted, model.device)).backward())
        _drop_gradients(model)
        return found

    def total(self, work: Mapping[Any, int]) -> int:
        """FLOPs of all passes, forward and backward.

        The head's part is proportional to the number of predicted tokens, which differs from pass to pass.

        Args:
            work: what `loop.Pass.work` adds up to, ("pass", rows, width) -> how often.
        """
        head = self._price(1, WIDTH, 2) - self._price(1, WIDTH, 1)
        shapes = {what[1:]: times for what, times in work.items() if isinstance(what, tuple)}
        bodies = sum(times * (self._price(rows, width, 1) - head) for (rows, width), times in shapes.items())
        return bodies + head * work.get("predicted", 0)


def bill(counter: FlopsOfPasses, state: Mapping[str, Any], peak: int) -> dict[str, Any]:
    """FLOPs, seconds, bytes of memory, and what was read: tokens without padding, rows, predicted tokens and steps."""
    work = state["work"]
    return {
        "flops": counter.total(work),
        "seconds": round(state["seconds"], 3),
        "memory_peak_bytes": peak,
        "tokens": work.get("tokens", 0),
        "predicted_tokens": work.get("predicted", 0),
        "rows": work.get("rows", 0),
        "steps": state["step"],
    }


def memory_peak(model: PreTrainedModel, losses: Sequence[Callable[[], Tensor]], autocast: bool) -> int:
    """Bytes of all tensors at the peak of a training step: weights, what AdamW keeps, activations and gradients.

    Args:
        losses: of passes whose gradients add up, of the largest there are.
        autocast: as they are trained.
    """
    model.train()
    with PeakTracker([*model.parameters(), *model.buffers()]) as tracker:
        for loss in losses:
            with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
                value = loss()
            value.backward()
    _drop_gradients(model)
    return tracker.peak + MOMENTS * sum(4 * parameter.numel() for parameter in model.parameters())


def _batch(rows: int, width: int, predicted: int, device: torch.device) -> QuestionBatch:
    ids = torch.zeros(rows, width, dtype=torch.long, device=device)
    chosen = torch.zeros(predicted, dtype=torch.long, device=device)
    return QuestionBatch(ids, torch.ones_like(ids), chosen, chosen, chosen)


def _drop_gradients(model: PreTrainedModel) -> None:
    for parameter in model.parameters():
        parameter.grad = None
