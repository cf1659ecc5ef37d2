"""Rank classification: the answer is the choice to which the model gives the highest probability."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from adaptbench.data.batching import Batch, Encoded, Shape
from adaptbench.data.labels import label_index
from adaptbench.data.templates import UNLABELLED, Prompt, Template
from adaptbench.data.tokenization import token_ids
from adaptbench.errors import InputError
from adaptbench.metrics.normalisation import normalised
from adaptbench.models.backbone import Backbone
from adaptbench.schema import DatasetConfig
from adaptbench.scoring.limits import PassSize, in_slices, pass_size
from adaptbench.tasks.base import CountTokens, TaskType, register
from adaptbench.training.losses import LOSSES, per_run_loss


@dataclass(frozen=True)
class ChoiceScores:
    """What the model said of every choice of one prompt."""

    prompt: Prompt
    log_likelihoods: tuple[float, ...]  # of each choice, summed over its tokens
    tokens: tuple[int, ...]


@register("choices")
@dataclass(frozen=True)
class Choices(TaskType):
    """Every choice of a prompt is scored by the model's own head, in one pass with the prompt where it can be."""

    losses: ClassVar[tuple[str, ...]] = tuple(LOSSES)
    ranks_choices: ClassVar[bool] = True

    @property
    def answers(self) -> str:
        return "label"

    def template(self, config: DatasetConfig, name: str, entry: Mapping[str, str], labels: tuple[str, ...]) -> Template:
        if set(entry) != {"jinja", "answer_choices"}:
            found = ", ".join(sorted(entry)) or "nothing"
            raise InputError(f"dataset.templates.{name}: expected jinja and answer_choices, found {found}")
        return Template(config.name, name, entry["jinja"], entry["answer_choices"], labels, config.answer_delimiter)

    def read_answer(self, config: DatasetConfig, row: dict[str, Any], labelled: bool) -> None:
        row["label"] = label_index(config.labels, row["label"]) if labelled else UNLABELLED

    def answer_tokens(self, backbone: Backbone, prompt: Prompt) -> int:
        return max(map(len, token_ids(backbone.tokenizer, prompt.choices)))

    def longest_text(self, prompt: Prompt) -> str:
        return prompt.input + prompt.delimiter + max(prompt.choices, key=len)

    def estimated_shape(
        self, prompt: Prompt, tokens: CountTokens, backbone: Backbone, limit: int, training: bool
    ) -> Shape:
        source = tokens(prompt.input) + backbone.virtual_tokens
        target = max(tokens(choice, marks=backbone.is_encoder_decoder) for choice in prompt.choices)
        return Shape(1, min(limit, source), len(prompt.choices), target)

    def batch_of_shape(self, shape: Shape, device: torch.device) -> Batch:
        with device:
            source = torch.zeros(shape.rows, shape.source, dtype=torch.long)
            targets = torch.zeros(shape.rows, shape.choices, shape.target, dtype=torch.long)
            label = torch.zeros(shape.rows, dtype=torch.long)
            return Batch(source, source == 0, targets, targets == 0, label)

    def pass_size(self, backbone: Backbone, shape: Shape, runs: int = 1) -> PassSize:
        return pass_size(backbone, shape, runs)

    def forward(self, backbone: Backbone, batch: Batch, size: PassSize, smoothing: float = 0.0) -> Tensor:
        """(N, C, T) log-probability of every token of every choice."""
        return in_slices(backbone, batch, size.choices)

    def run_losses(
        self, names: Sequence[str], output: Tensor, batch: Batch, runs: int, smoothing: float = 0.0
    ) -> Tensor:
        return per_run_loss(names, output, batch.target_mask, batch.label, runs)

    def answer(
        self, backbone: Backbone, blocks: Sequence[Sequence[Encoded]], already_read: int, size: PassSize
    ) -> list[list[ChoiceScores]]:
        batch = self.collate([row for rows in blocks for row in rows], backbone, already_read)
        sums = self.forward(backbone, batch, size).double().sum(2).view(len(blocks), len(blocks[0]), -1).tolist()
        return [
            [_choice_scores(row, values) for row, values in zip(rows, run, strict=True)]
            for rows, run in zip(blocks, sums, strict=True)
        ]

    def combine(self, prompt: Prompt, turns: Sequence[Sequence[tuple[Any, Any]]], multiplied: bool) -> ChoiceScores:
        return (product if multiplied else averaged)([after_one_context(prompt, turn) for turn in turns])

    def problem(self, answers: Sequence[ChoiceScores]) -> str | None:
        """An argmax over NaN would quietly answer with the first choice."""
        broken = [answer.prompt.uid for answer in answers if not np.isfinite(answer.log_likelihoods).all()]
        return f"log-likelihoods are not finite for {len(broken)} items, first {broken[0]!r}" if broken else None

    def prediction(self, answer: ChoiceScores, norm: str) -> int:
        return int(normalised(columns(answer), norm).argmax())

    def reference(self, prompt: Prompt) -> int | None:
        return None if prompt.label == UNLABELLED else int(prompt.label)

    def options(self, prompt: Prompt) -> int:
        return len(prompt.choices)

    def table(self, answers: Sequence[ChoiceScores]) -> pd.DataFrame:
        """One row per item and choice: enough to recompute any normalisation."""
        frames = [
            {"uid": a.prompt.uid, "template": a.prompt.template, "label": a.prompt.label, "choice": choice, **row}
            for a in answers
            for choice, row in enumerate(_transposed(columns(a)))
        ]
        return pd.DataFrame(frames)


