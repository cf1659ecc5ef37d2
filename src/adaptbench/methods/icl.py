"""In-context learning: the few-shot examples, with their answers, are read before every prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaptbench.data.example import TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.data.templates import Prompt
from adaptbench.methods.base import Adaptation, Method, register
from adaptbench.models.backbone import Backbone
from adaptbench.training.stream import evaluation_prompts, render

TEMPLATE_STREAM = 2  # keeps the choice of demonstration templates apart from other uses of the seed


@register("icl")
@dataclass(frozen=True)
class InContextLearning(Method):
    """Concatenated demonstrations in the order of the draw. Whole demonstrations are dropped, first ones first,
    until the longest evaluated prompt fits the model."""

    where = "the prompt"
    formula = "p(y | demonstrations, x)"
    source = "arXiv 2005.14165"

    separator: str = "\n\n"

    def prepare(self, backbone: Backbone, seeds: Sequence[int]) -> Adaptation:
        return Adaptation(backbone, seeds, contexts=[() for _ in seeds], demonstrations=[0 for _ in seeds])

    def adapt(
        self,
        backbone: Backbone,
        task: TaskData,
        few_shot_sets: Sequence[FewShotSet],
        recipe: object,
        template: str = "random",
        progress: bool = False,
    ) -> Adaptation:
        room = backbone.max_length - self._longest_prompt(backbone, task, template)
        adaptation = self.prepare(backbone, [few_shot.seed for few_shot in few_shot_sets])
        fitted = [
            self._fit([self._ids(backbone, p) for p in self._demonstrations(task, few_shot, template)], room, backbone)
            for few_shot in few_shot_sets
        ]
        adaptation.contexts = [ids for ids, _ in fitted]
        adaptation.demonstrations = [count for _, count in fitted]
        return adaptation

    def _demonstrations(self, task: TaskData, few_shot: FewShotSet, template: str) -> list[Prompt]:
        rng = np.random.default_rng((few_shot.seed, TEMPLATE_STREAM))
        return [render(task, example, template, rng) for example in few_shot.examples]

    def _ids(self, backbone: Backbone, prompt: Prompt) -> tuple[int, ...]:
        text = f"{prompt.input} {prompt.choices[prompt.label]}{self.separator}"
        return tuple(backbone.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _fit(self, demonstrations: list[tuple[int, ...]], room: int, backbone: Backbone) -> tuple[tuple[int, ...], int]:
        start = _start_ids(backbone)
        room -= len(start)
        kept: list[tuple[int, ...]] = []
        for ids in reversed(demonstrations):
            if len(ids) > room:
                break
            room -= len(ids)
            kept.insert(0, ids)
        return (*start, *(token for ids in kept for token in ids)), len(kept)

    def _longest_prompt(self, backbone: Backbone, task: TaskData, template: str) -> int:
        lengths = []
        for prompt in evaluation_prompts(task, template):
            ids = backbone.tokenizer([prompt.input, *prompt.choices])["input_ids"]
            lengths.append(len(ids[0]) + max(map(len, ids[1:])))
        return max(lengths)


def _start_ids(backbone: Backbone) -> tuple[int, ...]:
    """What a decoder-only tokenizer puts before a text; it must come once, before the first demonstration."""
    if backbone.is_encoder_decoder:
        return ()
    ids = backbone.tokenizer("")["input_ids"]
    return tuple(ids[:1]) if ids and ids[0] == backbone.tokenizer.bos_token_id else ()
