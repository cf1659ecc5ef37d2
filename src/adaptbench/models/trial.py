"""A model of an architecture that no test here knows is tried when it is loaded: can its answers be scored at all?

Scoring takes two things for granted: a token's probability depends on nothing that comes after it, nor on what else is
in its batch. Models that read both ways, or route tokens within a batch, would give wrong numbers without a word.
"""

from typing import Any

import torch
from torch import Tensor

from adaptbench.errors import InputError

LONG = "The cat sat on the mat, and then it ran to the large red house where a dog was waiting for it."
SHORT = "It was a good answer, we can say."
TOLERANCE, TOLERANCE_OF_HALF = 1e-3, 0.1  # nats: float32 and better, 16 bits and less


@torch.inference_mode()
def check_by_trial(model: Any, tokenizer: Any, named: str) -> None:
    """Score a sentence with its last token changed, and beside a longer one, and compare.

    Raises:
        InputError: the model cannot run, looks ahead, or depends on the batch.
    """
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    long, short = (torch.tensor([tokenizer(text)["input_ids"]], device=model.device) for text in (LONG, SHORT))
    both = torch.full_like(long, pad).repeat(2, 1)
    both[0], both[1, : short.shape[1]] = long[0], short[0]
    mask = torch.ones_like(both)
    mask[1, short.shape[1] :] = 0
    changed = long.clone()
    changed[0, -1] = long[0, 0] if long[0, 0] != long[0, -1] else long[0, 1]
    try:
        alone = _log_p(model, short, torch.ones_like(short), short)
        beside = _log_p(model, both, mask, both)[1:, : short.shape[1]]
        before = _log_p(model, long, torch.ones_like(long), long)
        after = _log_p(model, long, torch.ones_like(long), changed)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model of unknown code may raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(f"{named}: {model.config.model_type} cannot be scored ({reason})") from error
    exact = getattr(model, "dtype", torch.float32).itemsize >= 4 and not getattr(model, "is_quantized", False)
    tolerance = TOLERANCE if exact else TOLERANCE_OF_HALF
    if _apart(before[:, :-1], after[:, :-1]) > tolerance:
        raise InputError(
            f"{named}: {model.config.model_type} sees the tokens after the one it predicts, so it scores no answers"
        )
    if (distance := _apart(alone, beside)) > tolerance:
        raise InputError(
            f"{named}: what {model.config.model_type} computes for a row depends on the rows beside it ({distance:.2g} "
            "nats off here), so its scores would depend on the batch"
        )


@torch.inference_mode()
def runs_without_storage(model: Any) -> bool:
    """Whether a model on the meta device runs, given what scoring gives it: not where its code asks for contents."""
    ids = torch.zeros(2, 8, dtype=torch.long, device="meta")
    inputs = {"decoder_input_ids" if model.config.is_encoder_decoder else "attention_mask": ids}
    try:
        model(input_ids=ids, **inputs, use_cache=False)
    except Exception:  # whatever a model of unknown code may raise
        return False
    return True


def _log_p(model: Any, source: Tensor, mask: Tensor, ids: Tensor) -> Tensor:
    """(N, T, V) of what is read left to right: the row itself, or (encoder-decoder) after a source."""
    if model.config.is_encoder_decoder:
        start = torch.full_like(ids[:, :1], model.config.decoder_start_token_id)
        inputs = {"input_ids": source, "decoder_input_ids": torch.cat([start, ids[:, :-1]], dim=1)}
    else:
        inputs = {"input_ids": ids}
    return model(**inputs, attention_mask=mask, use_cache=False).logits.double().log_softmax(-1)


def _apart(first: Tensor, second: Tensor) -> float:
    return (first - second).abs().max().nan_to_num(float("inf")).item()
