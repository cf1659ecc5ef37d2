"""Bloom and Falcon, which compute attention in their own code."""

from typing import Any

from torch import nn

from adaptbench.errors import InputError
from adaptbench.models.architectures.parts import (
    Parts,
    by_head,
    embedding,
    neox_attention,
    neox_feed_forward,
    norm,
    norms,
    root,
)
from adaptbench.models.sites import SublayerSite


def bloom(model: nn.Module) -> Parts:
    """Attention and feed-forward add the residual themselves, so a sublayer's output is that of its last map."""
    config: Any = model.config
    if config.slow_but_exact and config.pretraining_tp > 1:
        raise InputError("slow_but_exact=true in a Bloom's config.json: its maps are then cut up, and nothing attaches")
    width, heads = config.hidden_size, config.n_head
    columns = by_head(heads, width // heads)
    body = root(model, "transformer")
    yield embedding(model, f"{body}word_embeddings")
    yield norm(model, f"{body}word_embeddings_layernorm")
    for layer in range(config.n_layer):
        path = f"{body}h.{layer}"
        yield norm(model, f"{path}.input_layernorm")
        yield from neox_attention(model, f"{path}.self_attention", columns, heads, width // heads, width)
        yield SublayerSite(f"{path}.self_attention.dense", "self", width)
        yield norm(model, f"{path}.post_attention_layernorm")
        yield from neox_feed_forward(model, f"{path}.mlp")
        yield SublayerSite(f"{path}.mlp.dense_4h_to_h", "ff", width)
        yield SublayerSite(path, "block", width)
    yield norm(model, f"{body}ln_f")


def falcon(model: nn.Module) -> Parts:
    """Three layouts of queries, keys and values: in groups (40B), one key for all heads (7B), or head by head (RW)."""
    config: Any = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    head = width // heads
    kept = 1 if config.multi_query else heads
    if config.new_decoder_architecture:
        kept = config.num_kv_heads
    columns = by_head(kept, head, heads // kept)
    body = root(model, "transformer")
    yield embedding(model, f"{body}word_embeddings")
    for layer in range(config.num_hidden_layers):
        path = f"{body}h.{layer}"
        yield from norms(model, path, "ln_attn", "input_layernorm")
        yield from neox_attention(model, f"{path}.self_attention", columns, kept, head, width)
        yield SublayerSite(f"{path}.self_attention", "self", width)
        yield from norms(model, path, "ln_mlp", "post_attention_layernorm")
        yield from neox_feed_forward(model, f"{path}.mlp")
        yield SublayerSite(f"{path}.mlp", "ff", width)
        yield SublayerSite(path, "block", width)
    yield norm(model, f"{body}ln_f")
