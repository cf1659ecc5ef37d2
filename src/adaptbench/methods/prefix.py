"""Prefix tuning (Li and Liang 2021): learned keys and values before those of every attention.

Encoder self-attention, decoder self-attention and cross-attention each get their own, in every layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adaptbench.methods.base import PeftMethod, register
from adaptbench.methods.delta import Delta, Piece
from adaptbench.models.anatomy import Anatomy


class PrefixStates(Piece):
    """Keys and values of P virtual tokens, drawn from N(0, init_scale^2)."""

    def __init__(self, runs: int, heads: int, virtual_tokens: int, head_width: int, init_scale: float):
        super().__init__()
        self.key = nn.Parameter(torch.zeros(runs, heads, virtual_tokens, head_width))
        self.value = nn.Parameter(torch.zeros(runs, heads, virtual_tokens, head_width))
        self.init_scale = init_scale

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        with torch.no_grad():
            for run, generator in enumerate(generators):
                self.key[run].normal_(0, self.init_scale, generator=generator)
                self.value[run].normal_(0, self.init_scale, generator=generator)

    def forward(self, rows: int) -> tuple[Tensor, Tensor]:  # N -> (N, H, P, head width) twice
        return self._expand(self.key, rows), self._expand(self.value, rows)

    @staticmethod
    def _expand(states: Tensor, rows: int) -> Tensor:
        runs = states.shape[0]
        return states[:, None].expand(-1, rows // runs, -1, -1, -1).flatten(0, 1)


@register("prefix")
@dataclass(frozen=True)
class Prefix(PeftMethod):
    """P virtual tokens in every attention, trained directly (no reparameterisation)."""

    virtual_tokens: int = 2
    init_scale: float = 0.02

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        delta = Delta(runs)
        for site in anatomy.attentions:
            piece = PrefixStates(runs, site.heads, self.virtual_tokens, site.head_width, self.init_scale)
            delta.prefix(site, piece)
        return delta
