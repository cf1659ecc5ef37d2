"""T5, mT5, UMT5: sublayers of blocks under their own norms."""

from typing import Any

from torch import nn

from adaptbench.models.architectures.parts import Parts, embedding, linear, norm
from adaptbench.models.sites import AttentionSite, SublayerSite


def t5(model: nn.Module) -> Parts:
    """Feed-forward gated (T5 1.1, mT5, UMT5) or not (T5); both stacks, or the encoder alone."""
    config: Any = model.config
    yield embedding(model, "shared", "encoder")
    stacks = [("encoder", config.num_layers)]
    if hasattr(model, "decoder"):
        yield embedding(model, "shared", "decoder", "decoder_")
        stacks.append(("decoder", config.num_decoder_layers))
    feed_forward = {"wi_0": "ff_gate", "wi_1": "ff_in", "wo": "ff_out"}
    if not config.is_gated_act:
        feed_forward = {"wi": "ff_in", "wo": "ff_out"}
    for stack, layers in stacks:
        for block in range(layers):
            sublayers = [("SelfAttention", "self", stack)]
            if stack == "decoder":
                sublayers.append(("EncDecAttention", "cross", "cross"))
            for index, (name, role, kind) in enumerate(sublayers):
                yield norm(model, f"{stack}.block.{block}.layer.{index}.layer_norm")
                path = f"{stack}.block.{block}.layer.{index}.{name}"
                yield from (linear(model, f"{path}.{letter}", letter) for letter in "qkvo")
                yield AttentionSite(path, config.num_heads, config.d_kv, kind, config.d_model)
                yield SublayerSite(path, role, config.d_model)
            yield norm(model, f"{stack}.block.{block}.layer.{len(sublayers)}.layer_norm")
            path = f"{stack}.block.{block}.layer.{len(sublayers)}.DenseReluDense"
            yield from (linear(model, f"{path}.{name}", role) for name, role in feed_forward.items())
            yield SublayerSite(path, "ff", config.d_model)
            yield SublayerSite(f"{stack}.block.{block}", "block", config.d_model)
        yield norm(model, f"{stack}.final_layer_norm")
