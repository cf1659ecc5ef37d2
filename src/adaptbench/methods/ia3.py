"""(IA)^3: learned vectors rescale keys, values and inner feed-forward activations (paper, section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from adaptbench.errors import InputError
from adaptbench.methods.base import PeftMethod, register
from adaptbench.methods.delta import Delta, Piece
from adaptbench.models.anatomy import Anatomy
from adaptbench.models.backbone import Backbone, resolve_path


class Scale(Piece):
    """y * l, with l initialised to one."""

    def __init__(self, runs: int, width: int):
        super().__init__()
        self.vector = nn.Parameter(torch.ones(runs, 1, width))

    def forward(self, hidden: Tensor) -> Tensor:  # (R, M, D) -> (R, M, D)
        return hidden * self.vector.to(hidden.dtype)


@register("ia3")
@dataclass(frozen=True)
class IA3(PeftMethod):
    """l_k and l_v on the outputs of k and v, l_ff on the input of the second feed-forward map.

    In a gated feed-forward l_ff on that input equals l_ff on the output of the linear branch (T5's `wi_1`).
    """

    pretrained: str | None = None  # start from these vectors (paper, section 3.4): a folder, or microworld:<name>

    def start(self, delta: Delta, backbone: Backbone, seeds: Sequence[int]) -> None:
        if self.pretrained is None:
            return
        file = Path(resolve_path(self.pretrained)) / "adapter.safetensors"
        if not file.is_file():
            raise InputError(f"method.pretrained={self.pretrained!r}: no adapter.safetensors there")
        try:
            for run in range(len(seeds)):
                delta.load(file.parent, run)
        except ValueError as error:
            raise InputError(f"method.pretrained={self.pretrained!r} does not fit {backbone.name}: {error}") from error

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        delta = Delta(runs)
        for site in anatomy.linear("k", "v"):
            delta.scale_or_shift(site, Scale(runs, site.d_out))
        for site in anatomy.linear("ff_out"):
            delta.before(site, Scale(runs, site.d_in))
        return delta
