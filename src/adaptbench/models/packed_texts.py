"""Whole texts laid end to end, one long row for every run, as an encoder reads them without padding."""

from typing import Any

import torch
from torch import Tensor

from adaptbench.models.attention import rows_packed
from adaptbench.models.delta import runs_on
from adaptbench.models.packed_rows import LongRows, PackedRows, Row
from adaptbench.models.tokens import tokens_of_rows

PACKABLE = ("bert", "roberta")  # positions can be given, and attention is computed by our function alone


def packed_states(model: Any, source: Tensor, mask: Tensor, types: Tensor | None, first: int) -> tuple[Tensor, Tensor]:
    """Hidden states of every token, and where they are.

    Args:
        source: (N, S) token ids.
        mask: (N, S) True where a token is.
        types: (N, S) 1 in the second text of a pair; None where the model does not ask.
        first: the position of a row's first token.

    Returns:
        (R * T, D) states, and of each of (N, S) columns its place among them; what stands at padding means nothing.
    """
    long, lengths = LongRows.of(mask, runs_on(model)), mask.sum(1)
    positions = long.put(mask.cumsum(1) - 1)
    owners = long.put(torch.arange(len(mask), device=mask.device)[:, None].expand_as(source), fill=len(mask))
    sizes = zip(long.starts.tolist(), lengths.tolist(), strict=True)
    rows = [Row(start, start // long.length, length, whole=True) for start, length in sizes]
    inputs = {} if types is None else {"token_type_ids": long.put(types)}
    with rows_packed(PackedRows(rows, positions)), tokens_of_rows(owners.flatten(), lengths):
        states = model(
            input_ids=long.put(source),
            attention_mask=long.all_real,
            position_ids=positions + first,
            **inputs,
        ).last_hidden_state
    return states.flatten(0, 1), long.places.clamp(0, positions.numel() - 1)
