"""Classification and regression by a head that is trained from nothing, on a model without one of its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from adaptbench.data.batching import Batch, Encoded, Shape
from adaptbench.data.labels import label_index
from adaptbench.data.templates import SPLIT, UNLABELLED, Prompt, Template, TextTemplate
from adaptbench.data.texts import Text, encode_text, pad_texts
from adaptbench.data.tokenization import Ids
from adaptbench.errors import InputError
from adaptbench.models.backbone import Backbone
from adaptbench.models.delta import Delta
from adaptbench.models.encoders import Encoder, load, meta_encoder, pooled
from adaptbench.models.heads import classification_head, start_head
from adaptbench.schema import DatasetConfig, ModelConfig
from adaptbench.scoring.limits import PassSize
from adaptbench.tasks.base import CountTokens, TaskType, register

ONE_TEXT = ((4, 0, 0), (8, 0, 0), (16, 0, 0))  # shapes that fix a quadratic in the length of a text


@dataclass(frozen=True)
class EncodedText(Encoded):
    """A text or a pair; `types` are 1 in the second text."""

    types: Ids = ()


@dataclass(frozen=True)
class TextBatch(Batch):
    """N = R * B texts, padded on the right, and nothing to choose from."""

    types: Tensor | None = None  # (N, S)


def text_batch(source: Tensor, mask: Tensor, types: Tensor, label: Tensor) -> TextBatch:
    """Texts without targets."""
    none = source.new_zeros(len(source), 0, 0)
    return TextBatch(source, mask, none, none.bool(), label, types=types)


@dataclass(frozen=True)
class ClassScores:
    """What the head said of every class of one text, or the number it predicted."""

    prompt: Prompt
    scores: tuple[float, ...]


class BareTask(TaskType):
    """What tasks have in common that read whole texts and answer by a head of their own."""

    bare: ClassVar[bool] = True
    demonstrates: ClassVar[bool] = False
    probes: ClassVar[tuple[tuple[int, int, int], ...]] = ONE_TEXT

    def has_polynomial(self, backbone: Backbone) -> bool:
        return backbone.model.config.model_type != "deberta-v2"  # looks up relative positions, at most so far away

    def load(self, model: ModelConfig, device: str) -> Encoder:
        return load(model, device)

    def without_weights(self, model: ModelConfig, revision: str | None = None) -> Encoder:
        return meta_encoder(model.name, model.path, model.dtype, model.shape, revision)

    def shape_of(self, rows: Sequence[Encoded]) -> Shape:
        return Shape(len(rows), max(len(row.source) for row in rows), 0, 0)

    def estimated_shape(
        self, prompt: Prompt, tokens: CountTokens, backbone: Backbone, limit: int, training: bool
    ) -> Shape:
        texts = [prompt.input] if prompt.second is None else [prompt.input, prompt.second]
        return Shape(1, min(limit, sum(map(tokens, texts)) + backbone.virtual_tokens), 0, 0)


@register("classification")
@dataclass(frozen=True)
class Classification(BareTask):
    """A text or a pair of texts has one of C classes, or (C = 1) a number."""

    smooths: ClassVar[bool] = True

    classes: int = 2
    regression: bool = False

    @classmethod
    def of(cls, config: DatasetConfig) -> "Classification":
        if config.regression:
            if config.sampling == "stratified":
                raise InputError("dataset.sampling=stratified: numbers are no classes to draw equally many of")
            return cls(1, True)
        declared = len(set(config.labels.values())) if isinstance(config.labels, Mapping) else 0
        classes = config.classes or declared
        if classes < 2:
            raise InputError(
                f"dataset {config.name!r}: a classification task needs dataset.labels or dataset.classes of at least "
                f"two, found {classes} (dataset.regression=true predicts a number)"
            )
        if declared > classes:
            raise InputError(f"dataset.classes={classes}: dataset.labels declares {declared}")
        return cls(classes)

    @property
    def answers(self) -> str:
        return "number" if self.regression else "label"

    def template(self, config: DatasetConfig, name: str, entry: Mapping[str, str], labels: tuple[str, ...]) -> Template:
        if set(entry) not in ({"text"}, {"text", "pair"}):
            found = ", ".join(sorted(entry)) or "nothing"
            raise InputError(f"dataset.templates.{name}: expected text, or text and pair, found {found}")
        jinja = f"{entry['text']}{SPLIT}{entry.get('pair', '')}"
        return TextTemplate(config.name, name, jinja, "", labels, config.answer_delimiter)

    def read_answer(self, config: DatasetConfig, row: dict[str, Any], labelled: bool) -> None:
        if self.regression:
            row["label"] = _number(row["label"]) if labelled else math.nan
            return
        row["label"] = label_index(config.labels, row["label"]) if labelled else UNLABELLED
        if row["label"] >= self.classes:
            raise ValueError(f"label {row['label']}: expected 0 to {self.classes - 1}")

    def encode(self, backbone: Backbone, prompt: Prompt, context: str = "") -> EncodedText:
        where = f"template {prompt.template!r}, row {prompt.uid!r}"
        text = encode_text(backbone, prompt.input, prompt.second, where)
        return EncodedText(prompt, text.ids, (), text.truncated, text.types)

    def collate(self, rows: Sequence[Encoded], backbone: Backbone, already_read: int = 0) -> Batch:
        texts = [Text(row.source, getattr(row, "types", ())) for row in rows]
        label = torch.tensor([row.prompt.label for row in rows])
        return text_batch(*pad_texts(texts, backbone.pad_id), label).to(backbone.device)

    def batch_of_shape(self, shape: Shape, device: torch.device) -> Batch:
        with device:
            source = torch.zeros(shape.rows, shape.source, dtype=torch.long)
            label = torch.zeros(shape.rows) if self.regression else torch.zeros(shape.rows, dtype=torch.long)
            return text_batch(source, source == 0, torch.zeros_like(source), label)

    def head(self, backbone: Backbone, seeds: Sequence[int], linear: bool = False) -> Delta:
        assert isinstance(backbone, Encoder)
        return start_head(backbone, classification_head(backbone, len(seeds), self.classes, linear), seeds)

    def forward(self, backbone: Backbone, batch: Batch, size: PassSize, smoothing: float = 0.0) -> Tensor:
        """(N, C) scores of the classes, or (N, 1) numbers."""
        assert isinstance(backbone, Encoder)
        assert isinstance(batch, TextBatch)
        states = pooled(backbone, batch.source, batch.source_mask, batch.types)
        head: Any = backbone.head
        return head.pieces["head"](states.view(head.runs, -1, states.shape[-1])).flatten(0, 1)

    def run_losses(
        self, names: Sequence[str], output: Tensor, batch: Batch, runs: int, smoothing: float = 0.0
    ) -> Tensor:
        """Cross-entropy, or the squared error of a number, whatever losses a recipe names."""
        if self.regression:
            losses = mse_loss(output[:, 0], batch.label.to(output.dtype), reduction="none")
        else:
            losses = cross_entropy(output, batch.label, reduction="none", label_smoothing=smoothing)
        return losses.view(runs, -1).mean(1)

    def answer(
        self, backbone: Backbone, blocks: Sequence[Sequence[Encoded]], already_read: int, size: PassSize
    ) -> list[list[ClassScores]]:
        batch = self.collate([row for rows in blocks for row in rows], backbone)
        scores = self.forward(backbone, batch, size).double().view(len(blocks), len(blocks[0]), -1).tolist()
        return [
            [ClassScores(row.prompt, tuple(values)) for row, values in zip(rows, run, strict=True)]
            for rows, run in zip(blocks, scores, strict=True)
        ]

    def problem(self, answers: Sequence[ClassScores]) -> str | None:
        broken = [answer.prompt.uid for answer in answers if not all(map(math.isfinite, answer.scores))]
        return f"scores are not finite for {len(broken)} items, first {broken[0]!r}" if broken else None

    def prediction(self, answer: ClassScores, norm: str) -> float:
        return answer.scores[0] if self.regression else answer.scores.index(max(answer.scores))

    def reference(self, prompt: Prompt) -> float | None:
        if self.regression:
            return None if math.isnan(prompt.label) else float(prompt.label)
        return None if prompt.label == UNLABELLED else int(prompt.label)

    def options(self, prompt: Prompt) -> int:
        return self.classes

    def table(self, answers: Sequence[ClassScores]) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "uid": [answer.prompt.uid for answer in answers],
                "template": [answer.prompt.template for answer in answers],
                "prediction": [self.prediction(answer, "") for answer in answers],
                "reference": [answer.prompt.label for answer in answers],
                "classes": 0 if self.regression else self.classes,
                "scores": [list(answer.scores) for answer in answers],
            }
        )


def _number(value: Any) -> float:
    """A label of a regression task, from text too.

    Raises:
        ValueError: no finite number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise ValueError(f"label {value!r}: expected a number")
    return number
