"""Trained layer norms: of use alone (LayerNorm tuning) and beside any other method (`layer_norms: true`)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adaptbench.models.anatomy import Anatomy
from adaptbench.models.delta import Delta, Piece


class NormScale(Piece):
    """w * x^ + b on normalised states x^; w and b start as the norm's own. RMS norms have no b."""

    def __init__(self, runs: int, width: int, has_bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(runs, 1, width))
        self.bias = nn.Parameter(torch.zeros(runs, 1, width)) if has_bias else None

    def initialise_from(self, module: nn.Module, generators: Sequence[torch.Generator]) -> None:
        own: Any = module
        with torch.no_grad():
            self.weight.copy_(own.weight)
            if self.bias is not None:
                self.bias.copy_(own.bias)

    def forward(self, normalised: Tensor) -> Tensor:  # (R, M, D) -> (R, M, D)
        scaled = normalised * self.weight.to(normalised.dtype)
        return scaled if self.bias is None else scaled + self.bias.to(normalised.dtype)

    def merge(self, module: nn.Module, run: int, detail: Any) -> None:
        own: Any = module
        own.weight.copy_(self.weight[run, 0])
        if self.bias is not None:
            own.bias.copy_(self.bias[run, 0])


def train_norms(delta: Delta, anatomy: Anatomy) -> None:
    """Add every layer norm of the model to what `delta` trains."""
    for site in anatomy.norms:
        delta.norm(site, NormScale(delta.runs, site.width, site.has_bias))
