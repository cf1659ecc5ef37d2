"""Read the demonstrations once: their keys and values serve every prompt that follows them.

A causal model computes the same keys and values for a context whatever comes after it. Kept, they are exactly a
prefix of each attention (see models/attention.py), so prompts are scored as usual, their positions moved on.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from adaptbench.methods.contexts import Context
from adaptbench.models.attention import PREFIXES
from adaptbench.models.backbone import Backbone

States = dict[nn.Module, tuple[Tensor, Tensor]]  # attention -> keys and values, each (1, H, tokens, head width)


@contextmanager
def shared_context(backbone: Backbone, context: Context) -> Iterator[None]:
    """Inside, a decoder-only model reads every row as if `context` stood before it.

    Rows must be collated with `already_read=len(context)`, or their positions would be wrong.
    """
    with shared(read(backbone, context)):
        yield


@contextmanager
def shared(states: States) -> Iterator[None]:
    """Inside, every row attends to these keys and values before its own."""
    try:
        for module, (key, value) in states.items():
            PREFIXES[module] = lambda rows, key=key, value=value: (  # type: ignore[misc]
                key.expand(rows, -1, -1, -1),
                value.expand(rows, -1, -1, -1),
            )
        yield
    finally:
        for module in states:
            PREFIXES.pop(module, None)


@torch.inference_mode()
def read(backbone: Backbone, context: Context) -> States:
    """Keys and values of a context in every attention."""
    ids = torch.tensor([context], device=backbone.device)
    cache = backbone.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    modules = [backbone.model.get_submodule(site.path) for site in backbone.anatomy.attentions]
    return {module: (layer.keys, layer.values) for module, layer in zip(modules, cache.layers, strict=True)}
