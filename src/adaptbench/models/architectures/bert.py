"""BERT and RoBERTa."""

from typing import Any

from torch import nn

from adaptbench.models.architectures.parts import Parts, embedding, linear, norm, root
from adaptbench.models.sites import AttentionSite, SublayerSite


def bert(model: nn.Module) -> Parts:
    """BERT and RoBERTa, bare or under a head: bidirectional, so methods attach but no choices are scored."""
    config: Any = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    body = root(model, config.model_type)
    yield embedding(model, f"{body}embeddings.word_embeddings", "encoder")
    yield norm(model, f"{body}embeddings.LayerNorm")
    for layer in range(config.num_hidden_layers):
        path = f"{body}encoder.layer.{layer}"
        for name, role in {"query": "q", "key": "k", "value": "v"}.items():
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
