"""Bottleneck adapters: h + relu(h D + d) U + u after a sublayer (Houlsby et al. 2019, Pfeiffer et al. 2021).

Houlsby et al. put one on every sublayer's output, before the residual sum; the T-Few paper's code does so after the
feed-forward only. Pfeiffer et al. also have one per block, but it reads the sum of feed-forward and residual.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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


@register("adapter")
@dataclass(frozen=True)
class Adapter(PeftMethod):
    """Adapters of width d_model / reduction, in one of three placements."""

    formula = "h + relu(h D + d) U + u"
    source = "arXiv 1902.00751 (houlsby), 2005.00247 (pfeiffer), 2205.05638 (tfew)"

    placement: str = "tfew"
    reduction: int = 32
    init_scale: float = 0.02

    @property
    def attachment(self) -> str:
        return f"outputs of {', '.join(PLACEMENTS[self.placement])}"

    def check(self) -> None:
        if self.placement not in PLACEMENTS:
            raise InputError(f"method.placement={self.placement!r}: expected one of {', '.join(PLACEMENTS)}")

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        delta = Delta(runs)
        for site in anatomy.sublayers:
            if site.role in PLACEMENTS[self.placement]:
                bottleneck = max(1, site.width // self.reduction)
                delta.map_output(site, Bottleneck(runs, site.width, bottleneck, self.init_scale))
        return delta
