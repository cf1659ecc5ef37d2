"""GPT-2, GPT-NeoX (Pythia) and OPT."""

from typing import Any

from torch import nn

from adaptbench.models.architectures.parts import (
    Parts,
    by_head,
    embedding,
    linear,
    neox_attention,
    neox_feed_forward,
    norm,
    norms,
    root,
)
from adaptbench.models.sites import AttentionSite, Columns, LinearSite, SublayerSite


def gpt2(model: nn.Module) -> Parts:
    """Queries, keys and values side by side in one map, whose weight is (d_in, d_out)."""
    config: Any = model.config
    width, inner = config.hidden_size, config.n_inner or 4 * config.hidden_size
    body = root(model, "transformer")
    yield embedding(model, f"{body}wte")
    for layer in range(config.n_layer):
        path = f"{body}h.{layer}"
        yield norm(model, f"{path}.ln_1")
        for index, letter in enumerate("qkv"):
            columns = Columns(index * width, (index + 1) * width)
            yield LinearSite(f"{path}.attn.c_attn", letter, width, width, columns)
        yield LinearSite(f"{path}.attn.c_proj", "o", width, width)
        yield AttentionSite(f"{path}.attn", config.n_head, width // config.n_head, "decoder", width)
        yield SublayerSite(f"{path}.attn", "self", width)
        yield norm(model, f"{path}.ln_2")
        yield LinearSite(f"{path}.mlp.c_fc", "ff_in", width, inner)
        yield LinearSite(f"{path}.mlp.c_proj", "ff_out", inner, width)
        yield SublayerSite(f"{path}.mlp", "ff", width)
        yield SublayerSite(path, "block", width)
    yield norm(model, f"{body}ln_f")


def gpt_neox(model: nn.Module) -> Parts:
    """GPT-NeoX and Pythia: queries, keys and values head by head; attention and feed-forward read side by side."""
    config: Any = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    columns = by_head(heads, width // heads)
    body = root(model, "gpt_neox")
    yield embedding(model, f"{body}embed_in")
    for layer in range(config.num_hidden_layers):
        path = f"{body}layers.{layer}"
        yield norm(model, f"{path}.input_layernorm")
        yield from neox_attention(model, f"{path}.attention", columns, heads, width // heads, width)
        yield SublayerSite(f"{path}.attention", "self", width)
        yield norm(model, f"{path}.post_attention_layernorm")
        yield from neox_feed_forward(model, f"{path}.mlp")
        yield SublayerSite(f"{path}.mlp", "ff", width)
        yield SublayerSite(path, "block", width)
    yield norm(model, f"{body}final_layer_norm")


def opt(model: nn.Module) -> Parts:
    """Norms before the sublayers, or (350M) after them, between which embeddings are narrower than the rest."""
    config: Any = model.config
    width = config.hidden_size
    body = f"{root(model, 'model')}decoder"
    yield embedding(model, f"{body}.embed_tokens")
    for layer in range(config.num_hidden_layers):
        path = f"{body}.layers.{layer}"
        yield from norms(model, path, "self_attn_layer_norm")
        for name, role in {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "o"}.items():
            yield linear(model, f"{path}.self_attn.{name}", role)
        heads = config.num_attention_heads
        yield AttentionSite(f"{path}.self_attn", heads, width // heads, "decoder", width)
        yield SublayerSite(f"{path}.self_attn", "self", width)
        yield from norms(model, path, "final_layer_norm")
        yield linear(model, f"{path}.fc1", "ff_in")
        yield linear(model, f"{path}.fc2", "ff_out")
        yield SublayerSite(f"{path}.fc2", "ff", width)
        yield SublayerSite(path, "block", width)
    yield from norms(model, body, "final_layer_norm")
