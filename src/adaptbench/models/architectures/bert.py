"""BERT, RoBERTa and DeBERTa-v2 and v3."""

from typing import Any

from torch import nn

from adaptbench.models.architectures.parts import Parts, embedding, linear, norm, root
from adaptbench.models.sites import AttentionSite, SublayerSite


def bert(model: nn.Module) -> Parts:
    """BERT and RoBERTa, bare or under a head: bidirectional, so methods attach but no choices are scored."""
    config: Any = model.config
    body = root(model, config.model_type)
    yield from _layers(model, body, {"query": "q", "key": "k", "value": "v"})
    for layer in range(config.num_hidden_layers):
        yield SublayerSite(f"{body}encoder.layer.{layer}.output.LayerNorm", "ff_norm", config.hidden_size)


def deberta(model: nn.Module) -> Parts:
    """DeBERTa-v2 and v3. In v3 queries and keys share their maps with relative positions, and with what changes them.

    The norm of the relative positions' embeddings, read once for all rows, is no site.
    """
    return _layers(model, root(model, "deberta"), {"query_proj": "q", "key_proj": "k", "value_proj": "v"})


def _layers(model: nn.Module, body: str, maps: dict[str, str]) -> Parts:
    config: Any = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    yield embedding(model, f"{body}embeddings.word_embeddings", "encoder")
    yield norm(model, f"{body}embeddings.LayerNorm")
    for layer in range(config.num_hidden_layers):
        path = f"{body}encoder.layer.{layer}"
        for name, role in maps.items():
            yield linear(model, f"{path}.attention.self.{name}", role)
        yield AttentionSite(f"{path}.attention.self", heads, width // heads, "encoder", width)
        yield linear(model, f"{path}.attention.output.dense", "o")
        yield SublayerSite(f"{path}.attention.output.dense", "self", width)
        yield norm(model, f"{path}.attention.output.LayerNorm")
        yield linear(model, f"{path}.intermediate.dense", "ff_in")
        yield linear(model, f"{path}.output.dense", "ff_out")
        yield SublayerSite(f"{path}.output.dense", "ff", width)
        yield norm(model, f"{path}.output.LayerNorm")
        yield SublayerSite(path, "block", width)
