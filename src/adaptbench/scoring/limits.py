"""How large a pass may be: the logits of a run stay below `model.logits_limit`; running out of memory is not fatal.

Logits are what grows with the vocabulary: one number for every scored position and every word.
"""

import torch

from adaptbench.data.batching import Shape
from adaptbench.models.backbone import Backbone
from adaptbench.scoring.rank import scores_targets_only

BYTES = 4  # log-probabilities are taken in single precision, whatever the model's


def logits_bytes(backbone: Backbone, shape: Shape) -> int:
    """Bytes of one run's logits for a batch of this shape."""
    return shape.rows * _scored_positions(backbone, shape) * backbone.model.config.get_text_config().vocab_size * BYTES


def rows_that_fit(backbone: Backbone, shape: Shape) -> int:
    """How many rows of this shape may share a pass: at least one, whatever its size."""
    whole = logits_bytes(backbone, shape)
    return max(1, min(shape.rows, shape.rows * backbone.logits_limit // whole)) if whole else shape.rows


def _scored_positions(backbone: Backbone, shape: Shape) -> int:
    """Positions of a row whose logits are computed (see scoring/rank.py)."""
    if backbone.is_encoder_decoder:
        return shape.choices * (shape.target + backbone.virtual_tokens_of_choice)
    if backbone.packs_choices:
        return shape.choices * (shape.target - 1) + 1
    return shape.choices * (shape.target if scores_targets_only(backbone) else shape.source + shape.target - 1)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on an accelerator or on the CPU."""
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "not enough memory" in str(error)
        or ("can't allocate memory" in str(error))
    )
