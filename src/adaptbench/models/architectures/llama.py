"""Llama and its many relatives."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from adaptbench.models.architectures.parts import Parts, embedding, fused, linear, norm, norms, root
from adaptbench.models.sites import AttentionSite, Columns, LinearSite, SublayerSite


def llama(model: nn.Module) -> Parts:
    """Llama and the many that differ from it in norms, positions, windows, scales and experts only.

    Experts are held in one tensor each of three axes, no linear maps: a mixture of experts has the sites of its
    attentions, and of its feed-forward only what is dense (Qwen2's shared expert, whole layers).
    """
    config: Any = model.config
    offset = 1.0 if config.model_type in ("gemma2", "gemma3_text") else 0.0
    body = root(model, "model")
    yield embedding(model, f"{body}embed_tokens")
    for layer in range(config.num_hidden_layers):
        path = f"{body}layers.{layer}"
        attention: Any = model.get_submodule(f"{path}.self_attn")
        yield from norms(model, path, "input_layernorm", offset=offset)
        yield from _attention(model, f"{path}.self_attn", offset)
        yield AttentionSite(
            f"{path}.self_attn", config.num_key_value_heads, attention.head_dim, "decoder", config.hidden_size
        )
        yield SublayerSite(f"{path}.self_attn", "self", config.hidden_size)
        yield from norms(model, path, "post_attention_layernorm", "pre_feedforward_layernorm", offset=offset)
        yield from _feed_forward(model, f"{path}.mlp")
        yield SublayerSite(f"{path}.mlp", "ff", config.hidden_size)
        yield from norms(model, path, "post_feedforward_layernorm", offset=offset)
        yield SublayerSite(path, "block", config.hidden_size)
    yield norm(model, f"{body}norm", offset)


def _attention(model: nn.Module, path: str, offset: float) -> Parts:
    config: Any = model.config
    attention: Any = model.get_submodule(path)
    if hasattr(attention, "qkv_proj"):  # Phi-3
        queries = config.num_attention_heads * attention.head_dim
        keys = config.num_key_value_heads * attention.head_dim
        bounds = [0, queries, queries + keys, queries + 2 * keys]
        parts = {letter: Columns(bounds[i], bounds[i + 1]) for i, letter in enumerate("qkv")}
        yield from fused(model, f"{path}.qkv_proj", parts)
        yield linear(model, f"{path}.o_proj", "o")
    else:
        for letter in "qkvo":
            yield linear(model, f"{path}.{letter}_proj", letter)
    yield from norms(model, path, "q_norm", "k_norm", offset=offset)  # of a head, or (OLMo 2) of all
    for name in ("q_layernorm", "k_layernorm"):  # StableLM: every head has its own
        for head in range(len(getattr(getattr(attention, name, None), "norms", ()))):
            yield norm(model, f"{path}.{name}.norms.{head}")


def _feed_forward(model: nn.Module, path: str) -> Iterator[LinearSite]:
    module = model.get_submodule(path)
    if hasattr(module, "gate_up_proj"):  # Phi-3
        inner = model.get_submodule(f"{path}.down_proj").in_features
        parts = {"ff_gate": Columns(0, inner), "ff_in": Columns(inner, 2 * inner)}  # type: ignore[arg-type, operator]
        yield from fused(model, f"{path}.gate_up_proj", parts)
        yield linear(model, f"{path}.down_proj", "ff_out")
        return
    if hasattr(module, "experts"):
        path, module = f"{path}.shared_expert", getattr(module, "shared_expert", nn.Identity())
    for name, role in {"gate_proj": "ff_gate", "up_proj": "ff_in", "down_proj": "ff_out"}.items():
        if hasattr(module, name):
            yield linear(model, f"{path}.{name}", role)
