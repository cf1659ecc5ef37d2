"""In-context learning: the few-shot examples are read, with their answers, before every prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np

from adaptbench.data.example import Example, TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.data.prompts import DRAWN, evaluation_prompts, render
from adaptbench.data.templates import NotApplicable, Prompt, Template
from adaptbench.data.tokenization import marks, token_ids
from adaptbench.errors import InputError
from adaptbench.methods.base import Adaptation, Method, register
from adaptbench.methods.contexts import Context, Contexts, ReadingPlan
from adaptbench.methods.neighbours import nearest
from adaptbench.models.backbone import Backbone
from adaptbench.tasks import TaskType

TEMPLATE_STREAM, ORDER_STREAM = 2, 3  # keep these random choices apart from other uses of the seed
SEAM = 2  # tokens that a joined text may have more than its parts, or fewer: a line end read as two, say


@register("icl")
@dataclass(frozen=True)
class InContextLearning(Method):
    """Demonstrations in one context, or in one context each (`ensemble`).

    Whole demonstrations are dropped, first ones first, until the longest evaluated prompt fits the model (and
    `budget` tokens, if that is less). Where over-long prompts may be truncated, demonstrations may take half the room.
    """

    attachment = "the prompt"
    source: ClassVar[str] = "arXiv 2005.14165"
    keeps_weights: ClassVar[bool] = True

    separator: str = "\n\n"
    strategy: str = "concatenated"
    """Or a pass for each demonstration (2108.04106): ensemble averages probabilities, ensemble_product multiplies."""
    demonstration_template: str = "same"  # as the prompt's; "random": drawn for every demonstration
    cached: bool = False  # read the demonstrations once and share their keys and values (decoder-only models)
    order: str = "draw"  # "seeded": shuffled by the seed; "nearest_last": the most similar one next to the prompt
    balanced: bool = False  # as many demonstrations of one label as of any other
    neighbours: int | None = None  # show only so many of the shots, those most similar to the prompt (2101.06804)
    calibrated: bool = False  # divide by the probabilities after content-free inputs (2102.09690)
    content_free: list[str] = field(default_factory=lambda: ["N/A", "", "[MASK]"])
    channel: bool = False  # p(x | y) instead of p(y | x) (2108.04106)
    budget: int | None = None  # most tokens of demonstrations

    def check(self) -> None:
        for name, allowed in (
            ("strategy", ("concatenated", "ensemble", "ensemble_product")),
            ("demonstration_template", ("same", "random")),
            ("order", ("draw", "seeded", "nearest_last")),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(f"method.{name}={getattr(self, name)!r}: expected {' or '.join(allowed)}")
        for name in ("neighbours", "budget"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"method.{name}={value}: expected at least 1")
        if self.cached and self.by_prompt:
            raise InputError("method.cached=true: nothing is shared where every prompt has demonstrations of its own")
        if self.calibrated and self.channel:
            raise InputError("method.calibrated=true: calibration is of direct scores, not of the channel's")
        if self.calibrated and not self.content_free:
            raise InputError("method.content_free=[]: calibration needs at least one content-free input")

    @property
    def formula(self) -> str:
        if self.channel:
            return "p(x | y_1, x_1, ..., y_K, x_K, y)"
        if self.each_alone:
            return f"{'Π_k' if self.strategy == 'ensemble_product' else '1/K Σ_k'} p(y | x_k, y_k, x)"
        if self.calibrated:
            return "p(y | x_1, y_1, ..., x_K, y_K, x) / p(y | x_1, y_1, ..., x_K, y_K, content-free)"
        return "p(y | x_1, y_1, ..., x_K, y_K, x)"

    @property
    def each_alone(self) -> bool:
        """Every demonstration has a pass of its own."""
        return self.strategy != "concatenated"

    @property
    def by_prompt(self) -> bool:
        """Every prompt has a context of its own."""
        return self.neighbours is not None or self.order == "nearest_last"

    def plan(self, shots: int) -> ReadingPlan:
        count = min(shots, self.neighbours or shots)
        return ReadingPlan(
            demonstrations=1 if self.each_alone else count,
            contexts=count if self.each_alone else 1,
            budget=self.budget,
            shareable=not self.by_prompt,
            shared=self.cached,
            channel=self.channel,
            content_free=len(self.content_free) if self.calibrated else 0,
        )

    def check_model(self, backbone: Backbone) -> None:
        if self.cached and backbone.is_encoder_decoder:
            raise InputError(
                "method.cached=true: an encoder that looks both ways cannot share its demonstrations' keys"
            )
        if self.cached:
            backbone.anatomy.prefixed("method.cached=true")

    def prepare(self, backbone: Backbone, seeds: Sequence[int]) -> Adaptation:
        return Adaptation(backbone, seeds, contexts=[Contexts(shared=self.cached) for _ in seeds])

    def adapt(
        self,
        backbone: Backbone,
        task: TaskData,
        few_shot_sets: Sequence[FewShotSet],
        recipe: object,
        template: str = "random",
        progress: bool = False,
    ) -> Adaptation:
        self.check_model(backbone)
        adaptation = self.prepare(backbone, [few_shot.seed for few_shot in few_shot_sets]).to_task(task.type)
        room = room_for(backbone, task.type, evaluation_prompts(task, template), self.budget)
        adaptation.contexts = [self.contexts(backbone, task, few_shot, template, room) for few_shot in few_shot_sets]
        return adaptation

    def contexts(
        self, backbone: Backbone, task: TaskData, few_shot: FewShotSet, template: str, room: "Room"
    ) -> Contexts:
        """The contexts of one run, by the prompt's template or, with neighbours, by the prompt."""
        rng = np.random.default_rng((few_shot.seed, TEMPLATE_STREAM))
        names = [candidate.name for candidate in task.templates] if template in DRAWN else [template]
        examples = self._ordered(few_shot)
        drawn = [render(task, example, "random" if template in DRAWN else template, rng) for example in examples]
        phrased = {
            name: drawn if self.demonstration_template == "random" else [shown(task, e, name, rng) for e in examples]
            for name in names
        }
        assemble = self.assembler(backbone, room)
        fixed = {name: assemble(prompts) for name, prompts in phrased.items()}

        def find(prompt: Prompt) -> tuple[Context, ...]:
            if not self.by_prompt:
                return fixed[prompt.template][0]
            prompts = phrased[prompt.template]
            order = nearest(prompt.input, [shot.input for shot in prompts])[: self.neighbours]
            return assemble([prompts[index] for index in reversed(order)])[0]

        kept = [self._text(prompt) for prompt in phrased[names[0]]] if self.by_prompt else fixed[names[0]][0]
        start = () if self.by_prompt else marks(backbone.tokenizer).before
        return Contexts(
            find=find,
            stored=tuple(token for ids in token_ids(backbone.tokenizer, kept) for token in (*start, *ids)),
            demonstrations=min([count for _, count in fixed.values()] + ([self.neighbours] if self.neighbours else [])),
            shared=self.cached,
            channel=self.channel,
            multiplied=self.strategy == "ensemble_product",
            content_free=self._content_free(task, few_shot, names) if self.calibrated else {},
        )

    def _ordered(self, few_shot: FewShotSet) -> list[Example]:
        examples = list(few_shot.examples)
        if self.balanced:
            examples = balanced(examples)
        if self.order == "seeded":
            examples = [
                examples[i] for i in np.random.default_rng((few_shot.seed, ORDER_STREAM)).permutation(len(examples))
            ]
        return examples

    def assembler(
        self, backbone: Backbone, room: "Room"
    ) -> Callable[[Sequence[Prompt]], tuple[tuple[Context, ...], int]]:
        """From demonstrations to contexts, and how many demonstrations they hold."""

        def assemble(prompts: Sequence[Prompt]) -> tuple[tuple[Context, ...], int]:
            texts = [self._text(prompt) for prompt in prompts]
            if self.each_alone:
                alone = tuple(text for text in texts if room.holds(text))
                return alone or ("",), len(alone)
            lengths = [len(ids) for ids in token_ids(backbone.tokenizer, texts)]
            kept = texts[len(texts) - last_that_fit(lengths, room.tokens) :]
            while kept and not room.holds("".join(kept)):
                kept = kept[1:]
            return ("".join(kept),), len(kept)

        return assemble

    def _text(self, prompt: Prompt) -> str:
        parts = (prompt.input, prompt.target)
        return prompt.delimiter.join(reversed(parts) if self.channel else parts) + self.separator

    def _content_free(self, task: TaskData, few_shot: FewShotSet, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Each template's input with every text of a row replaced by one that says nothing."""
        rows = (*few_shot.examples, *task.evaluation)
        return {name: tuple(_emptied(task.template(name), rows, text) for text in self.content_free) for name in names}


def _emptied(template: Template, rows: Sequence[Example], text: str) -> str:
    """The input of the first row that the template is meant for, with `text` in place of all it says."""
    for row in rows:
        fields = {
            key: value if key == "label" or key in template.categories else _silenced(value, text)
            for key, value in row.fields.items()
        }
        try:
            return template.parts(row.uid, fields, row.origin)[0]
        except NotApplicable:
            continue
    raise InputError(f"dataset {template.dataset!r}, template {template.name!r}: meant for none of the rows")


def _silenced(value: Any, text: str) -> Any:
    """A field with `text` for its texts and numbers, nested ones too; truth values and nulls steer and say nothing."""
    if isinstance(value, list | tuple):
        return [_silenced(entry, text) for entry in value]
    if isinstance(value, Mapping):
        return {key: _silenced(entry, text) for key, entry in value.items()}
    return text if isinstance(value, str | int | float) and not isinstance(value, bool) else value


def balanced(examples: Sequence[Example]) -> list[Example]:
    """As many of each label as the rarest has, the first ones, in their order."""
    by_label: dict[int, list[Example]] = {}
    for example in examples:
        by_label.setdefault(example.label, []).append(example)
    least = min(map(len, by_label.values()))
    kept = {id(example) for group in by_label.values() for example in group[:least]}
    return [example for example in examples if id(example) in kept]


def last_that_fit(lengths: Sequence[int], room: int) -> int:
    """How many demonstrations, counted from the last, fit whole into `room` tokens."""
    return sum(total <= room for total in accumulate(reversed(lengths)))


def shown(task: TaskData, example: Example, template: str, rng: np.random.Generator) -> Prompt:
    """A demonstration in this template, or in another where this one is not meant for the row."""
    try:
        return render(task, example, template, rng)
    except NotApplicable:
        return render(task, example, "random", rng)


@dataclass(frozen=True)
class Room:
    """What is left for demonstrations: so many tokens, and before the longest prompts no more than the model reads."""

    tokens: int
    longest: Sequence[str]  # prompts with their longest choice, of which one may turn out longest once joined
    backbone: Backbone

    def holds(self, context: Context) -> bool:
        tokenizer, around = self.backbone.tokenizer, marks(self.backbone.tokenizer)
        alone, *wholes = token_ids(tokenizer, [context, *(context + text for text in self.longest)])
        most = self.backbone.max_length - len(around.before) - len(around.after)
        return len(alone) <= self.tokens and all(len(whole) <= most for whole in wholes)


def room_for(backbone: Backbone, task: TaskType, prompts: Sequence[Prompt], budget: int | None) -> Room:
    """The room that these prompts leave; where over-long ones may be truncated, at least half of the model's length."""
    around, lengths = marks(backbone.tokenizer), []
    for prompt in prompts:
        (ids,) = token_ids(backbone.tokenizer, [prompt.input])
        answer = task.answer_tokens(backbone, prompt)
        lengths.append(len(ids) + answer + len(around.before) + len(around.after))
    tokens = backbone.max_length - max(lengths)
    longest = [p for p, length in zip(prompts, lengths, strict=True) if length >= max(lengths) - SEAM][:16]
    if backbone.overlong == "truncate":
        tokens, longest = max(tokens, backbone.max_length // 2), []
    texts = [task.longest_text(prompt) for prompt in longest]
    return Room(min(tokens, budget or tokens), texts, backbone)
