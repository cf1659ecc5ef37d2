"""A tuner of Hugging Face PEFT is tried when it is attached: are its scores those of PEFT's own forward pass?

Whatever a tuner does to a model, a row's scores must be what the wrapped model computes for that row alone, without
padding: not what the rows or choices beside it make of it. Its parameters are moved from their start for the trial,
since most tuners start as no change at all.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adaptbench.data.batching import Batch
from adaptbench.errors import InputError, one_line
from adaptbench.models.backbone import Backbone
from adaptbench.models.encoders import Encoder, hidden_states
from adaptbench.scoring.rank import token_log_probabilities

MOVED = 0.05  # standard deviation of what is added to every parameter
# Apart by so much of the largest log-probability, or of a nat: single precision and better, 16 bits and less.
TOLERANCE, TOLERANCE_OF_HALF = 1e-4, 0.05
SOURCES, TARGETS = (6, 2), ((3, 1), (2, 3))  # tokens of two rows, and of two choices of each


def check_by_trial(backbone: Backbone, trained: Sequence[nn.Parameter], named: str, looks_up_words: bool) -> None:
    """Score two rows of unequal length together, and every choice of them alone, and compare.

    Args:
        backbone: with the wrapped model.
        trained: its trainable parameters; they are as before afterwards.
        looks_up_words: the tuner hands the model embeddings in place of tokens.

    Raises:
        InputError: the model cannot run with the tuner, computes something else in a batch, or is no longer made of the
            parameters that an optimizer would hold.
    """
    batch, held = _batch(backbone), [parameter.data for parameter in trained]
    try:
        with torch.no_grad(), _moved(trained):
            if looks_up_words:
                _check_embeddings(backbone, batch, named)
            together, alone = _both(backbone, batch)
            replaced = any(
                parameter.data_ptr() != data.data_ptr() for parameter, data in zip(trained, held, strict=True)
            )
    except (torch.OutOfMemoryError, InputError):
        raise
    except Exception as error:  # whatever a tuner may raise on a model it was not made for
        raise InputError(f"{named}: PEFT cannot run it on {backbone.name}: {one_line(error)}") from error
    if replaced:
        raise InputError(f"{named}: it replaces its parameters in a forward pass, where no optimizer here finds them")
    if (distance := _apart(together, alone)) > _tolerance(backbone):
        raise InputError(
            f"{named}: on {backbone.name} a row's scores depend on the rows and choices beside it ({distance:.2g} off)"
        )


def _batch(backbone: Backbone) -> Batch:
    """Two rows of two choices of any words, of all lengths."""
    words = backbone.model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(words // 4, words, (2, max(SOURCES)), generator=generator)
    targets = torch.randint(words // 4, words, (2, 2, max(max(TARGETS))), generator=generator)
    seen = torch.arange(source.shape[1]) >= source.shape[1] - torch.tensor(SOURCES)[:, None]
    answered = torch.arange(targets.shape[2]) < torch.tensor(TARGETS)[..., None]
    return Batch(source, seen, targets, answered, torch.zeros(2, dtype=torch.long)).to(backbone.device)


def _both(backbone: Backbone, batch: Batch) -> tuple[Tensor, Tensor]:
    """What is computed of the rows together, and of each alone: log-probabilities, or a bare model's states."""
    if not isinstance(backbone, Encoder):
        return token_log_probabilities(backbone, batch), _alone(backbone, batch)
    model: Any = backbone.model
    rows = [batch.source[n, mask][None] for n, mask in enumerate(batch.source_mask)]
    alone = [model(input_ids=row, attention_mask=torch.ones_like(row)).last_hidden_state[0] for row in rows]
    return hidden_states(backbone, batch.source, batch.source_mask)[batch.source_mask], torch.cat(alone)


def _alone(backbone: Backbone, batch: Batch) -> Tensor:
    """(N, C, T) log-probabilities by plain forward passes of one choice each."""
    model: Any = backbone.model
    result = torch.zeros(batch.targets.shape, device=backbone.device)
    for n, c in torch.cartesian_prod(*map(torch.arange, batch.targets.shape[:2])).tolist():
        source = batch.source[n, batch.source_mask[n]][None]
        target = batch.targets[n, c, batch.target_mask[n, c]][None]
        if backbone.is_encoder_decoder:
            start = torch.full_like(target[:, :1], model.config.decoder_start_token_id)
            inputs = {"input_ids": source, "decoder_input_ids": torch.cat([start, target[:, :-1]], dim=1)}
        else:
            inputs = {"input_ids": torch.cat([source, target[:, :-1]], dim=1)}
        logits = model(**inputs, use_cache=False).logits[:, -target.shape[1] :]
        result[n, c, : target.shape[1]] = logits.float().log_softmax(-1).gather(2, target[..., None])[0, :, 0]
    return result


def _check_embeddings(backbone: Backbone, batch: Batch, named: str) -> None:
    """The base model computes the same from tokens and from what PEFT looks up for them.

    Raises:
        InputError: it does more than look up (Marian multiplies, Gemma 3n has embeddings for every layer).
    """
    wrapped: Any = backbone.model
    base, ids = wrapped.get_base_model(), batch.source[:1]
    more = {"decoder_input_ids": batch.targets[:1, 0]} if backbone.is_encoder_decoder else {}
    read = base(input_ids=ids, **more, use_cache=False).logits
    embedded = base(inputs_embeds=wrapped.word_embeddings(ids), **more, use_cache=False).logits
    if _apart(read, embedded) > _tolerance(backbone):
        raise InputError(
            f"{named}: {backbone.name} does more with a token than look it up once, which PEFT's prompts leave out"
        )


@contextmanager
def _moved(trained: Sequence[nn.Parameter]) -> Iterator[None]:
    """Inside, parameters are away from their initial values."""
    before = [parameter.detach().clone() for parameter in trained]
    generator = torch.Generator().manual_seed(0)
    try:
        for parameter in trained:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(noise.to(parameter.device, parameter.dtype), alpha=MOVED)
        yield
    finally:
        for parameter, value in zip(trained, before, strict=True):
            parameter.data.copy_(value)


def _tolerance(backbone: Backbone) -> float:
    exact = backbone.dtype.itemsize >= 4 and not getattr(backbone.model, "is_quantized", False)
    return TOLERANCE if exact else TOLERANCE_OF_HALF


def _apart(logits: Tensor, reference: Tensor) -> float:
    """The largest difference, relative to the largest value where that is above one; infinite for NaN."""
    scale = reference.float().abs().max().clamp(min=1)
    return ((logits.float() - reference.float()).abs().max() / scale).nan_to_num(float("inf")).item()
