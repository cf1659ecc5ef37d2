"""Optimizers that keep runs apart: statistics, clipping and updates are computed for each run alone.

Stock optimizers see a stack of R vectors as one matrix: Adafactor would factor and clip across runs. Here the
leading axis of a parameter is the run axis, and everything reduces over the other axes only. Parameters of the
same shape are kept in one buffer, so a step is a handful of tensor operations however many parameters there are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from adaptbench.models.precision import wide
from adaptbench.schema import RecipeConfig
from adaptbench.training.large_matrices import Pieces, element_by_element, factored, is_large, moving_mean

Update = Callable[[Tensor, Tensor, dict[str, Tensor], int, Tensor], Tensor]  # value, gradient, state, step, rates
Gradient = Callable[[slice], Tensor]  # of some rows


@dataclass(frozen=True)
class Adafactor:
    """Adafactor (Shazeer and Stern 2018) with a given learning rate, as the paper trains.

    Matrices (two or more axes beside the run axis) keep factored second moments, vectors full ones. With
    `scale_parameter` a step is relative to the root mean square of the parameter itself.
    """

    scale_parameter: bool = True
    decay_rate: float = -0.8
    epsilon: float = 1e-30
    smallest_scale: float = 1e-3
    clip_threshold: float = 1.0

    def __call__(self, value: Tensor, grad: Tensor, state: dict[str, Tensor], step: int, lr: Tensor) -> Tensor:
        decay = 1.0 - step**self.decay_rate
        square = grad.square().add_(self.epsilon)
        if grad.dim() >= 3:
            rows = moving_mean(state, "rows", square.mean(-1), decay)
            columns = moving_mean(state, "columns", square.mean(-2), decay)
            row_factor = (rows / rows.mean(-1, keepdim=True)).rsqrt().unsqueeze(-1)
            update = (grad * row_factor).mul_(columns.rsqrt().unsqueeze(-2))
        else:
            update = grad * moving_mean(state, "square", square, decay).rsqrt()
        update.div_((_rms(update) / self.clip_threshold).clamp(min=1.0))
        if self.scale_parameter:
            update.mul_(_rms(value).clamp(min=self.smallest_scale))
        return update.mul_(lr)

    def in_pieces(self, value: Tensor, grad: Gradient, state: dict[str, Tensor], step: int, lr: Tensor) -> Pieces:
        """The same for one large matrix."""
        return factored(
            value,
            grad,
            state,
            lr,
            decay=1.0 - step**self.decay_rate,
            epsilon=self.epsilon,
            clip_threshold=self.clip_threshold,
            smallest_scale=self.smallest_scale if self.scale_parameter else None,
        )


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov and Hutter 2019). Matrices decay if asked; biases and other vectors do not."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __call__(
        self,
        value: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        step: int,
        lr: Tensor,
        decays: bool = False,  # a part of a matrix, whatever its shape
    ) -> Tensor:
        mean = moving_mean(state, "mean", grad, self.beta1) / (1 - self.beta1**step)
        square = moving_mean(state, "square", grad.square(), self.beta2) / (1 - self.beta2**step)
        update = mean / (square.sqrt() + self.epsilon)
        if self.weight_decay and (decays or (value.dim() > 2 and min(value.shape[-2:]) > 1)):
            update += self.weight_decay * value
        return update.mul_(lr)

    def in_pieces(self, value: Tensor, grad: Gradient, state: dict[str, Tensor], step: int, lr: Tensor) -> Pieces:
        """The same for one large matrix."""

        def change(part: Tensor, gradient: Tensor, moments: dict[str, Tensor]) -> Tensor:
            return self(part, gradient, moments, step, lr, decays=True)

        return element_by_element(value, grad, state, ("mean", "square"), change)


def update_rule(recipe: RecipeConfig, scale_parameter: bool = True) -> Update:
    """The optimizer that a recipe names."""
    if recipe.optimizer == "adafactor":
        return Adafactor(scale_parameter)
    return AdamW(weight_decay=recipe.weight_decay)


@dataclass
class _Buffer:
    """Parameters of one shape: (parameters * runs, *shape), with their gradients and statistics alike."""

    value: Tensor  # in single precision at least: a step relative to a bfloat16 weight would be rounded away
    grad: Tensor
    count: int  # parameters stacked
    served: Tensor | None = None  # the model's own, less precise copy of `value`, renewed after every step
    state: dict[str, Tensor] = field(default_factory=dict)


class RunOptimizer:
    """Trains parameters whose leading axis is the run axis, or (`run_axis=False`) a single run's plain ones.

    The parameters' storage moves into shared buffers; use them as before. Weights in half precision are trained as
    float32 masters, and the model computes with their rounded copies.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], update: Update, runs: int, run_axis: bool = True):
        self.runs = runs
        self._update = update
        self._step = 0
        groups: dict[tuple, list[nn.Parameter]] = {}
        for index, parameter in enumerate(parameters):
            alone = () if run_axis else (index,)  # a model's own weights stay where they are
            groups.setdefault((parameter.shape, parameter.dtype, parameter.device, *alone), []).append(parameter)
        make = self._stack if run_axis else self._in_place
        self._buffers = [make(group) for group in groups.values()]

    @staticmethod
    def _stack(group: list[nn.Parameter]) -> _Buffer:
        value = torch.stack([parameter.detach() for parameter in group])
        grad = torch.zeros_like(value)
        for index, parameter in enumerate(group):
            parameter.data = value[index]
            parameter.grad = grad[index]
        return _Buffer(value.flatten(0, 1), grad.flatten(0, 1), len(group))

    @staticmethod
    def _in_place(group: list[nn.Parameter]) -> _Buffer:
        (parameter,) = group
        parameter.grad = torch.zeros_like(parameter)
        own = parameter.data.unsqueeze(0)
        master = wide(own)
        return _Buffer(master, parameter.grad.unsqueeze(0), 1, served=None if master is own else own)

    def zero_grad(self) -> None:
        for buffer in self._buffers:
            buffer.grad.zero_()

    def grad_norms(self) -> Tensor:
        """(R,) norm of each run's whole gradient."""
        squares = [_norms(buffer.grad).square().view(buffer.count, self.runs).sum(0) for buffer in self._buffers]
        return torch.stack(squares).sum(0).sqrt()

    def step(self, lr: float | Sequence[float], clip_norm: float, alive: Tensor) -> Tensor:
        """Clip each run's gradient to `clip_norm` and update the runs that are alive.

        Args:
            lr: the learning rate, of all runs or of each.
            alive: (R,) False for a run that has failed; its parameters no longer move.

        Returns:
            (R,) alive, now also False where this step's gradient is not finite.
        """
        self._step += 1
        norms = self.grad_norms()
        alive = alive & norms.isfinite()
        rates = norms.new_tensor(lr).expand(self.runs)
        factor = torch.where(alive, (clip_norm / (norms + 1e-6)).clamp(max=1.0), 0.0)
        all_alive = alive.is_meta or bool(alive.all())
        for buffer in self._buffers:
            if all_alive and is_large(buffer.value) and hasattr(self._update, "in_pieces"):
                self._step_in_pieces(buffer, rates, factor)
                continue
            shape = (-1, *(1 for _ in buffer.value.shape[1:]))
            per_row = factor.repeat(buffer.count).view(shape)
            grad = wide(buffer.grad) * per_row
            rate = rates.repeat(buffer.count).view(shape)
            if not all_alive:  # a failed run's numbers are not finite, and zero times them is not zero
                moving = alive.repeat(buffer.count).view(shape)
                grad = torch.where(moving, grad, 0.0)
            change = self._update(buffer.value, grad, buffer.state, self._step, rate)
            buffer.value.sub_(change if all_alive else torch.where(moving, change, 0.0))
            if buffer.served is not None:
                buffer.served.copy_(buffer.value)
        return alive

    def _step_in_pieces(self, buffer: _Buffer, rate: Tensor, factor: Tensor) -> None:
        def grad(rows: slice) -> Tensor:
            return buffer.grad[:, rows].to(buffer.value.dtype) * factor

        update: Any = self._update
        for rows, change in update.in_pieces(buffer.value, grad, buffer.state, self._step, rate):
            part = buffer.value[:, rows].sub_(change)
            if buffer.served is not None:
                buffer.served[:, rows] = part


def linear_schedule(step: int, steps: int, warmup_fraction: float) -> float:
    """Factor of the learning rate at `step` (from 0): linear warm-up from zero, then linear decay to zero.

    As in the T-Few authors' code: the first step of a warm-up has a rate of zero, and its length is not rounded.
    """
    warmup = steps * warmup_fraction
    if step < warmup:
        return step / max(1.0, warmup)
    return (steps - step) / max(1.0, steps - warmup)


def _norms(grad: Tensor) -> Tensor:
    """(N, ...) -> (N,) norms, in single precision at least."""
    dtype = torch.promote_types(grad.dtype, torch.float32)
    return torch.linalg.vector_norm(grad.flatten(1), dim=1, dtype=dtype)


def _rms(tensor: Tensor) -> Tensor:
    """Root mean square over everything but the leading axis, ready to broadcast."""
    return tensor.square().mean(tuple(range(1, tensor.dim())), keepdim=True).sqrt()
