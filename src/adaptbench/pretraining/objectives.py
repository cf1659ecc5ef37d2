"""What a model is asked of unlabelled text: masked tokens (encoders) or the next ones (decoders).

Hidden states are computed everywhere, the product with the vocabulary at predicted positions alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from adaptbench.data.tokenization import control_ids
from adaptbench.errors import InputError
from adaptbench.models.precision import wide

MASKED, RANDOM = 0.8, 0.1  # of the selected tokens; the rest stay as they are (Devlin et al. 2019)


@dataclass(frozen=True)
class Question:
    """A row as the model reads it, and what it should say where."""

    ids: np.ndarray  # (S,)
    places: np.ndarray  # (M,) positions whose states are asked
    answers: np.ndarray  # (M,) token ids


class Objective(Protocol):
    """How rows become questions."""

    name: ClassVar[str]
    auto: ClassVar[Any]  # the class of transformers whose head answers
    causal: ClassVar[bool]

    def ask(self, rows: Sequence[np.ndarray], rng: np.random.Generator) -> list[Question]: ...


@dataclass(frozen=True, eq=False)
class Masked:
    """Masked language modelling: a share of each row's tokens is selected, and what they were is predicted."""

    name: ClassVar[str] = "mlm"
    auto: ClassVar[Any] = AutoModelForMaskedLM
    causal: ClassVar[bool] = False

    share: float
    mask_id: int
    special: np.ndarray  # ids that are never selected, and no token is replaced by
    words: np.ndarray  # all others

    @classmethod
    def of(cls, tokenizer: Any, share: float, named: str) -> "Masked":
        """Raises:
        InputError: a tokenizer without a mask token.
        """
        if getattr(tokenizer, "mask_token_id", None) is None:
            raise InputError(f"{named}: objective=mlm needs a mask token, and its tokenizer has none")
        special = sorted(control_ids(tokenizer) | set(tokenizer.all_special_ids))
        words = np.setdiff1d(np.arange(len(tokenizer)), special)
        return cls(share, tokenizer.mask_token_id, np.array(special), words)

    def ask(self, rows: Sequence[np.ndarray], rng: np.random.Generator) -> list[Question]:
        """Of every row `share` of its tokens, at least one: the mask token, another word, or as they were."""
        return [self._ask(row, rng) for row in rows]

    def _ask(self, row: np.ndarray, rng: np.random.Generator) -> Question:
        candidates = np.flatnonzero(~np.isin(row, self.special))
        selected = max(1, round(self.share * len(candidates))) if len(candidates) else 0
        places = np.sort(rng.choice(candidates, selected, replace=False)) if selected else candidates
        fate = rng.random(selected)
        words = rng.choice(self.words, selected)
        ids = row.copy()
        shown = np.where(fate < MASKED, self.mask_id, np.where(fate < MASKED + RANDOM, words, row[places]))
        ids[places] = shown
        return Question(ids, places, row[places])


@dataclass(frozen=True)
class Causal:
    """Causal language modelling: every token of a row but the first is predicted from those before it."""

    name: ClassVar[str] = "clm"
    auto: ClassVar[Any] = AutoModelForCausalLM
    causal: ClassVar[bool] = True

    def ask(self, rows: Sequence[np.ndarray], rng: np.random.Generator) -> list[Question]:
        return [Question(row, np.arange(len(row) - 1), row[1:]) for row in rows]


@dataclass(frozen=True)
class QuestionBatch:
    """Questions padded on the right to one pass."""

    ids: Tensor  # (B, S)
    mask: Tensor  # (B, S) 1 where a token is
    rows: Tensor  # (M,) of the predicted positions
    places: Tensor  # (M,)
    answers: Tensor  # (M,)


def collate(questions: Sequence[Question], pad_id: int, width: int, device: torch.device) -> QuestionBatch:
    """Questions as tensors on a device, `width` tokens wide."""
    ids = np.full((len(questions), width), pad_id)
    for index, question in enumerate(questions):
        ids[index, : len(question.ids)] = question.ids
    mask = np.arange(width) < np.array([len(question.ids) for question in questions])[:, None]
    rows = np.repeat(np.arange(len(questions)), [len(question.places) for question in questions])
    places = np.concatenate([question.places for question in questions])
    answers = np.concatenate([question.answers for question in questions])
    arrays = (ids, mask.astype(np.int64), rows, places, answers)
    return QuestionBatch(*(torch.as_tensor(array, dtype=torch.long).to(device) for array in arrays))


def logits_at(model: Any, batch: QuestionBatch) -> Tensor:
    """(M, V) logits of the predicted positions: the head of the model reads no other states, where that can be had."""
    selected = False

    def select(module: nn.Module, inputs: Any, output: Any) -> Any:
        nonlocal selected
        if selected:
            return output
        selected = True
        chosen = output[0][batch.rows, batch.places][None]
        if isinstance(output, tuple):
            return (chosen, *output[1:])
        output[next(iter(output))] = chosen
        return output

    options = {"use_cache": False} if "use_cache" in signature(model.forward).parameters else {}
    base = model.base_model
    bodies = [base, *([base.decoder] if hasattr(base, "decoder") else [])]  # OPT's head calls the decoder by itself
    handles = [body.register_forward_hook(select) for body in bodies]
    try:
        logits = model(input_ids=batch.ids, attention_mask=batch.mask, **options).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits[0] if selected else logits[batch.rows, batch.places]


def summed_loss(model: Any, batch: QuestionBatch) -> Tensor:
    """Minus the log-likelihood of the answers of a pass, added up."""
    return cross_entropy(wide(logits_at(model, batch)), batch.answers, reduction="sum")
