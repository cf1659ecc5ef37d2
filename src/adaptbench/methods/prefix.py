"""Prefix tuning (Li and Liang 2021): learned keys and values before those of every attention.

Encoder self-attention, decoder self-attention and cross-attention each get their own, in every layer. They are trained
directly, or as the output of a two-layer network that is folded away afterwards. They start at random, or as the keys
and values the model itself computes for a text, as in the T-Few paper's code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from adaptbench.errors import InputError
from adaptbench.methods.base import PeftMethod, register
from adaptbench.models.anatomy import Anatomy
from adaptbench.models.attention import recorded_keys_and_values
from adaptbench.models.backbone import Backbone
from adaptbench.models.delta import Delta, Piece


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

    def imitate(self, key: Tensor, value: Tensor) -> None:
        """Start as given states, each (H, P, head width)."""
        with torch.no_grad():
            self.key.copy_(key)
            self.value.copy_(value)

    def states(self) -> tuple[Tensor, Tensor]:  # (R, H, P, head width) twice
        return self.key, self.value

    def forward(self, rows: int) -> tuple[Tensor, Tensor]:  # N -> (N, H, P, head width) twice
        key, value = self.states()
        return _expand(key, rows), _expand(value, rows)


def _expand(states: Tensor, rows: int) -> Tensor:
    runs = states.shape[0]
    return states[:, None].expand(-1, rows // runs, -1, -1, -1).flatten(0, 1)


class PrefixInput(Piece):
    """tanh(E A + a): embeddings of the virtual tokens and a first layer, shared by the attentions of one kind."""

    def __init__(self, runs: int, virtual_tokens: int, width: int, hidden: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(runs, virtual_tokens, width))
        self.weight = nn.Parameter(torch.zeros(runs, width, hidden))
        self.bias = nn.Parameter(torch.zeros(runs, 1, hidden))

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        bound = self.weight.shape[1] ** -0.5
        with torch.no_grad():
            for run, generator in enumerate(generators):
                self.embedding[run].normal_(generator=generator)
                self.weight[run].uniform_(-bound, bound, generator=generator)
                self.bias[run].uniform_(-bound, bound, generator=generator)

    def forward(self) -> Tensor:  # (R, P, hidden)
        return torch.baddbmm(self.bias, self.embedding, self.weight).tanh()

    def for_inference(self) -> None:
        return None


class PrefixNetwork(PrefixStates):
    """Keys and values as a second linear layer on a `PrefixInput`."""

    def __init__(self, shared: PrefixInput, heads: int, head_width: int):
        Piece.__init__(self)
        self.shared = shared
        self.heads, self.head_width = heads, head_width
        runs, hidden = shared.weight.shape[0], shared.weight.shape[2]
        self.weight = nn.Parameter(torch.zeros(runs, hidden, 2 * heads * head_width))
        self.bias = nn.Parameter(torch.zeros(runs, 1, 2 * heads * head_width))

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        bound = self.weight.shape[1] ** -0.5
        with torch.no_grad():
            for run, generator in enumerate(generators):
                self.weight[run].uniform_(-bound, bound, generator=generator)
                self.bias[run].uniform_(-bound, bound, generator=generator)

    def imitate(self, key: Tensor, value: Tensor) -> None:
        """The smallest change of the second layer that gives these states exactly, if P <= its width."""
        target = torch.cat([state.transpose(0, 1).flatten(1) for state in (key, value)], dim=1)  # (P, 2 H W)
        with torch.no_grad():
            hidden = self.shared().double()
            missing = target.to(hidden) - (hidden @ self.weight.double() + self.bias.double())
            self.weight.add_((torch.linalg.pinv(hidden) @ missing).to(self.weight))

    def states(self) -> tuple[Tensor, Tensor]:
        flat = torch.baddbmm(self.bias, self.shared(), self.weight)  # (R, P, 2 H W)
        both = flat.unflatten(-1, (2, self.heads, self.head_width)).permute(2, 0, 3, 1, 4)
        return both[0], both[1]

    def for_inference(self) -> PrefixStates:
        with torch.no_grad():
            key, value = self.states()
            runs, heads, tokens, width = key.shape
            direct = self.direct(runs, heads, tokens, width).to(device=key.device, dtype=key.dtype)
            direct.imitate(key, value)
        return direct

    def direct(self, runs: int, heads: int, virtual_tokens: int, head_width: int) -> PrefixStates:
        """What takes the network's place after training."""
        return PrefixStates(runs, heads, virtual_tokens, head_width, 0.0)


@register("prefix")
@dataclass(frozen=True)
class Prefix(PeftMethod):
    """P virtual tokens in every attention.

    `hidden` is the width of the reparameterising network (null: none). `text` gives initial states for what reads the
    input (encoder self-attention, cross-attention) and for what reads the answer (decoder self-attention).
    """

    attachment = "attention"
    formula = "softmax(q [P_k; K]ᵀ) [P_v; V]"
    source = "arXiv 2101.00190"
    sized_by = "virtual_tokens"

    virtual_tokens: int = 2
    hidden: int | None = None
    text: list[str] = field(default_factory=list)
    init_scale: float = 0.02

    def check(self) -> None:
        if len(self.text) not in (0, 2):
            raise InputError(f"method.text={self.text}: expected two texts, for input and answer, or none")

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        delta = Delta(runs)
        shared: dict[str, PrefixInput] = {}
        for site in anatomy.prefixed(f"method={self.name}"):
            if self.hidden is None:
                size = (site.heads, self.virtual_tokens, site.head_width)
                delta.prefix(site, PrefixStates(runs, *size, self.init_scale))
                continue
            if site.kind not in shared:
                shared[site.kind] = PrefixInput(runs, self.virtual_tokens, site.width, self.hidden)
                delta.share(f"prefix_{site.kind}", shared[site.kind])
            delta.prefix(site, PrefixNetwork(shared[site.kind], site.heads, site.head_width))
        return delta

    def start(self, delta: Delta, backbone: Backbone, seeds: Sequence[int]) -> None:
        if self.text:
            states = states_of_text(backbone, self.text, self.virtual_tokens)
            for site in backbone.anatomy.attentions:
                piece = delta.pieces[site.path.replace(".", "/")]
                assert isinstance(piece, PrefixStates)
                piece.imitate(*states[site.path])


@torch.no_grad()
def states_of_text(backbone: Backbone, texts: Sequence[str], tokens: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Keys and values (H, P, head width) of every attention when the model reads a text of exactly P tokens.

    Texts are repeated or cut to P tokens, so that the number of parameters never depends on a tokenizer.
    """
    ids = []
    for text in texts:
        own = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids.append(torch.tensor([[own[k % len(own)] for k in range(tokens)]], device=backbone.device))
    answer = {"decoder_input_ids": ids[1]} if backbone.is_encoder_decoder else {}
    with recorded_keys_and_values() as recorded:
        backbone.model(input_ids=ids[0], **answer, use_cache=False)
    modules = {site.path: backbone.model.get_submodule(site.path) for site in backbone.anatomy.attentions}
    return {path: (recorded[module][0][0], recorded[module][1][0]) for path, module in modules.items()}
