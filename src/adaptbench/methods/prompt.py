"""Prompt tuning (Lester et al. 2021): learned vectors in the input, in place of the embeddings of P virtual tokens.

As in the T-Few paper's code, an encoder-decoder has some in the encoder and others in the decoder, where every
choice starts with them. Encoding leaves room for them (`data/batching.py`, `scoring/rank.py`), so that lengths, masks
and positions, and with them the bill, come out right by themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adaptbench.errors import InputError
from adaptbench.methods.base import PeftMethod, register
from adaptbench.models.anatomy import Anatomy
from adaptbench.models.backbone import Backbone
from adaptbench.models.delta import Delta, Piece

FIRST, LAST = 3, 5003  # after the special tokens: the most common ones, in vocabularies ordered by frequency


class PromptVectors(Piece):
    """Vector k of a row's run wherever the id is -1 - k; embeddings as they are elsewhere."""

    def __init__(self, runs: int, virtual_tokens: int, width: int):
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(runs, virtual_tokens, width))

    def forward(self, embedded: Tensor, ids: Tensor) -> Tensor:  # (N, S, D), (N, S) -> (N, S, D)
        runs, tokens, _ = self.vectors.shape
        run = torch.arange(len(ids), device=ids.device) // (len(ids) // runs)
        which = run[:, None] * tokens + (-1 - ids).clamp(min=0)
        vectors = nn.functional.embedding(which, self.vectors.flatten(0, 1).to(embedded.dtype))
        return torch.where((ids < 0)[..., None], vectors, embedded)

    def draw(self, embedding: nn.Module, scale: float, generators: Sequence[torch.Generator]) -> None:
        """Start as the embeddings of common tokens, as the model reads them; run r's are drawn by its own generator."""
        tokens, weight = self.vectors.shape[1], embedding.get_parameter("weight")
        first = min(FIRST, len(weight) - 1)
        with torch.no_grad():
            for run, generator in enumerate(generators):
                ids = torch.randint(first, min(LAST, len(weight)), (tokens,), generator=generator)
                self.vectors[run] = scale * embedding(ids.to(weight.device))


def add_prompt(delta: Delta, anatomy: Anatomy, virtual_tokens: int, decoder: bool = True) -> None:
    """Virtual tokens in the model's input, and in an encoder-decoder's decoder too if asked."""
    for site in anatomy.embeddings:
        if site is anatomy.embeddings[0] or decoder:
            delta.embed(site, PromptVectors(delta.runs, virtual_tokens, site.width))


def draw_prompt(delta: Delta, backbone: Backbone, seeds: Sequence[int]) -> None:
    """Initial values of every prompt, from the model's own embedding."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    embeddings = {site.kind: site for site in backbone.anatomy.embeddings}
    for name, piece in delta.pieces.items():
        if isinstance(piece, PromptVectors):
            site = embeddings[name.removeprefix("prompt/")]
            piece.draw(backbone.model.get_submodule(site.path), site.scale, generators)


@register("prompt")
@dataclass(frozen=True)
class PromptTuning(PeftMethod):
    """P vectors before the input's own tokens, and P before the decoder's."""

    attachment = "embeddings"
    formula = "[p_1 … p_P; e(x)], p trained"
    source = "arXiv 2104.08691"
    sized_by = "virtual_tokens"

    virtual_tokens: int = 10
    decoder: bool = True

    def check(self) -> None:
        if self.virtual_tokens < 1:
            raise InputError(f"method.virtual_tokens={self.virtual_tokens}: expected at least 1")

    def virtual_token_counts(self) -> tuple[int, int]:
        return self.virtual_tokens, self.virtual_tokens if self.decoder else 0

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        delta = Delta(runs)
        add_prompt(delta, anatomy, self.virtual_tokens, self.decoder)
        return delta

    def start(self, delta: Delta, backbone: Backbone, seeds: Sequence[int]) -> None:
        draw_prompt(delta, backbone, seeds)
