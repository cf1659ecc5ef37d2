"""LoRA (Hu et al. 2021): a low-rank update beside each linear map, y + (alpha / rank) * x A B."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from adaptbench.methods.base import PeftMethod, register
from adaptbench.models import hooks
from adaptbench.models.anatomy import ROLES, Anatomy, weight_matrix
from adaptbench.models.delta import Delta, Piece


class LowRank(Piece):
    """(alpha / rank) * x A B; A is drawn from N(0, init_scale^2), B starts at zero."""

    def __init__(self, runs: int, d_in: int, d_out: int, rank: int, scaling: float, init_scale: float):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(runs, d_in, rank))
        self.b = nn.Parameter(torch.zeros(runs, rank, d_out))
        self.scaling = scaling
        self.init_scale = init_scale

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        with torch.no_grad():
            for run, generator in enumerate(generators):
                self.a[run].normal_(0, self.init_scale, generator=generator)

    def forward(self, hidden: Tensor) -> Tensor:  # (R, M, D_in) -> (R, M, D_out)
        return torch.bmm(self.down(hidden), self.b.to(hidden.dtype))

    def added(self, output: Tensor, hidden: Tensor) -> Tensor:
        """output + forward(hidden), in one pass over the output."""
        return torch.baddbmm(output, self.down(hidden), self.b.to(hidden.dtype))

    def down(self, hidden: Tensor) -> Tensor:  # (R, M, D_in) -> (R, M, rank)
        """Scaled here, where it is small."""
        return torch.bmm(hidden, self.a.to(hidden.dtype)) * self.scaling

    def merge(self, module: nn.Module, run: int, detail: hooks.Columns) -> None:
        weight = weight_matrix(module)
        weight[hooks.rows(weight, detail)] += self.scaling * (self.a[run] @ self.b[run]).T


@register("lora")
@dataclass(frozen=True)
class LoRA(PeftMethod):
    """Low-rank updates of every attention and feed-forward matrix, as the paper has it."""

    attachment = "linear maps"
    formula = "x W + (α / r) x A B"
    source = "arXiv 2106.09685"
    merges = True
    sized_by = "rank"

    rank: int = 4
    alpha: float = 1.0
    init_scale: float = 0.01
    targets: list[str] = field(default_factory=lambda: list(ROLES))

    def in_size(self, size: int) -> "LoRA":
        """Another rank at the same scale alpha / rank."""
        return replace(self, rank=size, alpha=self.alpha * size / self.rank)

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        delta = Delta(runs)
        for site in anatomy.linear(*self.targets):
            piece = LowRank(runs, site.d_in, site.d_out, self.rank, self.alpha / self.rank, self.init_scale)
            delta.add_to_output(site, piece)
        return delta
