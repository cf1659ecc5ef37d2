"""Counting a deep model by two shallow ones.

The layers of a transformer are alike, so whatever is summed over them is linear in their number: counts of the same
model with one and with two layers give that of any depth, to the last FLOP. That they are alike is not taken on
trust: the parameters, of the model and of what a method trains, must follow the same line, else all is counted.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from adaptbench.errors import InputError
from adaptbench.models.backbone import Backbone, from_config

SHALLOW = 4  # layers up to which counting everything is as quick

Counts = tuple[int, ...]


def count_by_depth(backbone: Backbone, trainable: int, count_on: Callable[[Backbone], Counts]) -> Counts:
    """What `count_on` gives for this model, from two shallow copies of it where that is exact.

    Args:
        trainable: parameters a method trains on the whole model, which the first number of the counts must give.
    """
    if not backbone.has_anatomy:  # nor does anybody know how to make a shallow one
        return count_on(backbone)
    depth = backbone.model.config.num_hidden_layers
    if depth <= SHALLOW or getattr(backbone.model.config, "num_decoder_layers", depth) not in (depth, None):
        return count_on(backbone)
    one, two = with_layers(backbone, 1), with_layers(backbone, 2)
    if _on_line(one.parameters_total, two.parameters_total, depth) != backbone.parameters_total:
        return count_on(backbone)
    try:
        counts = tuple(_on_line(a, b, depth) for a, b in zip(count_on(one), count_on(two), strict=True))
    except InputError:  # what fits the whole model may be too large for a shallow one (SAID's dimensions)
        return count_on(backbone)
    return counts if counts[0] == trainable else count_on(backbone)


def with_layers(backbone: Backbone, layers: int) -> Backbone:
    """The same architecture on the meta device with so many layers (an encoder-decoder: in each half)."""
    config: Any = copy.deepcopy(backbone.model.config)
    config.num_hidden_layers = layers
    if getattr(config, "num_decoder_layers", None):
        config.num_decoder_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    model = from_config(config, backbone.dtype)
    return replace(backbone, model=model, device=model.device)


def _on_line(one: int, two: int, depth: int) -> int:
    return one + (depth - 1) * (two - one)
