"""Sites out of modules: what the families of architectures have in common."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from adaptbench.models.sites import AttentionSite, Columns, EmbeddingSite, LinearSite, NormSite, SublayerSite

Parts = Iterator[LinearSite | SublayerSite | AttentionSite | NormSite | EmbeddingSite]


def root(model: nn.Module, name: str) -> str:
    """What paths begin with: the body's name and a dot in a model with a head, nothing in the body alone."""
    return f"{name}." if hasattr(model, name) else ""


def linear(model: nn.Module, path: str, role: str) -> LinearSite:
    """A map of its own."""
    found: Any = model.get_submodule(path)
    return LinearSite(path, role, found.in_features, found.out_features)


def fused(model: nn.Module, path: str, parts: dict[str, Columns]) -> Iterator[LinearSite]:
    """The roles that share one map."""
    found: Any = model.get_submodule(path)
    for role, columns in parts.items():
        yield LinearSite(path, role, found.in_features, columns.width, columns)


def norm(model: nn.Module, path: str, offset: float = 0.0) -> NormSite:
    """A norm, whose weight the model adds to `offset` before it multiplies."""
    found: Any = model.get_submodule(path)
    return NormSite(path, len(found.weight), getattr(found, "bias", None) is not None, offset)


def norms(model: nn.Module, owner: str, *names: str, offset: float = 0.0) -> Iterator[NormSite]:
    """Those norms with a weight that a module has: families of architectures differ in them."""
    module = model.get_submodule(owner)
    for name in names:
        if getattr(getattr(module, name, None), "weight", None) is not None:
            yield norm(model, f"{owner}.{name}", offset)


def embedding(
    model: nn.Module, path: str, kind: str = "decoder", prefix: str = "", scale: float = 1.0
) -> EmbeddingSite:
    """The embedding of the input `{prefix}input_ids`, for which the model also takes `{prefix}inputs_embeds`."""
    found: Any = model.get_submodule(path)
    return EmbeddingSite(path, kind, found.embedding_dim, f"{prefix}input_ids", f"{prefix}inputs_embeds", scale)


def neox_attention(
    model: nn.Module, path: str, columns: dict[str, Columns], heads: int, head_width: int, width: int
) -> Parts:
    """Attention as GPT-NeoX names it, Bloom and Falcon too; `heads` are those of keys and values."""
    yield from fused(model, f"{path}.query_key_value", columns)
    yield linear(model, f"{path}.dense", "o")
    yield AttentionSite(path, heads, head_width, "decoder", width)


def neox_feed_forward(model: nn.Module, path: str) -> Iterator[LinearSite]:
    """The two maps between widths D and 4 D, named alike."""
    yield linear(model, f"{path}.dense_h_to_4h", "ff_in")
    yield linear(model, f"{path}.dense_4h_to_h", "ff_out")


def by_head(groups: int, width: int, queries: int = 1) -> dict[str, Columns]:
    """In each group: the queries of some heads, the keys of one and its values."""
    bounds = [0, queries * width, (queries + 1) * width, (queries + 2) * width]
    return {letter: Columns(bounds[i], bounds[i + 1], groups) for i, letter in enumerate("qkv")}
