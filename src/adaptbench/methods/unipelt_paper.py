"""UniPELT as published, on encoders: gates are means over a text, one number per example and module.

Adapter, prefix (with its network) and LoRA, each times a gate: the mean over an example's tokens of sigmoid(h w + b).
The authors' code and the Adapters library, with which arXiv 2405.05493 ran it, take the mean over padding too, so their
outputs depend on the batch; here it is over tokens alone. A mean over a text looks ahead, so models that read from left
to right are refused: `unipelt` has a gate for every token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from adaptbench.errors import InputError
from adaptbench.methods.adapter import Bottleneck
from adaptbench.methods.base import PeftMethod, register
from adaptbench.methods.lora import LowRank
from adaptbench.methods.prefix import PrefixInput, PrefixNetwork, PrefixStates
from adaptbench.methods.prompt import add_prompt, draw_prompt
from adaptbench.methods.unipelt import Gate
from adaptbench.models import hooks
from adaptbench.models.anatomy import Anatomy
from adaptbench.models.backbone import Backbone
from adaptbench.models.delta import Delta, Piece
from adaptbench.models.tokens import mean_over_tokens

INIT_SCALE = 0.02  # of adapters, as BERT's own maps start


class TextGate(Gate):
    """The mean over a text's tokens of sigmoid(h w + b)."""

    def forward(self, hidden: Tensor) -> Tensor:
        """(R, M, D) -> (R, M, 1), the same at all tokens of a text."""
        return mean_over_tokens(super().forward(hidden))


class GatedAdapter(Bottleneck):
    """g up(relu(down(x))), x being what the norm after a feed-forward returns: added to what that norm reads."""

    def __init__(self, runs: int, width: int, bottleneck: int):
        super().__init__(runs, width, bottleneck, INIT_SCALE)
        self.gate = TextGate(runs, width)

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        super().initialise(generators)
        with torch.no_grad():
            for run, generator in enumerate(generators):
                self.up[run].normal_(0, INIT_SCALE, generator=generator)
        self.gate.draw(generators)

    def forward(self, hidden: Tensor) -> Tensor:  # (R, M, D) -> (R, M, D)
        return self.gate(hidden) * self.update(hidden)


class GatedUpdate(LowRank):
    """x A B and its gate, which takes the place of alpha / rank, as in both implementations."""

    def __init__(self, runs: int, d_in: int, d_out: int, rank: int):
        super().__init__(runs, d_in, d_out, rank, 1.0, 0.0)
        self.gate = TextGate(runs, d_in)

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        bound = self.a.shape[1] ** -0.5
        with torch.no_grad():
            for run, generator in enumerate(generators):
                self.a[run].uniform_(-bound, bound, generator=generator)
        self.gate.draw(generators)


class Levels(Piece):
    """Pieces of one kind at the same place, one after the other."""

    def __init__(self, levels: Sequence[Piece]):
        super().__init__()
        self.levels = nn.ModuleList(levels)

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        for level in self.levels:
            level.initialise(generators)  # type: ignore[operator]


class Chain(Levels):
    """Updates one after the other, each gated by what the first one reads; as the Adapters library stacks LoRA.

    With every B at zero no gradient reaches any of them: stacked, LoRA stays where it starts.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        states = hidden
        for update in self.levels:
            states = update.gate(hidden) * update(states)  # type: ignore[operator]
        return states


class Scales(Levels):
    """(IA)^3 vectors on the same outputs, with their gates: a product."""

    def added(self, output: Tensor, hidden: Tensor) -> Tensor:
        for scale in self.levels:
            output = scale.added(output, hidden)  # type: ignore[operator]
        return output


class Prefixes(Levels):
    """Prefixes of the same attention, the later ones first."""

    def watch(self, hidden: Tensor) -> None:
        for prefix in self.levels:
            prefix.watch(hidden)  # type: ignore[operator]

    def forward(self, rows: int) -> tuple[Tensor, Tensor]:
        keys, values = zip(*(prefix(rows) for prefix in reversed(self.levels)), strict=True)
        return torch.cat(keys, dim=2), torch.cat(values, dim=2)

    def factors(self) -> Tensor:
        return torch.cat([prefix.factors() for prefix in reversed(self.levels)], dim=2)  # type: ignore[operator]

    def for_inference(self) -> Piece:
        return Prefixes([prefix.for_inference() for prefix in self.levels])  # type: ignore[operator]


class GatedScale(Piece):
    """(W x + b) * l * g, with l initialised to one and g read off x, as in the Adapters library: not the identity."""

    def __init__(self, runs: int, d_in: int, d_out: int):
        super().__init__()
        self.vector = nn.Parameter(torch.ones(runs, 1, d_out))
        self.gate = TextGate(runs, d_in)

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        self.gate.draw(generators)

    def added(self, output: Tensor, hidden: Tensor) -> Tensor:
        return output * self.vector.to(output.dtype) * self.gate(hidden)


class _Gated(Piece):
    """Mixed in before prefix states: the keys and values of an example times its gate."""

    gates: TextGate
    _gate: Tensor | None = None  # (N, S, 1), between the attention's input and its use

    def watch(self, hidden: Tensor) -> None:  # (N, S, D)
        gates = self.gates(hooks.per_run(hidden, len(self.gates.weight)))
        self._gate = gates.view(*hidden.shape[:2], 1)

    def factors(self) -> Tensor:
        gate, self._gate = self._gate, None
        assert gate is not None
        return gate


class GatedStates(_Gated, PrefixStates):
    """What is kept after training: the network's keys and values, and the gate."""

    def __init__(self, runs: int, heads: int, virtual_tokens: int, head_width: int, gates: TextGate):
        super().__init__(runs, heads, virtual_tokens, head_width, 0.0)
        self.gates = gates


