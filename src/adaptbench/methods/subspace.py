"""Intrinsic SAID (Aghajanyan et al. 2021): every weight moves within one random low-dimensional subspace.

As in the T-Few paper's code, a matrix moves by a rank-1 update: a fixed random projection (Fastfood, Le et al. 2013) of
the subspace vector θ gives d_out + d_in numbers, and their outer product, times a scale of the matrix's own, is added.
A norm's weight moves by its projection, times its scale. Nothing but θ, the scales and a seed needs to be kept.

That code lets every matrix see the first coordinates of θ only (as many as the projection is long), so most of a long θ
never trains. Here each matrix reads on where the one before it stopped, in turns, so every coordinate is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adaptbench.errors import InputError
from adaptbench.methods import hooks
from adaptbench.methods.base import PeftMethod, register
from adaptbench.methods.delta import Delta, Piece
from adaptbench.models.anatomy import Anatomy, weight_matrix


def walsh_hadamard(x: Tensor) -> Tensor:
    """H x over the last axis, whose length is a power of two; H has entries ±1."""
    shape = x.shape
    for step in (2**k for k in range(shape[-1].bit_length() - 1)):
        pairs = x.reshape(*shape[:-1], -1, 2, step)
        x = torch.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], dim=-2)
        x = x.reshape(shape)
    return x


class Subspace(Piece):
    """θ of d coordinates and a scale for each of M weights; a run's projections follow from its seed."""

    stored = ("seed",)

    def __init__(self, runs: int, dimension: int, weights: int):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(runs, dimension))
        self.scale = nn.Parameter(torch.ones(runs, weights))
        self.register_buffer("seed", torch.zeros(runs, dtype=torch.long))

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        self.seed.copy_(torch.tensor([generator.initial_seed() for generator in generators]))  # type: ignore


class Projection(Piece):
    """A random projection of θ to `size` numbers: the first of H G Π H B θ, over sqrt(size) |G| (columns of norm one).

    B are random signs, Π a permutation, G normal numbers and H the Walsh-Hadamard matrix, all of a length that is the
    next power of two.
    """

    def __init__(self, subspace: Subspace, index: int, offset: int, size: int):
        super().__init__()
        self.subspace = subspace
        self.index, self.size = index, size
        runs, dimension = subspace.theta.shape
        length = 1 << (size - 1).bit_length()
        self.read = min(length, dimension)
        self.register_buffer("sign", torch.ones(runs, length), persistent=False)
        self.register_buffer("order", torch.zeros(runs, length, dtype=torch.long), persistent=False)
        self.register_buffer("gauss", torch.ones(runs, length), persistent=False)
        self.offset = offset % dimension

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """From the stored seed and the weight's index, and nothing else: loading must find the same again."""
        length = self.sign.shape[1]  # type: ignore[index]
        for run, seed in enumerate(self.subspace.seed.tolist()):  # type: ignore[operator]
            generator = torch.Generator().manual_seed((seed * 1_000_003 + self.index) % 2**63)
            self.sign[run] = torch.randint(0, 2, (length,), generator=generator) * 2.0 - 1.0  # type: ignore
            self.order[run] = torch.randperm(length, generator=generator)  # type: ignore[operator]
            self.gauss[run] = torch.randn(length, generator=generator)  # type: ignore[operator]

    def restored(self) -> None:
        self.initialise(())

    def project(self) -> Tensor:  # (R, size)
        sign, order, gauss = self.sign, self.order, self.gauss
        length = sign.shape[1]  # type: ignore[index]
        theta = torch.roll(self.subspace.theta, -self.offset, 1)[:, : self.read]
        x = nn.functional.pad(theta, (0, length - self.read)) * sign
        x = walsh_hadamard(x).gather(1, order) * gauss  # type: ignore[arg-type]
        norm = (self.size * gauss.square().sum(1, keepdim=True)).sqrt()  # type: ignore[operator]
        return walsh_hadamard(x)[:, : self.size] / norm

    @property
    def factor(self) -> Tensor:  # (R, 1)
        return self.subspace.scale[:, self.index : self.index + 1]


class OuterProduct(Projection):
    """(x v) u^T times the scale: beside a linear map whose matrix W (d_out, d_in) becomes W + scale u v^T."""

    def __init__(self, subspace: Subspace, index: int, offset: int, d_in: int, d_out: int):
        super().__init__(subspace, index, offset, d_in + d_out)
        self.d_out = d_out

    def vectors(self) -> tuple[Tensor, Tensor]:  # (R, d_out), (R, d_in)
        projected = self.project()
        return projected[:, : self.d_out] * self.factor, projected[:, self.d_out :]

    def forward(self, hidden: Tensor) -> Tensor:  # (R, M, d_in) -> (R, M, d_out)
        up, down = (vector.to(hidden.dtype) for vector in self.vectors())
        return torch.bmm(hidden, down[:, :, None]) * up[:, None]

    def merge(self, module: nn.Module, run: int, detail: hooks.Columns) -> None:
        up, down = self.vectors()
        rows = slice(*detail) if detail is not None else slice(None)
        weight_matrix(module)[rows].add_(torch.outer(up[run], down[run]))


class NormShift(Projection):
    """w + scale * projection in place of a norm's weight w; its bias, where it has one, stays."""

    def __init__(self, subspace: Subspace, index: int, offset: int, width: int, has_bias: bool):
        super().__init__(subspace, index, offset, width)
        runs = len(subspace.theta)
        self.register_buffer("weight", torch.ones(runs, 1, width), persistent=False)
        self.register_buffer("bias", torch.zeros(runs, 1, width) if has_bias else None, persistent=False)

    def adopt(self, module: nn.Module, generators: Sequence[torch.Generator]) -> None:
        own: Any = module
        self.weight.copy_(own.weight)  # type: ignore[operator]
        if self.bias is not None:
            self.bias.copy_(own.bias)  # type: ignore[operator]

    def forward(self, normalised: Tensor) -> Tensor:  # (R, M, D) -> (R, M, D)
        weight = self.weight + (self.project() * self.factor)[:, None]  # type: ignore[operator]
        scaled = normalised * weight.to(normalised.dtype)
        return scaled if self.bias is None else scaled + self.bias.to(normalised.dtype)  # type: ignore

    def merge(self, module: nn.Module, run: int, detail: Any) -> None:
        own: Any = module
        own.weight.add_((self.project() * self.factor)[run])


@register("intrinsic_said")
@dataclass(frozen=True)
class IntrinsicSAID(PeftMethod):
    """θ of `dimension` coordinates, and a scale for every linear map and norm.

    θ starts at zero, where an outer product has no gradient: at the first step only the norms move θ.
    """

    where = "linear maps and norms"
    formula = "W + λ u vᵀ, [u; v] = P θ (Fastfood)"
    source = "arXiv 2012.13255, rank-1 variant of arXiv 2205.05638"
    merges = True

    dimension: int = 500

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        delta = Delta(runs)
        subspace = Subspace(runs, self.dimension, len(anatomy.linears) + len(anatomy.norms))
        delta.share("subspace", subspace)
        offset = 0
        for index, site in enumerate(anatomy.linears):
            outer = OuterProduct(subspace, index, offset, site.d_in, site.d_out)
            delta.beside(site, outer)
            offset += outer.read
        for index, norm in enumerate(anatomy.norms, len(anatomy.linears)):
            shift = NormShift(subspace, index, offset, norm.width, norm.has_bias)
            delta.norm(norm, shift)
            offset += shift.read
        if offset < self.dimension:
            raise InputError(f"method.dimension={self.dimension}: this model's projections read only {offset}")
        return delta
