"""Rows to answer, and what the answers have to be."""

from collections.abc import Sequence
from typing import Any

import torch

from adaptbench.data.batching import Batch
from adaptbench.methods.base import Adaptation
from adaptbench.models.backbone import Backbone

LENGTHS = (9, 4, 7, 4)
ENDS = list(range(40, 2000, 13))  # so many that a random model's answers end now and then
LIMIT = 12

Rows = list[list[int]]


def rows_of(backbone: Backbone, lengths: Sequence[int] = LENGTHS) -> Rows:
    """Rows of random words, after the virtual tokens that a method wants before them."""
    torch.manual_seed(1)
    virtual = list(range(-1, -1 - backbone.virtual_tokens, -1))
    words = backbone.model.config.get_text_config().vocab_size
    return [virtual + torch.randint(5, words, (length,)).tolist() for length in lengths]


def batch_of(rows: Rows, already_read: int = 0) -> Batch:
    width = max(map(len, rows))
    source = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    none = torch.zeros(len(rows), 1, 1, dtype=torch.long)
    return Batch(source, mask, none, none == 0, torch.zeros(len(rows), dtype=torch.long), already_read)


def before_end(ids: list[int], ends: Sequence[int]) -> tuple[int, ...]:
    return tuple(ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))])


def generated(model: Any, row: list[int], ends: Sequence[int], **settings: Any) -> tuple[int, ...]:
    """What transformers makes of one row, without padding; of a forced first token nothing is left."""
    ids = torch.tensor([row])
    search = {"do_sample": False, "eos_token_id": list(ends), "pad_token_id": 0, "max_new_tokens": LIMIT, **settings}
    found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **search)[0].tolist()
    skipped = 1 if model.config.is_encoder_decoder else len(row)
    return before_end(found[skipped + ("forced_bos_token_id" in settings) :], ends)


@torch.no_grad()
def by_argmax(backbone: Backbone, row: list[int], ends: Sequence[int], limit: int = LIMIT) -> tuple[int, ...]:
    """The likeliest token again and again, everything read anew each time: no cache, no batch, no mask."""
    model, answer = backbone.model, []
    virtual = list(range(-1, -1 - backbone.virtual_tokens_of_choice, -1))
    while len(answer) < limit:
        if backbone.is_encoder_decoder:
            read = torch.tensor([[*virtual, model.config.decoder_start_token_id, *answer]])
            inputs = {"input_ids": torch.tensor([row]), "decoder_input_ids": read}
        else:
            inputs = {"input_ids": torch.tensor([row + answer])}
        token = model(**inputs, use_cache=False).logits[0, -1].argmax().item()
        if token in ends:
            break
        answer.append(token)
    return tuple(answer)


def moved(adaptation: Adaptation) -> Adaptation:
    """Away from its start, where most methods change nothing."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in adaptation.parameters:
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return adaptation
