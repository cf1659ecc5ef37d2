"""Generation: the answer is a text of the model's own, trained on the right one and found by greedy or beam search."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from adaptbench.data.batching import Batch, Encoded, Shape, fitted, tokens
from adaptbench.data.labels import is_null
from adaptbench.data.templates import SPLIT, Prompt, Template, TextTemplate
from adaptbench.data.tokenization import Ids, token_ids
from adaptbench.errors import InputError
from adaptbench.models.backbone import Backbone, load
from adaptbench.schema import DatasetConfig, DecodingConfig, ModelConfig
from adaptbench.scoring.limits import PassSize, in_slices, pass_size
from adaptbench.tasks.base import CountTokens, TaskType, register
from adaptbench.tasks.decoding import Decoding, decode, end_ids, forced_token
from adaptbench.training.losses import per_run_loss

MOST_BEAM_ROWS = 128  # rows times beams of a pass: what keeps a search's cache small


@dataclass(frozen=True)
class Produced:
    """A text that the model produced, and how many tokens it took (its end and a forced first one included)."""

    prompt: Prompt
    text: str
    tokens: int


@register("generation")
@dataclass(frozen=True)
class Generation(TaskType):
    """Any text may be the answer; a row names one or several that are right."""

    losses: ClassVar[tuple[str, ...]] = ("lm",)
    answer_field: ClassVar[str] = "references"
    smooths: ClassVar[bool] = True
    probes: ClassVar[tuple[tuple[int, int, int], ...]] = (
        *((4, 1, 2), (8, 1, 2), (16, 1, 2)),
        *((4, 1, 5), (8, 1, 5), (4, 1, 11)),
    )

    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    languages: tuple[str | None, str | None] = (None, None)  # of source and answer, as the data set calls them

    @classmethod
    def of(cls, config: DatasetConfig) -> "Generation":
        for name in ("beams", "max_new_tokens"):
            if (value := getattr(config.decoding, name)) < 1:
                raise InputError(f"dataset.decoding.{name}={value}: expected at least 1")
        if "" in config.decoding.stop:
            raise InputError("dataset.decoding.stop: an empty text would end every answer at once")
        return cls(config.decoding, (config.parallel.source, config.parallel.target))

    @property
    def answers(self) -> str:
        return "text"

    @property
    def beams(self) -> int:
        return self.decoding.beams

    def __repr__(self) -> str:
        return f"Generation({asdict(self.decoding)})"

    def template(self, config: DatasetConfig, name: str, entry: Mapping[str, str], labels: tuple[str, ...]) -> Template:
        if set(entry) != {"jinja"} or SPLIT in entry["jinja"]:
            found = ", ".join(sorted(entry)) if set(entry) != {"jinja"} else f"{SPLIT} in it"
            raise InputError(
                f"dataset.templates.{name}: expected jinja for the input alone, found {found or 'nothing'}"
            )
        return TextTemplate(config.name, name, f"{entry['jinja']}{SPLIT}", "", labels, config.answer_delimiter)

    def read_answer(self, config: DatasetConfig, row: dict[str, Any], labelled: bool) -> None:
        given = row.get(self.answer_field, []) if labelled else []
        texts = [given] if isinstance(given, str) else given
        if is_null(given) or not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{self.answer_field} {given!r:.60}: expected a text or a list of texts")
        if labelled and not any(text.strip() for text in texts):
            raise ValueError(f"{self.answer_field}: expected at least one text that is not empty")
        row[self.answer_field] = [text.strip() for text in texts if text.strip()]

    def load(self, model: ModelConfig, device: str) -> Backbone:
        backbone = load(model, device)
        return replace(backbone, tokenizer=speaking(backbone.tokenizer, *self.codes(backbone.tokenizer, model)))

    def codes(self, tokenizer: Any, model: ModelConfig) -> tuple[str | None, str | None]:
        """Both languages as the tokenizer calls them. One that marks no languages needs none of the data set's.

        Raises:
            InputError: a tokenizer that marks languages is told of neither or one.
        """
        given = (self.decoding.source_language, self.decoding.target_language)
        if not marks_languages(tokenizer):
            return given
        own = [model.languages.get(name, name) if name is not None else None for name in self.languages]
        source, target = (code or other for code, other in zip(given, own, strict=True))
        if source is None or target is None:
            which = "source" if source is None else "target"
            raise InputError(
                f"dataset.decoding.{which}_language: model {model.name!r} marks languages, expected its code, or "
                f"dataset.parallel.{which}"
            )
        return source, target

    def encode(self, backbone: Backbone, prompt: Prompt, context: str = "") -> Encoded:
        """The first right answer as the one target; none where nobody knows one.

        What is read before an answer is the same whatever the answer. A decoder's target ends with its end-of-sequence
        token, or it would never learn to stop.
        """
        where = f"template {prompt.template!r}, row {prompt.uid!r}"
        text = context + prompt.input
        source, _ = tokens(backbone, text, (), prompt.delimiter)
        if not source:
            raise InputError(f"{where}: the tokenizer returns no tokens")
        targets = tuple(
            self._target(backbone, text, source, answer, prompt.delimiter) for answer in prompt.references[:1]
        )
        longest = max([self.decoding.max_new_tokens, *map(len, targets)])
        kept, over = fitted(backbone, source, longest, context, where)
        return Encoded(prompt, kept, targets or ((),), over)

    @staticmethod
    def _target(backbone: Backbone, text: str, source: Ids, answer: str, delimiter: str) -> Ids:
        read, (ids,) = tokens(backbone, text, [answer], delimiter)
        if backbone.is_encoder_decoder:
            return ids
        if read != source:  # a token holds the end of the prompt and the beginning of the answer
            (ids,) = token_ids(backbone.tokenizer, [delimiter + answer])
        return (*ids, *end_ids(backbone)[:1])

    def answer_tokens(self, backbone: Backbone, prompt: Prompt) -> int:
        return self.decoding.max_new_tokens

    def longest_text(self, prompt: Prompt) -> str:
        return prompt.input

    def estimated_shape(
        self, prompt: Prompt, tokens: CountTokens, backbone: Backbone, limit: int, training: bool
    ) -> Shape:
        source = tokens(prompt.input, marks=backbone.is_encoder_decoder) + backbone.virtual_tokens
        longest = self.decoding.max_new_tokens
        target = tokens(prompt.references[0]) if training and prompt.references else longest
        return Shape(1, min(limit, source), 1, target)

    def batch_of_shape(self, shape: Shape, device: torch.device) -> Batch:
        with device:
            source = torch.zeros(shape.rows, shape.source, dtype=torch.long)
            targets = torch.zeros(shape.rows, 1, shape.target, dtype=torch.long)
            return Batch(source, source == 0, targets, targets == 0, torch.zeros(shape.rows, dtype=torch.long))

    def collate(self, rows: Sequence[Encoded], backbone: Backbone, already_read: int = 0) -> Batch:
        right = [replace(row, prompt=replace(row.prompt, label=0)) for row in rows]  # the only target
        return super().collate(right, backbone, already_read)

    def pass_size(self, backbone: Backbone, shape: Shape, runs: int = 1) -> PassSize:
        beams = max(1, MOST_BEAM_ROWS // (self.decoding.beams * runs))
        return pass_size(backbone, shape, runs).within(PassSize(rows=beams))

    def forward(self, backbone: Backbone, batch: Batch, size: PassSize, smoothing: float = 0.0) -> Tensor:
        """(N, 1, T) log-probability of every token of the right answer, smoothed as losses are."""
        return in_slices(backbone, batch, size.choices, smoothing)

    def run_losses(
        self, names: Sequence[str], output: Tensor, batch: Batch, runs: int, smoothing: float = 0.0
    ) -> Tensor:
        return per_run_loss(names, output, batch.target_mask, batch.label, runs)

    def answer(
        self, backbone: Backbone, blocks: Sequence[Sequence[Encoded]], already_read: int, size: PassSize
    ) -> list[list[Produced]]:
        rows = [row for block in blocks for row in block]
        batch = self.collate(rows, backbone, already_read)
        search = self.search(backbone)
        found = decode(backbone, batch, search)
        not_in_text = 1 if forced_token(backbone, search) is None else 2
        texts = [backbone.tokenizer.decode(ids, skip_special_tokens=True) for ids in found]
        produced = [
            Produced(row.prompt, self.cut(text), min(len(ids) + not_in_text, self.decoding.max_new_tokens))
            for row, text, ids in zip(rows, texts, found, strict=True)
        ]
        each = len(blocks[0])
        return [produced[start : start + each] for start in range(0, len(produced), each)]

    def search(self, backbone: Backbone) -> Decoding:
        own, tokenizer, language = self.decoding, backbone.tokenizer, self.decoding.target_language
        if language is None and self.languages[1] is not None and marks_languages(tokenizer):
            language = tokenizer.tgt_lang
        forced = None if language is None else language_id(tokenizer, language)
        return Decoding(own.beams, own.max_new_tokens, own.length_penalty, forced)

    def cut(self, text: str) -> str:
        """An answer up to where a text of `stop` begins, without the blanks around it."""
        text = text.lstrip()
        places = [text.find(stop) for stop in self.decoding.stop if stop in text]
        return text[: min(places, default=len(text))].strip()

    def read_shape(self, encoded: Encoded, answer: Produced | None) -> Shape:
        return Shape(1, len(encoded.source), 1, answer.tokens if answer else self.decoding.max_new_tokens)

    def prediction(self, answer: Produced, norm: str) -> str:
        return answer.text

    def reference(self, prompt: Prompt) -> tuple[str, ...] | None:
        return prompt.references or None

    def options(self, prompt: Prompt) -> int:
        return 0

    def described(self, answers: Sequence[Produced]) -> dict[str, float]:
        """Mean length in tokens, and the shares of answers that are empty or stand in their prompt word for word."""
        if not answers:
            return {}
        copied = sum(bool(answer.text) and answer.text in answer.prompt.input for answer in answers)
        return {
            "tokens": sum(answer.tokens for answer in answers) / len(answers),
            "empty": sum(not answer.text for answer in answers) / len(answers),
            "copied": copied / len(answers),
        }

    def table(self, answers: Sequence[Produced]) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "uid": [answer.prompt.uid for answer in answers],
                "template": [answer.prompt.template for answer in answers],
                "prediction": [answer.text for answer in answers],
                "reference": [list(answer.prompt.references) for answer in answers],
                "classes": 0,
                "tokens": [answer.tokens for answer in answers],
            }
        )


def marks_languages(tokenizer: Any) -> bool:
    """Texts begin or end with a token that says in which language they are (mBART, M2M-100, NLLB)."""
    return hasattr(tokenizer, "tgt_lang")


@lru_cache(maxsize=4)
def speaking(tokenizer: Any, source: str | None, target: str | None) -> Any:
    """A tokenizer that marks these languages; the same one where none is named.

    Raises:
        InputError: it marks no languages, or not these.
    """
    named = {"src_lang": source, "tgt_lang": target}
    if not any(named.values()):
        return tokenizer
    changed = copy.deepcopy(tokenizer)
    for attribute, language in named.items():
        if language is None:
            continue
        if not marks_languages(changed):
            raise InputError(f"dataset.decoding: this model's tokenizer marks no languages, found {language!r}")
        language_id(changed, language)
        setattr(changed, attribute, language)
    return changed


def language_id(tokenizer: Any, language: str) -> int:
    """The token that stands for a language.

    Raises:
        InputError: there is none.
    """
    if hasattr(tokenizer, "get_lang_id"):  # M2M-100
        try:
            return int(tokenizer.get_lang_id(language))
        except KeyError as error:
            raise InputError(f"dataset.decoding: this model's tokenizer has no language {language!r}") from error
    index = tokenizer.convert_tokens_to_ids(language)
    if index is None or index == tokenizer.unk_token_id:
        raise InputError(f"dataset.decoding: this model's tokenizer has no language {language!r}")
    return int(index)
