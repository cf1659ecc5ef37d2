"""What a kind of task decides: how an example becomes tensors, what a run's loss is, how an answer is obtained, and
what shape its price has.

Everything else (methods, the training loop, evaluation, costs, records) asks a `TaskType` and assumes nothing about
answers. Letters: R runs, B rows of a run, N = R * B rows of a batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

import pandas as pd
import torch
from torch import Tensor, nn

from adaptbench.data.batching import Batch, Encoded, Shape, collate, encode, shape_of
from adaptbench.data.templates import Prompt, Template
from adaptbench.errors import InputError
from adaptbench.models.backbone import Backbone, load, meta_backbone
from adaptbench.schema import DatasetConfig, ModelConfig
from adaptbench.scoring.limits import PassSize

TASKS: dict[str, type["TaskType"]] = {}
T = TypeVar("T", bound=type["TaskType"])
CountTokens = Callable[
    ..., int
]  # (text, marks=True): its tokens, with those that a tokenizer puts around it or without


def register(kind: str) -> Callable[[T], T]:
    """Make a kind of task known as `dataset.task=<kind>`."""

    def add(task: T) -> T:
        if kind in TASKS:
            raise ValueError(f"there is a task type {kind!r} already")
        task.kind = kind
        TASKS[kind] = task
        return task

    return add


def task_type(config: DatasetConfig) -> "TaskType":
    """The task type of a data set, with the settings that its configuration gives.

    Raises:
        InputError: no such task type, or a setting that it cannot have.
    """
    if config.task not in TASKS:
        raise InputError(f"dataset.task={config.task!r}: expected one of {', '.join(sorted(TASKS))}")
    return TASKS[config.task].of(config)


class Answer(Protocol):
    """What a model answered to one prompt; what else it holds is its task type's own affair."""

    @property
    def prompt(self) -> Prompt: ...


