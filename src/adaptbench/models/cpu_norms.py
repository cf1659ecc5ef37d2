"""RMS norms in half precision on CPUs: the library's result to the last bit, with half as many passes over memory.

The library computes such a norm by a dozen operations and keeps every intermediate result for the gradient. On a CPU
that multiplies bfloat16 matrices quickly they take a tenth of a training step (docs/log.md).
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

TRIED = 4  # rows of random states on which a class is compared with ours


class _RmsNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + epsilon), in single precision, rounded and multiplied by a frozen weight."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = states.float()
        inverse = wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(states, weight, inverse)
        return wide.mul_(inverse).to(states.dtype) * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        states, weight, inverse = ctx.saved_tensors
        gradient = (gradients[0] * weight).float()
        normalised = states.float().mul_(inverse)
        along = (gradient * normalised).mean(-1, keepdim=True)
        return gradient.sub_(normalised.mul_(along)).mul_(inverse).to(states.dtype), None, None


class _Quick(nn.Module):
    """Mixed in before a norm's own class, whose forward remains where ours does not apply."""

    def forward(self, states: Tensor) -> Tensor:
        weight: Any = self.weight
        if states.device.type != "cpu" or states.dtype.itemsize != 2 or weight.requires_grad:
            return super().forward(states)  # type: ignore[misc]
        return _RmsNorm.apply(states, weight, _epsilon(self))


def quicken(model: nn.Module) -> None:
    """Give the RMS norms of a model in half precision the faster computation, where it is the same to the last bit."""
    for module in model.modules():
        if _is_rms_norm(module) and not isinstance(module, _Quick) and _same(module):
            module.__class__ = _quick(type(module))  # type: ignore[arg-type]


def _is_rms_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    named = any(word in type(module).__name__ for word in ("RMSNorm", "T5LayerNorm"))
    half = isinstance(weight, Tensor) and weight.dim() == 1 and weight.dtype.itemsize == 2
    return named and half and _epsilon(module) > 0


def _epsilon(module: nn.Module) -> float:
    return float(getattr(module, "variance_epsilon", getattr(module, "eps", 0.0)))


def _same(module: nn.Module) -> bool:
    """Whether a norm of this class computes what `_RmsNorm` does."""
    weight: Any = module.weight
    generator = torch.Generator().manual_seed(0)
    states = (3 * torch.randn(TRIED, len(weight), generator=generator)).to(weight.dtype)
    with torch.no_grad():
        return bool(torch.equal(module(states), _RmsNorm.apply(states, weight.detach(), _epsilon(module))))


@lru_cache(maxsize=64)
def _quick(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (_Quick, kind), {})
