"""Zero-shot: the method that does nothing, and so the baseline of every other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptbench.data.example import TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.methods.base import Adaptation, Method, register
from adaptbench.models.backbone import Backbone

if TYPE_CHECKING:
    from adaptbench.config import RecipeConfig


@register("zero_shot")
@dataclass(frozen=True)
class ZeroShot(Method):
    """The base model as it is."""

    def prepare(self, backbone: Backbone, seeds: Sequence[int]) -> Adaptation:
        return Adaptation(backbone, seeds)

    def adapt(
        self,
        backbone: Backbone,
        task: TaskData,
        few_shot_sets: Sequence[FewShotSet],
        recipe: "RecipeConfig",
        template: str = "random",
        progress: bool = False,
    ) -> Adaptation:
        return self.prepare(backbone, [few_shot.seed for few_shot in few_shot_sets])
