"""In-context tuning: a delta trained on prompts that hold demonstrations, and used with demonstrations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from adaptbench.data.example import TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.data.prompts import evaluation_prompts, render
from adaptbench.data.templates import Prompt
from adaptbench.errors import InputError
from adaptbench.methods.base import METHODS, Adaptation, PeftMethod, register
from adaptbench.methods.contexts import Contexts, ReadingPlan
from adaptbench.methods.icl import InContextLearning, Room, room_for, shown
from adaptbench.models.anatomy import Anatomy
from adaptbench.models.backbone import Backbone
from adaptbench.models.delta import Delta
from adaptbench.schema import RecipeConfig

DEMONSTRATION_STREAM = 4  # keeps these draws apart from other uses of the seed
TRAINABLE = ("adapter", "bitfit", "ia3", "lora")


@register("icl_tuned")
@dataclass(frozen=True)
class InContextTuning(PeftMethod):
    """Each training prompt stands after demonstrations drawn from the other shots, in their order of drawing.

    A prediction reads the first shots as in-context learning does. One run at a time: runs differ in what they read.
    """

    fuses: ClassVar[bool] = False
    restores: ClassVar[bool] = False
    source: ClassVar[str] = "arXiv 2512.19879"

    delta_method: str = "ia3"
    """Whose delta is trained, with that method's own sizes: adapter, bitfit, ia3 or lora."""
    demonstrations: int = 8
    """Before every prompt, in training and in prediction; fewer where they do not fit."""
    separator: str = "\n\n"
    cached: bool = False
    """Read a prediction's demonstrations once and share their keys and values (decoder-only models)."""

    @property
    def attachment(self) -> str:
        return f"the prompt, and what {self.delta_method} attaches to"

    @property
    def formula(self) -> str:
        return "p(y | x_1, y_1, ..., x_k, y_k, x) of the tuned model"

    def check(self) -> None:
        if self.delta_method not in TRAINABLE:
            raise InputError(f"method.delta_method={self.delta_method!r}: expected one of {', '.join(TRAINABLE)}")
        if self.demonstrations < 1:
            raise InputError(f"method.demonstrations={self.demonstrations}: expected at least 1")

    def check_model(self, backbone: Backbone) -> None:
        self._in_context().check_model(backbone)

    def plan(self, shots: int) -> ReadingPlan:
        return self._in_context().plan(min(shots, self.demonstrations))

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        method = METHODS[self.delta_method]()
        assert isinstance(method, PeftMethod)
        return method.build(anatomy, runs)

    def prepare(self, backbone: Backbone, seeds: Sequence[int]) -> Adaptation:
        if len(seeds) != 1:
            raise ValueError("in-context tuning trains one run at a time")
        adaptation = super().prepare(backbone, seeds)
        adaptation.contexts = [Contexts(shared=self.cached) for _ in seeds]
        return adaptation

    def adapt(
        self,
        backbone: Backbone,
        task: TaskData,
        few_shot_sets: Sequence[FewShotSet],
        recipe: RecipeConfig,
        template: str = "random",
        progress: bool = False,
    ) -> Adaptation:
        self.check_model(backbone)
        adaptation = self.prepare(backbone, [few_shot.seed for few_shot in few_shot_sets]).to_task(task.type)
        contexts, before = [], []
        for few_shot in few_shot_sets:
            reader = self._in_context()
            room = room_for(backbone, task.type, _prompts(task, few_shot, template), None)
            first = FewShotSet(few_shot.seed, few_shot.examples[: self.demonstrations])
            contexts.append(reader.contexts(backbone, task, first, template, room))
            before.append(self._drawn(reader, backbone, task, few_shot, room))
        adaptation.contexts = contexts
        return self.train(adaptation, task, few_shot_sets, recipe, template, progress, before)

    def _in_context(self) -> InContextLearning:
        return InContextLearning(name=self.name, separator=self.separator, cached=self.cached)

    def _drawn(
        self, reader: InContextLearning, backbone: Backbone, task: TaskData, few_shot: FewShotSet, room: Room
    ) -> Callable[[int, Prompt], str]:
        """What stands before the prompt of a shot in training: other shots, drawn anew each time."""
        assemble = reader.assembler(backbone, room)
        rng = np.random.default_rng((few_shot.seed, DEMONSTRATION_STREAM))

        def context(index: int, prompt: Prompt) -> str:
            others = rng.permutation([other for other in range(len(few_shot.examples)) if other != index])
            chosen = [few_shot.examples[other] for other in others[: self.demonstrations]]
            return assemble([shown(task, example, prompt.template, rng) for example in chosen])[0][0]

        return context


def _prompts(task: TaskData, few_shot: FewShotSet, template: str) -> list[Prompt]:
    """Everything that is asked, in training and in prediction."""
    rng = np.random.default_rng(few_shot.seed)
    return [
        *evaluation_prompts(task, template),
        *(render(task, example, template, rng) for example in few_shot.examples),
    ]
