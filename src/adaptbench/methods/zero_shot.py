"""Zero-shot: the method that does nothing, and so the baseline of every other."""

from collections.abc import Sequence
from dataclasses import dataclass

from adaptbench.methods.base import Adaptation, Method, register
from adaptbench.models.backbone import Backbone


@register("zero_shot")
@dataclass(frozen=True)
class ZeroShot(Method):
    """The base model as it is."""

    formula = "p(y | x)"
    needs_shots = False
    keeps_weights = True
    source = "arXiv 2110.08207"

    def prepare(self, backbone: Backbone, seeds: Sequence[int]) -> Adaptation:
        return Adaptation(backbone, seeds)