@dataclass(frozen=True)
class TaskType:
    """A kind of task. Subclasses are frozen dataclasses of its settings."""

    kind: ClassVar[str]
    losses: ClassVar[tuple[str, ...]] = ()  # those of a recipe that it can be trained by; empty: one of its own
    answer_field: ClassVar[str] = "label"  # of a row
    # (source, choices, target) of shapes whose counts determine the price of any: a quadratic in two lengths.
    probes: ClassVar[tuple[tuple[int, int, int], ...]] = (
        *((4, 2, 2), (8, 2, 2), (16, 2, 2)),
        *((4, 3, 4), (8, 3, 4), (4, 4, 7)),
    )
    bare: ClassVar[bool] = False  # asked of a model without a head of its own (`models/encoders.py`)
    demonstrates: ClassVar[bool] = True  # can be answered after demonstrations, without any training
    smooths: ClassVar[bool] = False  # can be trained with label smoothing
    ranks_choices: ClassVar[bool] = False  # knows a probability of each choice, by which contexts can be combined

    @classmethod
    def of(cls, config: DatasetConfig) -> "TaskType":
        """With a data set's settings.

        Raises:
            InputError: names the setting.
        """
        return cls()

    @property
    def beams(self) -> int | None:
        """How many candidates are decoded, token by token; None where one pass over the input gives the answer."""
        return None

    @property
    def answers(self) -> str:
        """The kind of its answers, which says which metrics judge them: label, number or text."""
        raise NotImplementedError

    def template(self, config: DatasetConfig, name: str, entry: Mapping[str, str], labels: tuple[str, ...]) -> Template:
        """One of a data set's own templates.

        Raises:
            InputError: parts that are missing or unknown.
        """
        raise NotImplementedError

    def read_answer(self, config: DatasetConfig, row: dict[str, Any], labelled: bool) -> None:
        """Check, and put into place, what a row says the right answer is (nothing, in rows that have none).

        Raises:
            ValueError: what was found and what was expected.
        """
        raise NotImplementedError

    # From prompts to tensors

    def encode(self, backbone: Backbone, prompt: Prompt, context: str = "") -> Encoded:
        """Token ids of a prompt, after an optional context (demonstrations)."""
        return encode(backbone, prompt, context)

    def shape_of(self, rows: Sequence[Encoded]) -> Shape:
        """The sizes that one run's rows are padded to when it runs alone: what its cost depends on."""
        return shape_of(rows)

    def collate(self, rows: Sequence[Encoded], backbone: Backbone, already_read: int = 0) -> Batch:
        """Rows padded to one batch, on the backbone's device.

        Args:
            already_read: tokens before every row whose keys and values are held.
        """
        return collate(rows, backbone.pad_id, already_read).to(backbone.device)

    def batch_of_shape(self, shape: Shape, device: torch.device) -> Batch:
        """A batch of this shape, without contents on the meta device, else full of the first word."""
        raise NotImplementedError

    def answer_tokens(self, backbone: Backbone, prompt: Prompt) -> int:
        """Most tokens that an answer to this prompt may take, for which demonstrations have to leave room."""
        raise NotImplementedError

    def longest_text(self, prompt: Prompt) -> str:
        """The prompt with the longest text that may follow it, as far as that is known."""
        raise NotImplementedError

    # The model that it is asked of

    def has_polynomial(self, backbone: Backbone) -> bool:
        """Whether a step's price is a quadratic polynomial in its lengths, and `probes` determine it."""
        return backbone.packs_choices

    def load(self, model: ModelConfig, device: str) -> Backbone:
        """The base model a configuration names, with the head that this kind of task reads answers from, or bare."""
        return load(model, device)

    def without_weights(self, model: ModelConfig, revision: str | None = None) -> Backbone:
        """The same without storage, for counting."""
        return meta_backbone(model.name, model.path, model.dtype, model.shape, revision)

    def estimated_shape(
        self, prompt: Prompt, tokens: CountTokens, backbone: Backbone, limit: int, training: bool
    ) -> Shape:
        """The sizes of a prompt before anything is loaded, from the lengths of its texts.

        Args:
            tokens: counts a text's tokens, or estimates them.
            limit: most tokens of an input.
            training: as it is trained on, which may differ from how it is answered.
        """
        raise NotImplementedError

    # Passes through an adapted model

    def head(self, backbone: Backbone, seeds: Sequence[int], linear: bool = False) -> nn.Module | None:
        """What is trained on top of the model, with a leading run axis: nothing where the model's own head answers.

        Args:
            linear: one linear map, where such models have more.
        """
        return None

    def pass_size(self, backbone: Backbone, shape: Shape, runs: int = 1) -> PassSize:
        """The largest pass that a batch of this shape (of one run's rows) may be read in."""
        return PassSize()

    def forward(self, backbone: Backbone, batch: Batch, size: PassSize, smoothing: float = 0.0) -> Tensor:
        """What the model says of a batch, in passes of this size: what losses are computed from.

        Args:
            smoothing: as in `run_losses`, where the classes are words: here are their probabilities.
        """
        raise NotImplementedError

    def run_losses(
        self, names: Sequence[str], output: Tensor, batch: Batch, runs: int, smoothing: float = 0.0
    ) -> Tensor:
        """(R,) losses from the output of `forward`, each the mean over the rows of its run alone.

        Args:
            names: of losses, where there are several.
            smoothing: share of the target probability that is spread over all classes, where `smooths`.
        """
        raise NotImplementedError

    def predict(self, backbone: Backbone, batch: Batch, size: PassSize) -> Tensor:
        """What a prediction computes, for counting: the same, unless answers are found in another way."""
        return self.forward(backbone, batch, size)

    def answer(
        self, backbone: Backbone, blocks: Sequence[Sequence[Encoded]], already_read: int, size: PassSize
    ) -> list[list[Any]]:
        """(R, B) answers in one pass.

        Args:
            blocks: (R, B) what every run is asked.
            already_read: tokens before every row whose keys and values are held.
        """
        raise NotImplementedError

    def combine(self, prompt: Prompt, turns: Sequence[Sequence[tuple[Any, Any]]], multiplied: bool) -> Any:
        """The answer to a prompt that was read after several contexts, from (reading, answer) pairs of each context.

        Args:
            multiplied: combine probabilities as a product, instead of their mean.
        """
        (((_, answer),),) = turns
        return replace(answer, prompt=prompt)

    # From answers to scores

    def read_shape(self, encoded: Encoded, answer: Any) -> Shape:
        """What was read, and produced, to give this answer."""
        return self.shape_of([encoded])

    def problem(self, answers: Sequence[Any]) -> str | None:
        """Why these answers cannot be trusted, if so."""
        return None

    def prediction(self, answer: Any, norm: str) -> Any:
        """What a metric is told was answered."""
        raise NotImplementedError

    def reference(self, prompt: Prompt) -> Any:
        """What a metric is told is right; None where nobody knows."""
        raise NotImplementedError

    def options(self, prompt: Prompt) -> int:
        """Between how many answers there was to choose: what guessing is measured by."""
        raise NotImplementedError

    def described(self, answers: Sequence[Any]) -> dict[str, float]:
        """What a record keeps of the answers besides their scores: `answers.<name>`."""
        return {}

    def table(self, answers: Sequence[Any]) -> pd.DataFrame:
        """The answers as a run stores them, with their prompts' uid and template."""
        raise NotImplementedError
