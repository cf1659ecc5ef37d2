"""Intrinsic SAID (Aghajanyan et al. 2021): every weight moves within one random low-dimensional subspace.

As in the T-Few paper's code, a matrix moves by a rank-1 update: a fixed random projection (Fastfood, Le et al. 2013) of
the subspace vector θ gives d_out + d_in numbers, and their outer product, times a scale of the matrix's own, is added.
A norm's weight moves by its projection, times its scale. Nothing but θ, the scales and a seed needs to be kept.

That code lets every matrix see the first coordinates of θ only (as many as the projection is long), so most of a long θ
never trains. Here each matrix reads on where the one before it stopped, in turns, so every coordinate is used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adaptbench.errors import InputError
from adaptbench.methods.base import PeftMethod, register
from adaptbench.models import hooks
from adaptbench.models.anatomy import Anatomy, weight_matrix
from adaptbench.models.delta import Delta, Piece


def walsh_hadamard(x: Tensor) -> Tensor:
    """H x over the last axis, whose length is a power of two; H has entries ±1."""
    shape = x.shape
    for step in (2**k for k in range(shape[-1].bit_length() - 1)):
        pairs = x.reshape(*shape[:-1], -1, 2, step)
        x = torch.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], dim=-2)
        x = x.reshape(shape)
    return x


class Subspace(Piece):
    """θ of d coordinates, a scale for each of M weights, and the fixed projections, which follow from a run's seed.

    A projection of θ to n numbers is the first n of H G Π H B θ, over sqrt(n) |G|, so that columns have norm one:
    random signs B, a permutation Π, normal numbers G and the Walsh-Hadamard matrix H, all of length L, the next
    power of two.
    Projections of one length are computed together, once per pass.
    """

    stored = ("seed",)

    def __init__(self, runs: int, dimension: int, sizes: Sequence[int]):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(runs, dimension))
        self.scale = nn.Parameter(torch.ones(runs, len(sizes)))
        self.register_buffer("seed", torch.zeros(runs, dtype=torch.long))
        self.sizes = tuple(sizes)
        self.offsets: list[int] = []
        self.groups: dict[int, list[int]] = {}  # L -> weights
        self.reads = 0
        for index, size in enumerate(sizes):
            length = 1 << (size - 1).bit_length()
            self.groups.setdefault(length, []).append(index)
            self.offsets.append(self.reads % dimension)
            self.reads += min(length, dimension)
        for length, members in self.groups.items():
            shape = (runs, len(members), length)
            self.register_buffer(f"sign_{length}", torch.ones(shape), persistent=False)
            self.register_buffer(f"order_{length}", torch.zeros(shape, dtype=torch.long), persistent=False)
            self.register_buffer(f"gauss_{length}", torch.ones(shape), persistent=False)
        self.vectors: dict[int, Tensor] = {}

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        self.seed.copy_(torch.tensor([generator.initial_seed() for generator in generators]))  # type: ignore
        self.after_load()

    def after_load(self) -> None:
        for run, seed in enumerate(self.seed.tolist()):  # type: ignore[operator]
            generator = torch.Generator().manual_seed(seed)
            for length, members in self.groups.items():
                sign, order, gauss = self._fixed(length)
                sign[run] = torch.randint(0, 2, sign[run].shape, generator=generator) * 2.0 - 1.0
                gauss[run] = torch.randn(gauss[run].shape, generator=generator)
                for member in range(len(members)):
                    order[run, member] = torch.randperm(length, generator=generator)

    def project(self) -> dict[int, Tensor]:
        """Weight -> its projection (R, size) of θ."""
        vectors = {}
        runs, dimension = self.theta.shape
        for length, members in self.groups.items():
            sign, order, gauss = self._fixed(length)
            first = torch.tensor([self.offsets[index] for index in members], device=self.theta.device)
            reads = min(length, dimension)
            places = (first[:, None] + torch.arange(reads, device=self.theta.device)) % dimension
            theta = self.theta[:, places.flatten()].view(runs, len(members), reads)
            x = walsh_hadamard(nn.functional.pad(theta, (0, length - reads)) * sign)
            x = walsh_hadamard(x.gather(2, order) * gauss) / gauss.square().sum(2, keepdim=True).sqrt()
            for member, index in enumerate(members):
                size = self.sizes[index]
                vectors[index] = x[:, member, :size] / math.sqrt(size)
        return vectors

    def begin(self) -> None:
        """A pass through the model starts."""
        self.vectors = self.project()

    def end(self) -> None:
        self.vectors = {}

    def merge(self, module: nn.Module, run: int, detail: Any) -> None:
        self.begin()

    def _fixed(self, length: int) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(getattr(self, f"{name}_{length}") for name in ("sign", "order", "gauss"))  # type: ignore


class OuterProduct(Piece):
    """λ u (vᵀ x) beside a linear map: its matrix W (d_out, d_in) becomes W + λ u vᵀ."""

    def __init__(self, subspace: Subspace, index: int, d_out: int):
        super().__init__()
        self.subspace, self.index, self.d_out = subspace, index, d_out

    def factors(self) -> tuple[Tensor, Tensor]:  # (R, d_out), (R, d_in)
        vector = self.subspace.vectors[self.index]
        scale = self.subspace.scale[:, self.index, None]
        return vector[:, : self.d_out] * scale, vector[:, self.d_out :]

    def forward(self, hidden: Tensor) -> Tensor:  # (R, M, d_in) -> (R, M, d_out)
        u, v = (factor.to(hidden.dtype) for factor in self.factors())
        return torch.bmm(hidden, v[:, :, None]) * u[:, None]

    def merge(self, module: nn.Module, run: int, detail: hooks.Columns) -> None:
        u, v = self.factors()
        weight = weight_matrix(module)
        weight[hooks.rows(weight, detail)] += torch.outer(u[run], v[run])


class NormShift(Piece):
    """w + λ times the projection in place of a norm's weight w; its bias, where it has one, stays."""

    def __init__(self, subspace: Subspace, index: int, width: int, has_bias: bool):
        super().__init__()
        self.subspace, self.index = subspace, index
        runs = len(subspace.theta)
        self.register_buffer("weight", torch.ones(runs, 1, width), persistent=False)
        self.register_buffer("bias", torch.zeros(runs, 1, width) if has_bias else None, persistent=False)

    def initialise_from(self, module: nn.Module, generators: Sequence[torch.Generator]) -> None:
        own: Any = module
        self.weight.copy_(own.weight)  # type: ignore[operator]
        if self.bias is not None:
            self.bias.copy_(own.bias)  # type: ignore[operator]

    def shift(self) -> Tensor:  # (R, D)
        return self.subspace.vectors[self.index] * self.subspace.scale[:, self.index, None]

    def forward(self, normalised: Tensor) -> Tensor:  # (R, M, D) -> (R, M, D)
        weight = self.weight + self.shift()[:, None]  # type: ignore[operator]
        scaled = normalised * weight.to(normalised.dtype)
        return scaled if self.bias is None else scaled + self.bias.to(normalised.dtype)  # type: ignore

    def merge(self, module: nn.Module, run: int, detail: Any) -> None:
        own: Any = module
        own.weight.add_(self.shift()[run])


@register("intrinsic_said")
@dataclass(frozen=True)
class IntrinsicSAID(PeftMethod):
    """θ of `dimension` coordinates, and a scale for every linear map and norm.

    θ starts at zero, where an outer product has no gradient: at the first step only the norms move θ.
    """

    attachment = "linear maps and norms"
    formula = "W + λ u vᵀ, [u; v] = P θ (Fastfood)"
    source = "arXiv 2012.13255, rank-1 variant of arXiv 2205.05638"
    merges = True

    dimension: int = 500

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        linears, norms = anatomy.linears, anatomy.norms
        sizes = [site.d_in + site.d_out for site in linears] + [norm.width for norm in norms]
        subspace = Subspace(runs, self.dimension, sizes)
        if subspace.reads < self.dimension:
            raise InputError(f"method.dimension={self.dimension}: this model's projections read only {subspace.reads}")
        delta = Delta(runs)
        delta.around_forward("subspace", subspace)
        for index, site in enumerate(linears):
            delta.add_to_output(site, OuterProduct(subspace, index, site.d_out))
        for index, norm in enumerate(norms, len(linears)):
            delta.norm(norm, NormShift(subspace, index, norm.width, norm.has_bias))
        return delta
