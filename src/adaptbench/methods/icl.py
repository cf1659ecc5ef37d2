"""In-context learning: the few-shot examples are read, with their answers, before every prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adaptbench.data.example import Example, TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.data.templates import NotApplicable, Prompt
from adaptbench.errors import InputError
from adaptbench.methods.base import Adaptation, Method, register
from adaptbench.methods.contexts import Context, Contexts
from adaptbench.models.backbone import Backbone
from adaptbench.training.stream import DRAWN, evaluation_prompts, render

TEMPLATE_STREAM = 2  # keeps the choice of demonstration templates apart from other uses of the seed


@register("icl")
@dataclass(frozen=True)
class InContextLearning(Method):
    """Demonstrations in the order of the draw, in one context or in one context each.

    Whole demonstrations are dropped, first ones first, until the longest evaluated prompt fits the model.
    """

    where = "the prompt"
    formula = "p(y | demonstrations, x)"
    source = "arXiv 2005.14165"

    separator: str = "\n\n"
    strategy: str = (
        "concatenated"  # or "ensemble": one demonstration per pass, probabilities averaged (Min et al. 2022)
    )
    demonstration_template: str = "same"  # as the prompt's; "random": drawn for every demonstration
    cached: bool = False  # read the demonstrations once and share their keys and values (decoder-only models)

    def __post_init__(self) -> None:
        for field, known in (
            ("strategy", ("concatenated", "ensemble")),
            ("demonstration_template", ("same", "random")),
        ):
            if getattr(self, field) not in known:
                raise InputError(f"method.{field}={getattr(self, field)!r}: expected {' or '.join(known)}")

    def prepare(self, backbone: Backbone, seeds: Sequence[int]) -> Adaptation:
        return Adaptation(backbone, seeds, contexts=[Contexts({}, 0, self.cached) for _ in seeds])

    def adapt(
        self,
        backbone: Backbone,
        task: TaskData,
        few_shot_sets: Sequence[FewShotSet],
        recipe: object,
        template: str = "random",
        progress: bool = False,
    ) -> Adaptation:
        if self.cached and backbone.is_encoder_decoder:
            raise InputError(
                "method.cached=true: an encoder that looks both ways cannot share its demonstrations' keys"
            )
        adaptation = self.prepare(backbone, [few_shot.seed for few_shot in few_shot_sets])
        room = backbone.max_length - _longest_prompt(backbone, task, template) - len(_start_ids(backbone))
        adaptation.contexts = [self._contexts(backbone, task, few_shot, template, room) for few_shot in few_shot_sets]
        return adaptation

    def _contexts(self, backbone: Backbone, task: TaskData, few_shot: FewShotSet, template: str, room: int) -> Contexts:
        """The contexts of one run: for each template a prompt may come in."""
        start, by_template, fitted = _start_ids(backbone), {}, []
        for name, prompts in self._demonstrations(task, few_shot, template).items():
            each = [self._ids(backbone, prompt) for prompt in prompts]
            if self.strategy == "ensemble":
                kept = [ids for ids in each if len(ids) <= room]
                by_template[name] = tuple((*start, *ids) for ids in kept)
            else:
                kept = last_that_fit(each, room)
                by_template[name] = ((*start, *(token for ids in kept for token in ids)),)
            fitted.append(len(kept))
        return Contexts(by_template, min(fitted), self.cached)

    def _demonstrations(self, task: TaskData, few_shot: FewShotSet, template: str) -> Mapping[str, list[Prompt]]:
        rng = np.random.default_rng((few_shot.seed, TEMPLATE_STREAM))
        names = [one.name for one in task.templates] if template in DRAWN else [template]
        if self.demonstration_template == "random":
            drawn = [render(task, example, template, rng) for example in few_shot.examples]
            return dict.fromkeys(names, drawn)
        return {name: [_shown(task, example, name, rng) for example in few_shot.examples] for name in names}

    def _ids(self, backbone: Backbone, prompt: Prompt) -> Context:
        text = f"{prompt.input} {prompt.choices[prompt.label]}{self.separator}"
        return tuple(backbone.tokenizer(text, add_special_tokens=False)["input_ids"])


def _shown(task: TaskData, example: Example, template: str, rng: np.random.Generator) -> Prompt:
    """A demonstration in this template, or in another where this one is not meant for the row."""
    try:
        return render(task, example, template, rng)
    except NotApplicable:
        return render(task, example, "random", rng)


def last_that_fit(demonstrations: Sequence[Context], room: int) -> list[Context]:
    """As many whole demonstrations, from the last, as fit into `room` tokens."""
    kept: list[Context] = []
    for ids in reversed(demonstrations):
        room -= len(ids)
        if room < 0:
            break
        kept.insert(0, ids)
    return kept


def _longest_prompt(backbone: Backbone, task: TaskData, template: str) -> int:
    lengths = []
    for prompt in evaluation_prompts(task, template):
        ids = backbone.tokenizer([prompt.input, *prompt.choices])["input_ids"]
        lengths.append(len(ids[0]) + max(map(len, ids[1:])))
    return max(lengths)


def _start_ids(backbone: Backbone) -> Context:
    """What a decoder-only tokenizer puts before a text; it must come once, before the first demonstration."""
    if backbone.is_encoder_decoder:
        return ()
    ids = backbone.tokenizer("")["input_ids"]
    return tuple(ids[:1]) if ids and ids[0] == backbone.tokenizer.bos_token_id else ()
