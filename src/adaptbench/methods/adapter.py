"""Bottleneck adapters: h + relu(h D + d) U + u after a sublayer (Houlsby et al. 2019, Pfeiffer et al. 2021).

Houlsby et al. put one on every sublayer's output, before the residual sum; the T-Few paper's code does so after the
feed-forward only. Pfeiffer et al. also have one per block, but it reads the sum of feed-forward and residual. Bapna and
Firat (2019) have one after every layer of a translation model, which reads the layer's output through a norm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from adaptbench.errors import InputError
from adaptbench.methods.base import PeftMethod, register
from adaptbench.models.anatomy import Anatomy
from adaptbench.models.delta import Delta, Piece

PLACEMENTS = {
    "houlsby": ("self", "cross", "ff"),  # after every sublayer
    "tfew": ("ff",),  # after the feed-forward
    "pfeiffer": ("block",),  # after a whole block
}


class Bottleneck(Piece):
    """h + relu(h D + d) U + u; D is drawn from N(0, init_scale^2), everything else starts at zero."""

    def __init__(self, runs: int, width: int, bottleneck: int, init_scale: float):
        super().__init__()
        self.down = nn.Parameter(torch.zeros(runs, width, bottleneck))
        self.down_bias = nn.Parameter(torch.zeros(runs, 1, bottleneck))
        self.up = nn.Parameter(torch.zeros(runs, bottleneck, width))
        self.up_bias = nn.Parameter(torch.zeros(runs, 1, width))
        self.init_scale = init_scale

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        with torch.no_grad():
            for run, generator in enumerate(generators):
                self.down[run].normal_(0, self.init_scale, generator=generator)

    def forward(self, hidden: Tensor) -> Tensor:  # (R, M, D) -> (R, M, D)
        return hidden + self.update(hidden)

    def update(self, hidden: Tensor) -> Tensor:
        """relu(h D + d) U + u."""
        dtype = hidden.dtype
        inner = torch.baddbmm(self.down_bias.to(dtype), hidden, self.down.to(dtype)).relu()
        return torch.baddbmm(self.up_bias.to(dtype), inner, self.up.to(dtype))


class PreNormBottleneck(Bottleneck):
    """h + relu(n D + d) U + u with n = w * norm(h) + b, a layer norm that starts as the plain one."""

    def __init__(self, runs: int, width: int, bottleneck: int, init_scale: float):
        super().__init__(runs, width, bottleneck, init_scale)
        self.norm_weight = nn.Parameter(torch.ones(runs, 1, width))
        self.norm_bias = nn.Parameter(torch.zeros(runs, 1, width))

    def forward(self, hidden: Tensor) -> Tensor:  # (R, M, D) -> (R, M, D)
        plain = layer_norm(hidden, hidden.shape[-1:])
        return hidden + self.update(self.norm_weight.to(hidden.dtype) * plain + self.norm_bias.to(hidden.dtype))


@register("adapter")
@dataclass(frozen=True)
class Adapter(PeftMethod):
    """Adapters of width d_model / reduction, in one of three placements."""

    source = "arXiv 1902.00751 (houlsby), 2005.00247 (pfeiffer), 2205.05638 (tfew), 1909.08478 (pre_norm)"
    sized_by = "bottleneck"

    placement: str = "tfew"
    reduction: int = 32
    init_scale: float = 0.02
    bottleneck: int | None = None
    """Its width; null: d_model / reduction."""
    pre_norm: bool = False
    """It reads what it adapts through a trained layer norm of its own."""

    @property
    def formula(self) -> str:
        return f"h + relu({'(w ⊙ norm(h) + b)' if self.pre_norm else 'h'} D + d) U + u"

    @property
    def attachment(self) -> str:
        return f"outputs of {', '.join(PLACEMENTS[self.placement])}"

    def check(self) -> None:
        if self.placement not in PLACEMENTS:
            raise InputError(f"method.placement={self.placement!r}: expected one of {', '.join(PLACEMENTS)}")
        if self.bottleneck is not None and self.bottleneck < 1:
            raise InputError(f"method.bottleneck={self.bottleneck}: expected at least 1")

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        delta = Delta(runs)
        kind = PreNormBottleneck if self.pre_norm else Bottleneck
        for site in anatomy.sublayers:
            if site.role in PLACEMENTS[self.placement]:
                bottleneck = self.bottleneck or max(1, site.width // self.reduction)
                delta.map_output(site, kind(runs, site.width, bottleneck, self.init_scale))
        return delta
