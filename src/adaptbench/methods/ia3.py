"""(IA)^3: learned vectors rescale keys, values and inner feed-forward activations (paper, section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from adaptbench.errors import InputError
from adaptbench.methods.base import PeftMethod, register
from adaptbench.methods.released import released_vectors
from adaptbench.models import hooks
from adaptbench.models.anatomy import Anatomy, weight_matrix
from adaptbench.models.backbone import Backbone
from adaptbench.models.delta import Delta, Piece
from adaptbench.models.paths import resolve_path


class Scale(Piece):
    """y * l, with l initialised to one."""

    def __init__(self, runs: int, width: int):
        super().__init__()
        self.vector = nn.Parameter(torch.ones(runs, 1, width))

    def forward(self, hidden: Tensor) -> Tensor:  # (R, M, D) -> (R, M, D)
        return hidden * self.vector.to(hidden.dtype)


class ScaleOutput(Scale):
    """On a linear map's output: (W x + b) * l = (diag(l) W) x + b * l."""

    def merge(self, module: nn.Module, run: int, detail: hooks.Columns) -> None:
        own: Any = module
        weight, scale = weight_matrix(module), self.vector[run, 0]
        rows = hooks.rows(weight, detail)
        weight[rows] *= scale[:, None]
        if own.bias is not None:
            own.bias[rows] *= scale


class ScaleInput(Scale):
    """On a linear map's input: W (x * l) = (W diag(l)) x."""

    def merge(self, module: nn.Module, run: int, detail: Any) -> None:
        weight_matrix(module).mul_(self.vector[run])


@register("ia3")
@dataclass(frozen=True)
class IA3(PeftMethod):
    """l_k and l_v on the outputs of k and v, l_ff on the input of the second feed-forward map.

    In a gated feed-forward l_ff on that input equals l_ff on the output of the linear branch (T5's `wi_1`).
    """

    attachment = "linear maps"
    formula = "l_k ⊙ K, l_v ⊙ V, (l_ff ⊙ γ(x W_1)) W_2"
    source = "arXiv 2205.05638, section 3.3"
    merges = True
    pretrained: str | None = None
    """Vectors to start from (paper, section 3.4): a folder, microworld:<name>, or the released `.pt`; null: ones."""

    def missing_files(self) -> str | None:
        if self.pretrained is None or vectors_file(self.pretrained).is_file():
            return None
        return (
            f"method.pretrained={self.pretrained!r}: no (IA)^3 vectors; train them (python -m experiments.pretrain"
            " models=[ia3] recipes.ia3.start=MODEL recipes.ia3.mixture=[..]), or set recipe.pretrained_ia3 to the"
            " T-Few authors' t03b_ia3_finish.pt"
        )

    def start(self, delta: Delta, backbone: Backbone, seeds: Sequence[int]) -> None:
        if self.pretrained is None:
            return
        if problem := self.missing_files():
            raise InputError(problem)
        file = vectors_file(self.pretrained)
        state = released_vectors(file, backbone.anatomy) if file.suffix == ".pt" else load_file(file)
        try:
            for run in range(len(seeds)):
                delta.load_state_of(run, state)
        except ValueError as error:
            raise InputError(f"method.pretrained={self.pretrained!r} does not fit {backbone.name}: {error}") from error

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        delta = Delta(runs)
        for site in anatomy.linear("k", "v"):
            delta.map_output(site, ScaleOutput(runs, site.d_out))
        for site in anatomy.linear("ff_out"):
            delta.map_input(site, ScaleInput(runs, site.d_in))
        return delta


def vectors_file(pretrained: str) -> Path:
    """The file that holds pre-trained vectors, whether it is there or not."""
    path = Path(resolve_path(pretrained)).expanduser()
    return path if path.suffix == ".pt" else path / "adapter.safetensors"
