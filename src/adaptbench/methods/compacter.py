"""Compacter and Compacter++ (Karimi Mahabadi et al. 2021): adapters whose matrices are sums of Kronecker products."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from adaptbench.errors import InputError
from adaptbench.methods.base import PeftMethod, register
from adaptbench.models.anatomy import Anatomy
from adaptbench.models.delta import Delta, Piece

RULE_SCALE = 0.02


class Hypercomplex(nn.Module):
    """x W + b with W = sum_i A_i ⊗ (s_i t_i): n x n rules A_i, and low-rank s_i t_i (equations 4 and 5)."""

    def __init__(self, runs: int, d_in: int, d_out: int, n: int, rank: int):
        super().__init__()
        self.rule = nn.Parameter(torch.zeros(runs, n, n, n))
        self.left = nn.Parameter(torch.zeros(runs, n, d_in // n, rank))
        self.right = nn.Parameter(torch.zeros(runs, n, rank, d_out // n))
        self.bias = nn.Parameter(torch.zeros(runs, 1, d_out))

    def draw(self, run: int, generator: torch.Generator) -> None:
        self.rule[run].normal_(0, RULE_SCALE, generator=generator)
        for factor in (self.left, self.right):  # Glorot's uniform distribution with gain sqrt(2)
            bound = math.sqrt(2) * math.sqrt(6 / (factor.shape[-1] + factor.shape[-2]))
            factor[run].uniform_(-bound, bound, generator=generator)

    def matrix(self) -> Tensor:  # (R, D_in, D_out)
        product = self.left @ self.right
        kronecker = torch.einsum("rnab,rncd->racbd", self.rule, product)
        return kronecker.flatten(3, 4).flatten(1, 2)

    def forward(self, hidden: Tensor) -> Tensor:  # (R, M, D_in) -> (R, M, D_out)
        return torch.baddbmm(self.bias.to(hidden.dtype), hidden, self.matrix().to(hidden.dtype))


class HypercomplexBottleneck(Piece):
    """h + up(relu(down(h))); the last factor of `up` starts at zero, so that it starts as the identity."""

    def __init__(self, runs: int, width: int, bottleneck: int, n: int, rank: int):
        super().__init__()
        self.down = Hypercomplex(runs, width, bottleneck, n, rank)
        self.up = Hypercomplex(runs, bottleneck, width, n, rank)

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        with torch.no_grad():
            for run, generator in enumerate(generators):
                self.down.draw(run, generator)
                self.up.draw(run, generator)
            self.up.right.zero_()

    def forward(self, hidden: Tensor) -> Tensor:  # (R, M, D) -> (R, M, D)
        return hidden + self.up(self.down(hidden).relu())


@register("compacter")
@dataclass(frozen=True)
class Compacter(PeftMethod):
    """After self-attention and feed-forward; Compacter++ after the feed-forward only.

    As in the T-Few paper's code nothing follows cross-attention, every adapter has rules of its own, and the layer
    norms are trained besides.
    """

    formula = "h + relu(h D + d) U + u, D and U = Σ_i A_i ⊗ (s_i t_i)"
    source = "arXiv 2106.04647"

    layer_norms: bool = True
    reduction: int = 32
    n: int = 4
    rank: int = 1
    after: list[str] = field(default_factory=lambda: ["self", "ff"])

    @property
    def attachment(self) -> str:
        return f"outputs of {', '.join(self.after)}"

    def check(self) -> None:
        if unknown := set(self.after) - {"self", "cross", "ff"}:
            raise InputError(f"method.after={sorted(unknown)}: expected some of self, cross, ff")

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        delta = Delta(runs)
        for site in anatomy.sublayers:
            if site.role in self.after:
                if site.width % self.n:
                    raise InputError(f"method.n={self.n}: does not divide the model's width {site.width}")
                bottleneck = max(1, site.width // self.reduction // self.n) * self.n
                delta.map_output(site, HypercomplexBottleneck(runs, site.width, bottleneck, self.n, self.rank))
        return delta
