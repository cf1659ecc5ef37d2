"""Counting a deep model by two shallow ones.

The layers of a transformer are alike, so whatever is summed over them is linear in their number: counts of the same
model with one and with two layers give that of any depth, to the last FLOP. That they are alike is not taken on
trust: the parameters of the model must follow the same line, and (`pricer`) what a method trains, else all is counted.
"""

import copy
from typing import Any

from adaptbench.models.backbone import Backbone

SHALLOW = 4  # layers up to which counting everything is as quick


def shallow(backbone: Backbone) -> tuple[Backbone, Backbone] | None:
    """The model with one and with two layers; None where all of it has to be counted."""
    if not backbone.has_anatomy:  # nor does anybody know how to make a shallow one
        return None
    depth = backbone.model.config.num_hidden_layers
    if depth <= SHALLOW or getattr(backbone.model.config, "num_decoder_layers", depth) not in (depth, None):
        return None
    one_layer, two_layers = with_layers(backbone, 1), with_layers(backbone, 2)
    total = on_line(one_layer.parameters_total, two_layers.parameters_total, backbone)
    return (one_layer, two_layers) if total == backbone.parameters_total else None


def with_layers(backbone: Backbone, layers: int) -> Backbone:
    """The same architecture on the meta device with so many layers (an encoder-decoder: in each half)."""
    config: Any = copy.deepcopy(backbone.model.config)
    config.num_hidden_layers = layers
    if getattr(config, "num_decoder_layers", None):
        config.num_decoder_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    return backbone.on_meta(config)


def on_line(one_layer: int, two_layers: int, backbone: Backbone) -> int:
    """The value of this model, from those of one and of two layers."""
    return one_layer + (backbone.model.config.num_hidden_layers - 1) * (two_layers - one_layer)
