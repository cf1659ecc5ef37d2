"""Extractive question answering: the answer is a piece of a context, found by scores of where it starts and ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from adaptbench.data.batching import Batch, Encoded, Shape
from adaptbench.data.best_spans import SpanAnswer, best_answers
from adaptbench.data.squad import check_answer
from adaptbench.data.templates import SPLIT, Prompt, Template, TextTemplate
from adaptbench.data.texts import pad_texts
from adaptbench.data.windows import Span, Window, answer_positions, encode_windows
from adaptbench.errors import InputError, RowError
from adaptbench.models.backbone import Backbone
from adaptbench.models.delta import Delta
from adaptbench.models.encoders import Encoder, hidden_states
from adaptbench.models.heads import SpanHead, start_head
from adaptbench.schema import DatasetConfig
from adaptbench.scoring.limits import PassSize
from adaptbench.tasks.base import CountTokens, register
from adaptbench.tasks.classification import BareTask, TextBatch, text_batch

NBEST = 5  # answers that a run stores
MOST_WINDOWS = 64  # of a pass


@dataclass(frozen=True)
class EncodedWindows(Encoded):
    """A question's windows. `source` is the one that training reads: of those that hold the whole answer the one that
    shows most of the context on both sides of it, else the first."""

    windows: tuple[Window, ...] = ()
    trained: int = 0  # which window that is
    span: Span = (0, 0)  # positions of the answer's first and last token there


@dataclass(frozen=True)
class FoundSpans:
    """The best answers to one question, best first."""

    prompt: Prompt
    best: tuple[SpanAnswer, ...]
    windows: int
    finite: bool = True

    @property
    def text(self) -> str:
        return self.best[0].text if self.best else ""


@register("spans")
@dataclass(frozen=True)
class Spans(BareTask):
    """Questions about contexts (SQuAD 1.1): long contexts are read in windows that overlap."""

    answer_field: ClassVar[str] = "answers"

    stride: int = 128
    max_answer_tokens: int = 30

    @classmethod
    def of(cls, config: DatasetConfig) -> "Spans":
        for name, least in (("stride", 0), ("max_answer_tokens", 1)):
            if getattr(config, name) < least:
                raise InputError(f"dataset.{name}={getattr(config, name)}: expected at least {least}")
        return cls(config.stride, config.max_answer_tokens)

    @property
    def answers(self) -> str:
        return "text"

    def template(self, config: DatasetConfig, name: str, entry: Mapping[str, str], labels: tuple[str, ...]) -> Template:
        if set(entry) != {"question"}:
            found = ", ".join(sorted(entry)) or "nothing"
            raise InputError(
                f"dataset.templates.{name}: expected question, found {found} (the context is read as it is)"
            )
        return QuestionTemplate(config.name, name, f"{entry['question']}{SPLIT}", "", labels, config.answer_delimiter)

    def read_answer(self, config: DatasetConfig, row: dict[str, Any], labelled: bool) -> None:
        context = row.get("context")
        if not isinstance(context, str) or not context.strip():
            raise ValueError(f"context {context!r:.40}: expected a text")
        given = row.get(self.answer_field) if labelled else {"text": [], "answer_start": []}
        texts, starts = _lists(given)
        if labelled and not texts:
            raise ValueError(f"{self.answer_field}: expected at least one answer")
        for text, start in zip(texts, starts, strict=True):
            try:
                check_answer(context, text, start, "")
            except RowError as error:
                raise ValueError(error.reason) from error
        row["references"], row["starts"] = texts, starts

    def encode(self, backbone: Backbone, prompt: Prompt, context: str = "") -> EncodedWindows:
        where = f"template {prompt.template!r}, row {prompt.uid!r}"
        assert prompt.second is not None
        windows = encode_windows(backbone, prompt.input, prompt.second, self.stride, where)
        answer = (prompt.starts[0], prompt.starts[0] + len(prompt.references[0])) if prompt.references else None
        try:
            positions = answer_positions(windows, answer)
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
        trained = max(range(len(windows)), key=lambda index: _room_around(windows[index], positions[index]))
        ids = windows[trained].ids
        return EncodedWindows(prompt, ids, (), windows[trained].truncated, tuple(windows), trained, positions[trained])

    def shape_of(self, rows: Sequence[Encoded]) -> Shape:
        """Of training: one window of every question."""
        return Shape(len(rows), max(len(row.source) for row in rows), 0, 0)

    def read_shape(self, encoded: Encoded, answer: Any) -> Shape:
        """Of a prediction: all its windows."""
        windows = _windows(encoded)
        return Shape(len(windows), max(len(window.ids) for window in windows), 0, 0)

    def estimated_shape(
        self, prompt: Prompt, tokens: CountTokens, backbone: Backbone, limit: int, training: bool
    ) -> Shape:
        """One window to train on; for an answer as many as cover the context."""
        whole = super().estimated_shape(prompt, tokens, backbone, 2**31, training).source
        fixed = tokens(prompt.input) + backbone.virtual_tokens  # in every window
        step = limit - fixed - self.stride
        if whole > limit and step < 1:
            raise InputError(
                f"dataset.stride={self.stride}: windows of model.max_length={limit} tokens, {fixed} of them the "
                "question's, leave no more than that to the context"
            )
        windows = 1 if training or whole <= limit else 1 + -(-(whole - limit) // step)
        return Shape(windows, min(limit, whole), 0, 0)

    def pass_size(self, backbone: Backbone, shape: Shape, runs: int = 1) -> PassSize:
        return PassSize(rows=max(1, MOST_WINDOWS // runs))

    def collate(self, rows: Sequence[Encoded], backbone: Backbone, already_read: int = 0) -> TextBatch:
        """The windows to train on; `label` is (N, 2), positions of the answer's first and last token."""
        own = [_windows(row)[row.trained] for row in rows if isinstance(row, EncodedWindows)]
        label = torch.tensor([row.span for row in rows if isinstance(row, EncodedWindows)])
        batch = text_batch(*pad_texts(own, backbone.pad_id), label).to(backbone.device)
        assert isinstance(batch, TextBatch)
        return batch

    def batch_of_shape(self, shape: Shape, device: torch.device) -> Batch:
        with device:
            source = torch.zeros(shape.rows, shape.source, dtype=torch.long)
            label = torch.zeros(shape.rows, 2, dtype=torch.long)
            return text_batch(source, source == 0, torch.zeros_like(source), label)

    def head(self, backbone: Backbone, seeds: Sequence[int], linear: bool = False) -> Delta:
        assert isinstance(backbone, Encoder)
        return start_head(backbone, SpanHead(len(seeds), backbone.width), seeds)

    def forward(self, backbone: Backbone, batch: Batch, size: PassSize, smoothing: float = 0.0) -> Tensor:
        """(N, 2, S) logits of every position as the answer's start and end; the lowest there is at padding."""
        assert isinstance(backbone, Encoder)
        assert isinstance(batch, TextBatch)
        states = hidden_states(backbone, batch.source, batch.source_mask, batch.types)
        n, length, width = states.shape
        head: Any = backbone.head
        logits = head.pieces["head"](states.reshape(head.runs, -1, width)).reshape(n, length, 2).transpose(1, 2)
        return logits.masked_fill(~batch.source_mask[:, None], torch.finfo(logits.dtype).min)

    def run_losses(
        self, names: Sequence[str], output: Tensor, batch: Batch, runs: int, smoothing: float = 0.0
    ) -> Tensor:
        """Cross-entropy of start and end, averaged, whatever losses a recipe names."""
        losses = cross_entropy(output.flatten(0, 1), batch.label.flatten(), reduction="none")
        return losses.view(runs, -1).mean(1)

    def answer(
        self, backbone: Backbone, blocks: Sequence[Sequence[Encoded]], already_read: int, size: PassSize
    ) -> list[list[FoundSpans]]:
        logits = self._logits(backbone, [[w for row in rows for w in _windows(row)] for rows in blocks], size.rows)
        found: list[list[FoundSpans]] = []
        for rows, of_run in zip(blocks, logits, strict=True):
            own, place = [], 0
            for row in rows:
                part = _windows(row)
                own.append(self._found(row.prompt, part, of_run[place : place + len(part)]))
                place += len(part)
            found.append(own)
        return found

    def _logits(self, backbone: Backbone, windows: Sequence[Sequence[Window]], most: int) -> list[list[np.ndarray]]:
        """(R) lists of (2, S) logits of every window of each run, in passes of so many windows.

        A run whose contexts have fewer windows reads its last one again, so that all runs share every pass.
        """
        found: list[list[np.ndarray]] = [[] for _ in windows]
        longest = max(map(len, windows))
        filled = [[*own, *[own[-1]] * (longest - len(own))] for own in windows]
        for start in range(0, longest, most):
            parts = [own[start : start + most] for own in filled]
            texts = pad_texts([window for part in parts for window in part], backbone.pad_id)
            size = len(parts[0])
            nowhere = torch.zeros(size * len(parts), 2, dtype=torch.long)
            batch = text_batch(*texts, nowhere).to(backbone.device)
            output = self.forward(backbone, batch, PassSize()).double().cpu().numpy()
            for run, of_run in enumerate(found):
                of_run += list(output[run * size : (run + 1) * size])
        return found

    def _found(self, prompt: Prompt, windows: Sequence[Window], logits: Sequence[np.ndarray]) -> FoundSpans:
        assert prompt.second is not None
        finite = all(np.isfinite(pair[:, : len(w.ids)]).all() for w, pair in zip(windows, logits, strict=True))
        starts, ends = [pair[0] for pair in logits], [pair[1] for pair in logits]
        limit = self.max_answer_tokens
        best = best_answers(windows, prompt.second, starts, ends, count=NBEST, max_tokens=limit) if finite else []
        return FoundSpans(prompt, tuple(best), len(windows), finite)

    def problem(self, answers: Sequence[FoundSpans]) -> str | None:
        broken = [answer.prompt.uid for answer in answers if not answer.finite]
        return f"scores are not finite for {len(broken)} items, first {broken[0]!r}" if broken else None

    def prediction(self, answer: FoundSpans, norm: str) -> str:
        return answer.text

    def reference(self, prompt: Prompt) -> tuple[str, ...] | None:
        return prompt.references or None

    def options(self, prompt: Prompt) -> int:
        return 0

    def table(self, answers: Sequence[FoundSpans]) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "uid": [answer.prompt.uid for answer in answers],
                "template": [answer.prompt.template for answer in answers],
                "prediction": [answer.text for answer in answers],
                "reference": [list(answer.prompt.references) for answer in answers],
                "classes": 0,
                "windows": [answer.windows for answer in answers],
                "best": [[span.text for span in answer.best] for answer in answers],
                "best_scores": [[span.score for span in answer.best] for answer in answers],
            }
        )


