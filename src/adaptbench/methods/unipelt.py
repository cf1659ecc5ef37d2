"""UniPELT (Mao et al. 2022): adapter, prefix and LoRA together, each behind learned gates.

Gates follow the authors' code where it departs from the paper: LoRA on queries and values, a gate for each of them, and
the adapter's gate on what the adapter reads. One departure of our own: gates are per token everywhere, while theirs of
adapter and prefix are means over the sequence, which in a decoder would look at later tokens, at the other choices of
a prompt and at padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adaptbench.methods.adapter import Bottleneck
from adaptbench.methods.base import PeftMethod, register
from adaptbench.methods.lora import LowRank
from adaptbench.methods.prefix import PrefixStates
from adaptbench.methods.prompt import add_prompt, draw_prompt
from adaptbench.models.anatomy import Anatomy
from adaptbench.models.backbone import Backbone
from adaptbench.models.delta import Delta, Piece
from adaptbench.models.hooks import per_run

GATE_SCALE = 0.02  # as the authors' code initialises every linear map


class Gate(nn.Module):
    """sigmoid(x w + b), one number per token."""

    def __init__(self, runs: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(runs, width, 1))
        self.bias = nn.Parameter(torch.zeros(runs, 1, 1))

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        with torch.no_grad():
            for run, generator in enumerate(generators):
                self.weight[run].normal_(0, GATE_SCALE, generator=generator)

    def forward(self, hidden: Tensor) -> Tensor:  # (R, M, D) -> (R, M, 1)
        return torch.baddbmm(self.bias.to(hidden.dtype), hidden, self.weight.to(hidden.dtype)).sigmoid()


class GatedBottleneck(Bottleneck):
    """h + g(h) (relu(h D + d) U + u)."""

    def __init__(self, runs: int, width: int, bottleneck: int, init_scale: float):
        super().__init__(runs, width, bottleneck, init_scale)
        self.gate = Gate(runs, width)

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        super().initialise(generators)
        self.gate.draw(generators)

    def forward(self, hidden: Tensor) -> Tensor:  # (R, M, D) -> (R, M, D)
        return hidden + self.gate(hidden) * (super().forward(hidden) - hidden)


class GatedLowRank(LowRank):
    """g(x) x A B: the gate takes the place of the constant factor."""

    def __init__(self, runs: int, d_in: int, d_out: int, rank: int, init_scale: float):
        super().__init__(runs, d_in, d_out, rank, 1.0, init_scale)
        self.gate = Gate(runs, d_in)

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        super().initialise(generators)
        self.gate.draw(generators)

    def down(self, hidden: Tensor) -> Tensor:  # (R, M, D_in) -> (R, M, rank)
        return self.gate(hidden) * super().down(hidden)

    merge = Piece.merge


class GatedPrefix(PrefixStates):
    """Query t sees the prefix's keys and values times g(h_t), h being what the attention reads."""

    def __init__(self, runs: int, heads: int, virtual_tokens: int, head_width: int, init_scale: float, width: int):
        super().__init__(runs, heads, virtual_tokens, head_width, init_scale)
        self.gates = Gate(runs, width)
        self._gate: Tensor | None = None  # (N, T, 1), between the attention's input and its use

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        super().initialise(generators)
        self.gates.draw(generators)

    def watch(self, hidden: Tensor) -> None:  # (N, T, D)
        self._gate = self.gates(per_run(hidden, len(self.key))).view(*hidden.shape[:2], 1)

    def gate(self) -> Tensor | None:
        gate, self._gate = self._gate, None
        return gate


@register("unipelt")
@dataclass(frozen=True)
class UniPELT(PeftMethod):
    """Adapters after every feed-forward, prefixes in every attention, LoRA on q and v; prompt vectors if asked."""

    formula = "adapter, prefix and LoRA, each times sigmoid(h w + b)"
    source = "arXiv 2110.07577; with prompt vectors arXiv 2405.05493"

    reduction: int = 16
    rank: int = 8
    virtual_tokens: int = 10
    prompt_tokens: int = 0
    init_scale: float = 0.02

    @property
    def attachment(self) -> str:
        return "linear maps, sublayers, attention" + (", embeddings" if self.prompt_tokens else "")

    def virtual_token_counts(self) -> tuple[int, int]:
        return self.prompt_tokens, self.prompt_tokens

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        delta = Delta(runs)
        for site in anatomy.linear("q", "v"):
            delta.add_to_output(site, GatedLowRank(runs, site.d_in, site.d_out, self.rank, self.init_scale))
        for attention in anatomy.prefixed(f"method={self.name}"):
            size = (attention.heads, self.virtual_tokens, attention.head_width)
            delta.prefix(attention, GatedPrefix(runs, *size, self.init_scale, attention.width))
        for sublayer in anatomy.sublayers:
            if sublayer.role == "ff":
                bottleneck = max(1, sublayer.width // self.reduction)
                delta.map_output(sublayer, GatedBottleneck(runs, sublayer.width, bottleneck, self.init_scale))
        if self.prompt_tokens:
            add_prompt(delta, anatomy, self.prompt_tokens)
        return delta

    def start(self, delta: Delta, backbone: Backbone, seeds: Sequence[int]) -> None:
        draw_prompt(delta, backbone, seeds)
