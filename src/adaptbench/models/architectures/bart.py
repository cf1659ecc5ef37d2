"""The BART family."""

from typing import Any

from torch import nn

from adaptbench.models.architectures.parts import Parts, embedding, linear, norm, norms
from adaptbench.models.sites import AttentionSite, SublayerSite


def bart(model: nn.Module) -> Parts:
    """BART, mBART, M2M-100 (and with it NLLB) and Marian: norms before or after the sublayers, or at the ends."""
    config: Any = model.config
    width = config.d_model
    # Marian's encoder multiplies what it looks up, but not what it is given; all others do both or neither.
    scale = getattr(model.get_submodule("model.encoder"), "embed_scale", 1.0)
    yield embedding(model, "model.encoder.embed_tokens", "encoder", scale=float(scale))  # type: ignore[arg-type]
    yield embedding(model, "model.decoder.embed_tokens", "decoder", "decoder_")
    for stack in ("encoder", "decoder"):
        root, heads = f"model.{stack}", getattr(config, f"{stack}_attention_heads")
        yield from norms(model, root, "layernorm_embedding")
        attentions = [("self_attn", "self", stack)]
        if stack == "decoder":
            attentions.append(("encoder_attn", "cross", "cross"))
        for layer in range(getattr(config, f"{stack}_layers")):
            path = f"{root}.layers.{layer}"
            for name, role, kind in attentions:
                for letter in "qkv":
                    yield linear(model, f"{path}.{name}.{letter}_proj", letter)
                yield linear(model, f"{path}.{name}.out_proj", "o")
                yield AttentionSite(f"{path}.{name}", heads, width // heads, kind, width)
                yield SublayerSite(f"{path}.{name}", role, width)
                yield norm(model, f"{path}.{name}_layer_norm")
            yield linear(model, f"{path}.fc1", "ff_in")
            yield linear(model, f"{path}.fc2", "ff_out")
            yield SublayerSite(f"{path}.fc2", "ff", width)
            yield norm(model, f"{path}.final_layer_norm")
            yield SublayerSite(path, "block", width)
        yield from norms(model, root, "layer_norm")