@dataclass(frozen=True)
class QuestionTemplate(TextTemplate):
    """Phrases the question; the context stays as the row has it, or answers would not be where they are said to be."""

    def render(self, uid: str, fields: Mapping[str, Any], origin: str = "") -> Prompt:
        return replace(super().render(uid, fields, origin), second=fields["context"])


def _windows(row: Encoded) -> tuple[Window, ...]:
    assert isinstance(row, EncodedWindows)
    return row.windows


def _room_around(window: Window, span: Span) -> int:
    """Tokens of the context on the shorter side of the answer; -1 where the window does not hold it."""
    first, last = span
    if first == window.null:
        return -1
    return min(first - window.positions.start, window.positions.stop - 1 - last)


def _lists(given: Any) -> tuple[list[str], list[int]]:
    """Texts and starts of SQuAD's answers: lists under `text` and `answer_start`, or a list of such pairs.

    Raises:
        ValueError: neither.
    """
    if isinstance(given, Mapping):
        texts, starts = given.get("text"), given.get("answer_start")
    elif isinstance(given, list | tuple) and all(isinstance(answer, Mapping) for answer in given):
        texts, starts = [answer.get("text") for answer in given], [answer.get("answer_start") for answer in given]
    else:
        texts = starts = None
    if texts is None or starts is None or len(texts) != len(starts):
        raise ValueError(f"answers {given!r:.60}: expected text and answer_start, as SQuAD has them")
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(start, int) for start in starts):
        raise ValueError(f"answers {given!r:.60}: expected texts and the characters where they start")
    return list(texts), list(starts)