class GatedNetwork(_Gated, PrefixNetwork):
    """Keys and values by a network that all layers share the first half of, times the layer's gate."""

    def __init__(self, shared: PrefixInput, heads: int, head_width: int, width: int):
        super().__init__(shared, heads, head_width)
        self.gates = TextGate(shared.weight.shape[0], width)

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        super().initialise(generators)
        self.gates.draw(generators)

    def direct(self, runs: int, heads: int, virtual_tokens: int, head_width: int) -> PrefixStates:
        return GatedStates(runs, heads, virtual_tokens, head_width, self.gates)


@register("unipelt_paper")
@dataclass(frozen=True)
class UniPELTPaper(PeftMethod):
    """Prefix in every attention, an adapter before every norm after a feed-forward, LoRA on q and v (or (IA)^3 on k, v
    and the feed-forward's first map); prompt vectors if asked."""

    whole_texts: ClassVar[bool] = True
    formula = "adapter, prefix and LoRA, each times mean_t sigmoid(h_t w + b)"
    source = "arXiv 2110.07577; arXiv 2405.05493"

    reduction: int = 16
    rank: int = 8
    virtual_tokens: int = 10
    hidden: int = 512
    """Width of the prefix's network."""
    prompt_tokens: int = 0
    """Vectors of a prompt-tuning layer before the text."""
    scales: bool = False
    """(IA)^3 in the place of LoRA."""
    stack: int = 1
    """How many times all of it is put on the model, one after the other."""

    @property
    def attachment(self) -> str:
        return "linear maps, norms, attention" + (", embeddings" if self.prompt_tokens else "")

    def check(self) -> None:
        if self.stack < 1:
            raise InputError(f"method.stack={self.stack}: expected at least 1")

    def virtual_token_counts(self) -> tuple[int, int]:
        return self.prompt_tokens, 0

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        norms = [site for site in anatomy.sublayers if site.role == "ff_norm"]
        if not norms:
            raise InputError(
                f"method={self.name}: gates are means over a whole text, and adapters stand before the norm after a "
                f"feed-forward; expected BERT or RoBERTa under a task's head, found {anatomy.model_type} "
                "(method=unipelt has a gate for every token)"
            )
        delta, levels = Delta(runs), range(self.stack)
        for site in anatomy.linear("k", "v", "ff_in") if self.scales else anatomy.linear("q", "v"):
            size = (runs, site.d_in, site.d_out)
            if self.scales:
                delta.add_to_output(site, Scales([GatedScale(*size) for _ in levels]))
            else:
                delta.add_to_output(site, Chain([GatedUpdate(*size, self.rank) for _ in levels]))
        attentions = anatomy.prefixed(f"method={self.name}")
        shared = [PrefixInput(runs, self.virtual_tokens, attentions[0].width, self.hidden) for _ in levels]
        for level, piece in enumerate(shared):
            delta.share(f"prefix_{level}", piece)
        for attention in attentions:
            size = (attention.heads, attention.head_width, attention.width)
            delta.prefix(attention, Prefixes([GatedNetwork(each, *size) for each in shared]))
        for norm in norms:
            bottleneck = max(1, norm.width // self.reduction)
            adapters = Levels([GatedAdapter(runs, norm.width, bottleneck) for _ in levels])
            delta.attach(hooks.before_norm, norm.path, norm.path, adapters)
        if self.prompt_tokens:
            add_prompt(delta, anatomy, self.prompt_tokens)
        return delta

    def start(self, delta: Delta, backbone: Backbone, seeds: Sequence[int]) -> None:
        draw_prompt(delta, backbone, seeds)
