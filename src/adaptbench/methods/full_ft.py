"""Full fine-tuning: every weight is trained, so a run needs a model of its own and runs cannot be fused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from adaptbench.methods.base import Adaptation, TrainedMethod, register
from adaptbench.models.backbone import Backbone


@register("full_ft")
@dataclass(frozen=True)
class FullFineTuning(TrainedMethod):
    """All parameters, on a copy of the base model."""

    fuses: ClassVar[bool] = False
    attachment = "the weights"
    formula = "all weights trained"
    source = "arXiv 2205.05638, section 3.1"

    def prepare(self, backbone: Backbone, seeds: Sequence[int]) -> Adaptation:
        if len(seeds) != 1:
            raise ValueError("full fine-tuning trains one run at a time")
        return Adaptation(backbone.unfrozen_copy(), seeds, tuned=True)