def columns(answer: ChoiceScores) -> dict[str, Sequence[float]]:
    """What a normalisation may look at, choice by choice."""
    texts = answer.prompt.choices
    return {
        "log_likelihood": answer.log_likelihoods,
        "tokens": answer.tokens,
        "characters": [len(text) for text in texts],
        "bytes": [len(text.encode()) for text in texts],
    }


def _transposed(lists: Mapping[str, Sequence[float]]) -> Iterator[dict[str, float]]:
    for values in zip(*lists.values(), strict=True):
        yield dict(zip(lists, values, strict=True))


def after_one_context(prompt: Prompt, pairs: Sequence[tuple[Any, ChoiceScores]]) -> ChoiceScores:
    """The scores of a prompt's choices after one context, from all (reading, answer) pairs there."""
    if pairs[0][0].choice is not None:  # the channel: log p(input | choice), whatever the input's length
        values = tuple(answer.log_likelihoods[0] for _, answer in pairs)
        return ChoiceScores(prompt, values, (pairs[0][1].tokens[0],) * len(values))
    (direct,) = (replace(answer, prompt=prompt) for reading, answer in pairs if not reading.content_free)
    free = [answer for reading, answer in pairs if reading.content_free]
    if not free:
        return direct
    return replace(direct, log_likelihoods=calibrated(direct, averaged(free)))


def calibrated(direct: ChoiceScores, content_free: ChoiceScores) -> tuple[float, ...]:
    """Zhao et al. 2021: p(y | x) / p(y | content-free), up to a constant that is the same for all choices."""
    pairs = zip(direct.log_likelihoods, content_free.log_likelihoods, strict=True)
    return tuple(value - nothing for value, nothing in pairs)


def averaged(answers: Sequence[ChoiceScores]) -> ChoiceScores:
    """Choice probabilities averaged over the contexts of a prompt (Min et al. 2022, ensemble)."""
    if len(answers) == 1:
        return answers[0]
    each = np.array([answer.log_likelihoods for answer in answers])
    mean = np.logaddexp.reduce(each, axis=0) - np.log(len(answers))
    return replace(answers[0], log_likelihoods=tuple(mean.tolist()))


def product(answers: Sequence[ChoiceScores]) -> ChoiceScores:
    """Choice probabilities multiplied over the contexts of a prompt, as their geometric mean: the order is the same."""
    each = np.array([answer.log_likelihoods for answer in answers])
    return replace(answers[0], log_likelihoods=tuple(each.mean(axis=0).tolist()))


def _choice_scores(row: Encoded, log_likelihoods: Sequence[float]) -> ChoiceScores:
    """Of one row's own choices; a batch is padded to the row with most."""
    tokens = tuple(len(choice) for choice in row.choices)
    return ChoiceScores(row.prompt, tuple(log_likelihoods[: len(tokens)]), tokens)
