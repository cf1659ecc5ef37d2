"""Read the demonstrations once: their keys and values serve every prompt that follows them.

A causal model computes the same keys and values for a context whatever comes after it. Kept, they are exactly a
prefix of each attention (see models/attention.py), so prompts are scored as usual, their positions moved on. All are
kept in every layer, also where a window hides the first of them from most prompts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from adaptbench.models.attention import PREFIXES, Held, recorded_keys_and_values
from adaptbench.models.backbone import Backbone

States = dict[nn.Module, tuple[Tensor, Tensor]]  # attention -> keys and values, each (1, H, tokens, head width)


@contextmanager
def shared_context(backbone: Backbone, context: Sequence[int]) -> Iterator[None]:
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
            PREFIXES[module] = Held(key, value)
        yield
    finally:
        for module in states:
            PREFIXES.pop(module, None)


@torch.inference_mode()
def read(backbone: Backbone, context: Sequence[int]) -> States:
    """Keys and values of a context in every attention.

    Raises:
        InputError: the architecture computes attention by itself.
    """
    sites = backbone.anatomy.prefixed("demonstrations read once")
    ids = torch.tensor([list(context)], device=backbone.device)
    tokens = ids.shape[1]
    positions = torch.arange(tokens, device=ids.device)[None]
    seen = torch.ones_like(ids)  # a plain mask: the library makes causality and windows of it
    with recorded_keys_and_values() as recorded:
        backbone.model(input_ids=ids, attention_mask=seen, position_ids=positions, use_cache=False, logits_to_keep=1)
    modules = [backbone.model.get_submodule(site.path) for site in sites]
    return {module: recorded[module] for module in modules}
