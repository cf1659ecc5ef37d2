"""From prompts to padded batches, with the runs of a fused pass as equal blocks of rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adaptbench.data.templates import Prompt
from adaptbench.data.tokenization import Ids, common_length, joined, marks, token_ids
from adaptbench.errors import InputError
from adaptbench.models.backbone import Backbone


@dataclass(frozen=True)
class Encoded:
    """A prompt as token ids. An encoder-decoder's choices end with its end-of-sequence token."""

    prompt: Prompt
    source: Ids
    choices: tuple[Ids, ...]
    truncated: int = 0  # tokens of the input that did not fit


@dataclass(frozen=True)
class Shape:
    """The padded sizes of one run's share of a batch: what its cost depends on."""

    rows: int
    source: int
    choices: int
    target: int


@dataclass(frozen=True)
class Batch:
    """N = R * B rows, row r * B + b being row b of run r."""

    source: Tensor  # (N, S) token ids, padded on the left
    source_mask: Tensor  # (N, S) True where a token is
    targets: Tensor  # (N, C, T) token ids of every choice, padded on the right
    target_mask: Tensor  # (N, C, T) True where a token is
    label: Tensor  # (N,) index of the right choice
    already_read: int = 0  # tokens before the source whose keys and values are shared by all rows

    def to(self, device: torch.device) -> "Batch":
        moved = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if name != "already_read"
        }
        return replace(self, **moved)


def encode(backbone: Backbone, prompt: Prompt, context: str = "") -> Encoded:
    """Token ids of a prompt after an optional context, the demonstrations of in-context learning.

    What is read is the tokens of the joined text (`data/tokenization.py`). Virtual token k, if a method has some,
    stands as id -1 - k before them. A prompt that does not fit is refused, or truncated where `model.overlong` says so:
    an encoder-decoder's at its end, as the paper's code does, a decoder-only's at its beginning, because the answer
    follows its end; the context stays.

    Raises:
        InputError: the prompt does not fit the model, or two of its choices are the same to the tokenizer.
    """
    where = f"template {prompt.template!r}, row {prompt.uid!r}"
    source, choices = tokens(backbone, context + prompt.input, prompt.choices, prompt.delimiter)
    for index, ids in enumerate(choices):
        if not source or not ids:
            raise InputError(f"{where}: the tokenizer returns no tokens")
        if ids in choices[:index]:
            same = prompt.choices[choices.index(ids)], prompt.choices[index]
            raise InputError(f"{where}: the choices {same[0]!r} and {same[1]!r} are the same tokens to this model")
    kept, over = fitted(backbone, source, max(map(len, choices)), context, where)
    return Encoded(prompt, kept, tuple(choices), over)


def fitted(backbone: Backbone, source: Ids, answer: int, context: str, where: str) -> tuple[Ids, int]:
    """A source with the method's virtual tokens before it, and how many of its tokens did not fit.

    Args:
        answer: tokens that a decoder-only model has to have room for after it.
        context: text that the source begins with and that stays whole.

    Raises:
        InputError: it does not fit the model.
    """
    virtual = range(-1, -1 - backbone.virtual_tokens, -1)
    length = len(virtual) + len(source) + (0 if backbone.is_encoder_decoder else answer)
    over = max(0, length - backbone.max_length)
    fixed = context_length(backbone, context, source) if over else 0
    if over and (backbone.overlong == "refuse" or over >= len(source) - fixed - 1):
        raise InputError(
            f"{where}: {length} tokens do not fit model.max_length={backbone.max_length}"
            + (" (model.overlong=truncate shortens the input)" if backbone.overlong == "refuse" else "")
        )
    return (*virtual, *source[:fixed], *_shortened(source[fixed:], over, backbone)), over


def tokens(backbone: Backbone, text: str, texts: Sequence[str], delimiter: str) -> tuple[Ids, list[Ids]]:
    """Ids of the text before the answers, and of every answer."""
    tokenizer = backbone.tokenizer
    if not backbone.is_encoder_decoder:
        return joined(tokenizer, text, [delimiter + answer for answer in texts])
    (source,), answers = token_ids(tokenizer, [text]), token_ids(tokenizer, texts, target=True) if texts else []
    around, answer = marks(tokenizer), marks(tokenizer, target=True)
    return (*around.before, *source, *around.after), [(*answer.before, *ids, *answer.after) for ids in answers]


def context_length(backbone: Backbone, context: str, *sources: Ids) -> int:
    """How many leading tokens the sources owe to their common context alone."""
    if not context:
        return 0
    (alone,) = token_ids(backbone.tokenizer, [context])
    return min(common_length((*marks(backbone.tokenizer).before, *alone), *sources), *(len(s) - 1 for s in sources))


def _shortened(ids: Ids, over: int, backbone: Backbone) -> Ids:
    """Without `over` tokens; the one that marks the end or the beginning of a text stays."""
    if not over:
        return ids
    if backbone.is_encoder_decoder:
        last = ids[-1:] if ids[-1] == backbone.tokenizer.eos_token_id else ()
        return (*ids[: len(ids) - over - len(last)], *last)
    first = ids[:1] if ids[0] == backbone.tokenizer.bos_token_id else ()
    return (*first, *ids[over + len(first) :])


def shape_of(rows: Sequence[Encoded]) -> Shape:
    """The sizes one run's rows are padded to when it runs alone."""
    return Shape(
        rows=len(rows),
        source=max(len(row.source) for row in rows),
        choices=max(len(row.choices) for row in rows),
        target=max(len(choice) for row in rows for choice in row.choices),
    )


def collate(rows: Sequence[Encoded], pad_id: int, already_read: int = 0) -> Batch:
    """Pad rows to one batch. Rows with fewer choices get empty ones, which no loss or score ever sees.

    Sources are padded on the left, so that the last prompt token stands in the same column for all.
    """
    size = shape_of(rows)
    source = torch.full((size.rows, size.source), pad_id)
    source_mask = torch.zeros((size.rows, size.source), dtype=torch.bool)
    targets = torch.full((size.rows, size.choices, size.target), pad_id)
    target_mask = torch.zeros((size.rows, size.choices, size.target), dtype=torch.bool)
    for n, row in enumerate(rows):
        source[n, size.source - len(row.source) :] = torch.tensor(row.source)
        source_mask[n, size.source - len(row.source) :] = True
        for c, choice in enumerate(row.choices):
            targets[n, c, : len(choice)] = torch.tensor(choice)
            target_mask[n, c, : len(choice)] = True
    label = torch.tensor([row.prompt.label for row in rows])
    return Batch(source, source_mask, targets, target_mask, label, already_read)
