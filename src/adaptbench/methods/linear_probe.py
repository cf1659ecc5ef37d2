"""Linear probe: the model is frozen, and one linear map is trained on what it says of a text."""

from collections.abc import Sequence
from dataclasses import dataclass

from adaptbench.methods.base import Adaptation, TrainedMethod, register
from adaptbench.models.backbone import Backbone


@register("linear_probe")
@dataclass(frozen=True)
class LinearProbe(TrainedMethod):
    """The task's head alone, as one linear map: what every other method is more than."""

    heads_alone = True
    attachment = "nothing"
    formula = "x U + u on the frozen model's states"
    source = "arXiv 1610.01644"

    def prepare(self, backbone: Backbone, seeds: Sequence[int]) -> Adaptation:
        return Adaptation(backbone, seeds, linear_head=True)
