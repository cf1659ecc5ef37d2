"""What methods attach to: the parts of a model, whatever its architecture calls them (`models/anatomy.py`)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from adaptbench.errors import InputError

ROLES = ("q", "k", "v", "o", "ff_in", "ff_gate", "ff_out")


class Columns(NamedTuple):
    """Some outputs of a fused map: those from `start` to `stop` in each of `groups` equal parts of its outputs.

    GPT-2 keeps queries, keys and values one after the other (one group), GPT-NeoX those of every head (a group each).
    """

    start: int
    stop: int
    groups: int = 1

    @property
    def width(self) -> int:
        """How many outputs these are."""
        return self.groups * (self.stop - self.start)

    def places(self, outputs: int) -> Tensor:
        """(width,) places of these among all outputs of the map, or among the rows of its weight matrix."""
        return torch.arange(outputs).view(self.groups, -1)[:, self.start : self.stop].flatten()


@dataclass(frozen=True)
class LinearSite:
    """A linear map of the model, or some of the outputs of a fused one."""

    path: str
    role: str  # one of ROLES
    d_in: int
    d_out: int
    columns: Columns | None = None

    @property
    def key(self) -> str:
        return self.path if self.columns is None else f"{self.path}.{self.role}"


@dataclass(frozen=True)
class SublayerSite:
    """A module whose (first) output is a sublayer's output, before dropout and the residual sum.

    Where a norm stands between the two (Gemma 2 and 3, OLMo 2) the site is before that norm.
    """

    path: str
    role: str  # self, cross or ff; block: a whole block with its residual sums; ff_norm: the norm of ff's residual sum
    width: int


@dataclass(frozen=True)
class AttentionSite:
    """A module that attends to keys and values."""

    path: str
    heads: int  # of keys and values
    head_width: int
    kind: str  # encoder, decoder or cross
    width: int = 0  # of the hidden states it reads


@dataclass(frozen=True)
class NormSite:
    """A layer norm; RMS norms have no bias."""

    path: str
    width: int
    has_bias: bool
    offset: float = 0.0  # Gemma multiplies by 1 + weight


@dataclass(frozen=True)
class EmbeddingSite:
    """The token embedding of one input of the model, and the names of that input as ids and as embeddings."""

    path: str
    kind: str  # encoder or decoder
    width: int
    ids: str
    embeds: str
    scale: float = 1.0  # what the model multiplies embeddings by when it looks them up itself


@dataclass(frozen=True)
class Anatomy:
    """The parts of one model that methods attach to, in the order of the forward pass."""

    linears: tuple[LinearSite, ...]
    sublayers: tuple[SublayerSite, ...]
    attentions: tuple[AttentionSite, ...]
    norms: tuple[NormSite, ...] = ()
    embeddings: tuple[EmbeddingSite, ...] = ()
    takes_prefixes: bool = True  # not where a model computes attention outside transformers' attention interface
    model_type: str = ""

    def linear(self, *roles: str) -> tuple[LinearSite, ...]:
        """Linear sites of these roles. Experts held in one tensor are no linear maps and have none.

        Raises:
            InputError: a role that does not exist.
        """
        unknown = set(roles) - set(ROLES)
        if unknown:
            raise InputError(f"targets: unknown {', '.join(sorted(unknown))}; expected some of {', '.join(ROLES)}")
        return tuple(site for site in self.linears if site.role in roles)

    def prefixed(self, named: str) -> tuple[AttentionSite, ...]:
        """The attentions, to put keys and values before their own.

        Args:
            named: what asks, for the message.

        Raises:
            InputError: this model computes attention by itself.
        """
        if not self.takes_prefixes:
            raise InputError(
                f"{named}: {self.model_type} computes attention in its own code, where no keys and values can be put "
                "before its own"
            )
        return self.attentions


def weight_matrix(linear: nn.Module) -> Tensor:
    """(d_out, d_in) view of a linear map's weight, whichever way round the architecture keeps it."""
    weight: Tensor = linear.weight  # type: ignore[assignment]
    return weight if isinstance(linear, nn.Linear) else weight.T
