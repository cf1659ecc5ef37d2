"""How large a pass may be: its logits stay below `model.logits_limit`, and running out of memory is not fatal.

Logits are what grows with choices and vocabulary: one number for every scored position and every word. Passes get
fewer rows first; where one row is too large, its choices are read in slices, after the same prompt. Neither changes a
score or a gradient.
"""

import sys
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from adaptbench.data.batching import Batch, Shape
from adaptbench.models.backbone import Backbone
from adaptbench.schema import RecipeConfig
from adaptbench.scoring.rank import scores_targets_only, token_log_probabilities

BYTES = 4  # log-probabilities are taken in single precision, whatever the model's


@dataclass(frozen=True)
class PassSize:
    """How much of a batch is read in one pass."""

    rows: int = sys.maxsize  # of every run that shares it
    choices: int = sys.maxsize  # of every row

    @classmethod
    def of_recipe(cls, recipe: RecipeConfig) -> "PassSize":
        """The largest pass that a recipe trains in."""
        return cls(rows=recipe.rows_per_pass or sys.maxsize)

    def within(self, most: "PassSize") -> "PassSize":
        """The smaller of each."""
        return PassSize(min(self.rows, most.rows), min(self.choices, most.choices))


def logits_bytes(backbone: Backbone, shape: Shape) -> int:
    """Bytes of the logits of a batch of this shape."""
    return shape.rows * _scored_positions(backbone, shape) * backbone.model.config.get_text_config().vocab_size * BYTES


def pass_size(backbone: Backbone, shape: Shape, runs: int = 1) -> PassSize:
    """The largest pass whose logits, over all its runs, keep to the limit: at least a choice of a row of each run.

    Args:
        shape: of one run's rows.
        runs: how many share the pass.
    """
    row, limit = logits_bytes(backbone, replace(shape, rows=runs)), backbone.logits_limit
    if row <= limit:
        return PassSize(min(shape.rows, limit // max(row, 1)), shape.choices)
    choice = logits_bytes(backbone, replace(shape, rows=runs, choices=1))
    slices = -(-shape.choices // max(1, limit // choice))
    return PassSize(1, -(-shape.choices // slices))  # slices of equal size


def _scored_positions(backbone: Backbone, shape: Shape) -> int:
    """Positions of a row whose logits are held (see scoring/rank.py)."""
    if backbone.packs_choices and not backbone.is_encoder_decoder:
        return 1 + shape.choices * (shape.target - 1)  # all choices begin at the same place
    if backbone.packs_choices or scores_targets_only(backbone):
        virtual = backbone.virtual_tokens_of_choice if backbone.is_encoder_decoder else 0
        return shape.choices * (shape.target + virtual)
    return shape.choices * (shape.target if backbone.is_encoder_decoder else shape.source + shape.target - 1)


def in_slices(backbone: Backbone, batch: Batch, choices: int, smoothing: float = 0.0) -> Tensor:
    """(N, C, T) log-probabilities as `token_log_probabilities` gives them, of so many choices of each row at a time.

    Where gradients are wanted, no slice keeps its logits: they are computed again on the way back.
    """
    count = batch.targets.shape[1]
    if choices >= count:
        return token_log_probabilities(backbone, batch, smoothing)

    def read(targets: Tensor, mask: Tensor) -> Tensor:
        return token_log_probabilities(backbone, replace(batch, targets=targets, target_mask=mask), smoothing)

    once_more = partial(checkpoint, read, use_reentrant=False) if torch.is_grad_enabled() else read
    parts = zip(batch.targets.split(choices, 1), batch.target_mask.split(choices, 1), strict=True)
    return torch.cat([once_more(targets, mask) for targets, mask in parts], dim=1)


def smaller(error: BaseException, tried: PassSize, most: PassSize) -> PassSize:
    """The largest pass from now on, after one of size `tried` failed: half its rows, or half the choices of one row.

    Raises:
        BaseException: `error` itself, where it is about anything but memory, or nothing is left to halve.
    """
    if out_of_memory(error) and tried.rows > 1:
        return replace(most, rows=tried.rows // 2)
    if out_of_memory(error) and tried.choices > 1:
        return PassSize(1, tried.choices // 2)
    raise error


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on an accelerator or on the CPU."""
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "not enough memory" in str(error)
        or ("can't allocate memory" in str(error))
    )
