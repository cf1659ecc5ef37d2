"""BitFit (Ben Zaken et al. 2021): train biases only; where the architecture has none, they are created at zero.

A trained bias equals the frozen one plus a learned shift, so one piece serves models with and without biases.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from adaptbench.methods.base import PeftMethod, register
from adaptbench.models import hooks
from adaptbench.models.anatomy import ROLES, Anatomy
from adaptbench.models.delta import Delta, Piece


class Shift(Piece):
    """y + b, with b initialised to zero."""

    def __init__(self, runs: int, width: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(runs, 1, width))

    def forward(self, hidden: Tensor) -> Tensor:  # (R, M, D) -> (R, M, D)
        return hidden + self.bias.to(hidden.dtype)

    def merge(self, module: nn.Module, run: int, detail: hooks.Columns) -> None:
        own: Any = module
        if own.bias is None:
            weight = own.weight
            own.bias = nn.Parameter(torch.zeros(own.out_features).to(weight), requires_grad=weight.requires_grad)
        own.bias[hooks.rows(own.bias, detail)] += self.bias[run, 0]


@register("bitfit")
@dataclass(frozen=True)
class BitFit(PeftMethod):
    """A bias on the output of every linear map but the keys'.

    A bias on the keys adds the same number to all scores of a query, which the softmax ignores: its gradient is
    rounding noise, and an optimizer that normalises gradients would train on that noise. The paper's code has it
    all the same, and leaves out the second feed-forward map (its pattern `w_o` never matches T5's `wo`):
    `targets=[q,k,v,o,ff_in,ff_gate]` gives that variant.
    """

    attachment = "linear maps"
    formula = "x W + b, b trained"
    source = "arXiv 2106.10199"
    merges = True

    targets: list[str] = field(default_factory=lambda: [role for role in ROLES if role != "k"])

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        delta = Delta(runs)
        for site in anatomy.linear(*self.targets):
            delta.map_output(site, Shift(runs, site.d_out))
        return delta
