"""Put every evaluation prompt to an adapted model, for all its runs."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from adaptbench.data.batching import Encoded, context_length, encode
from adaptbench.data.templates import Prompt
from adaptbench.data.tokenization import Ids
from adaptbench.methods.base import Adaptation
from adaptbench.methods.contexts import Context
from adaptbench.models.backbone import Backbone
from adaptbench.scoring.passes import Passes
from adaptbench.scoring.shared_context import shared_context


@dataclass(frozen=True)
class Reading:
    """One pass over a prompt, after one of its contexts (empty for all but in-context learning)."""

    prompt: int  # its index
    context: Context
    encoded: Encoded  # the context included
    context_tokens: int = 0  # leading tokens that all prompts of this context have in common
    shared: bool = False  # the keys and values of those are computed once for all prompts
    turn: int = 0  # which of the prompt's contexts; two may hold the same words
    content_free: bool = False  # read to calibrate the others; equal ones are read once
    choice: int | None = None  # the channel reads every choice by itself; what is scored is the input

    @property
    def already_read(self) -> int:
        """Tokens that need not be read again."""
        return self.context_tokens if self.shared else 0


def readings(adaptation: Adaptation, prompts: Sequence[Prompt], run: int) -> list[Reading]:
    """Everything one run reads to answer the prompts."""
    backbone, task = adaptation.backbone, adaptation.task
    if adaptation.contexts is None:
        return [Reading(index, "", task.encode(backbone, prompt)) for index, prompt in enumerate(prompts)]
    contexts, found = adaptation.contexts[run], []
    for index, prompt in enumerate(prompts):
        for turn, context in enumerate(contexts.find(prompt)):
            read = partial(Reading, index, context, shared=contexts.shared, turn=turn)
            if contexts.channel:
                found += [read(encoded, choice=c) for c, encoded in enumerate(flipped(backbone, prompt, context))]
                continue
            found.append(read(task.encode(backbone, prompt, context)))
            for text in contexts.content_free.get(prompt.template, ()):
                nothing = replace(prompt, input=text)
                found.append(read(task.encode(backbone, nothing, context), content_free=True))
    sources: dict[Context, list[Ids]] = {}
    for reading in found:
        sources.setdefault(reading.context, []).append(reading.encoded.source)
    tokens = {context: context_length(backbone, context, *ids) for context, ids in sources.items()}
    return [replace(reading, context_tokens=tokens[reading.context]) for reading in found]


def flipped(backbone: Backbone, prompt: Prompt, context: Context) -> list[Encoded]:
    """A prompt as the noisy channel reads it: each choice is an input, and the input is what follows it."""
    return [
        encode(backbone, replace(prompt, input=choice, choices=(prompt.input,), label=0), context)
        for choice in prompt.choices
    ]


@torch.inference_mode()
def evaluate(
    adaptation: Adaptation,
    prompts: Sequence[Prompt],
    batch_size: int,
    progress: bool = False,
    run_readings: Sequence[list[Reading]] | None = None,
    tokens: int | None = None,
) -> list[list[Any]]:
    """Answers of each run (outer list), in the order of `prompts`.

    Runs of a delta share each pass as blocks of rows; runs that differ in their context go one after the
    other; where nothing depends on the run, one pass serves all.

    Args:
        batch_size: most rows in a pass, over all runs that share it; fewer, or some of their choices at a time, where
            the logits would take more than `model.logits_limit` or memory runs out (which the adaptation's log counts).
        run_readings: each run's readings, where they are known already.
        tokens: most tokens in a pass, padding included; see `Passes`.
    """
    runs = len(adaptation.seeds)
    if run_readings is None:
        run_readings = all_readings(adaptation, prompts)
    adaptation.backbone.train(False)
    ask = Passes(adaptation.task, adaptation.backbone, adaptation.log, batch_size, tokens, progress)
    with adaptation.attached():
        if adaptation.contexts is not None:
            return [_in_context(adaptation, prompts, run, run_readings[run], ask) for run in range(runs)]
        together = 1 if adaptation.same_for_all_runs else runs
        return ask([[reading.encoded for reading in run_readings[0]]] * together) * (runs // together)


def all_readings(adaptation: Adaptation, prompts: Sequence[Prompt]) -> list[list[Reading]]:
    """Every run's readings; only contexts differ from run to run."""
    runs = len(adaptation.seeds)
    if adaptation.contexts is None:
        return [readings(adaptation, prompts, 0)] * runs
    return [readings(adaptation, prompts, run) for run in range(runs)]


def _in_context(
    adaptation: Adaptation, prompts: Sequence[Prompt], run: int, every: Sequence[Reading], ask: Passes
) -> list[Any]:
    """One run's answers: every prompt after its contexts, the answers combined over them."""
    assert adaptation.contexts is not None
    multiplied = adaptation.contexts[run].multiplied
    passes: dict[Context, dict[tuple, Encoded]] = {}
    for reading in every:  # readings that share keys and values must share a batch; the others may meet anyone
        rows_of_context = passes.setdefault(reading.context if reading.already_read else "", {})
        # Content-free inputs return with every prompt.
        rows_of_context.setdefault(_key(reading.encoded), reading.encoded)
    answers: dict[tuple[Context, tuple], Any] = {}
    held = {reading.context: reading for reading in every if reading.already_read}
    for context, rows in passes.items():
        tokens = held[context].already_read if context else 0
        ids = held[context].encoded.source[:tokens] if context else ()
        with shared_context(adaptation.backbone, ids) if context else nullcontext():
            (found,) = ask([[_after(encoded, tokens) for encoded in rows.values()]], tokens)
        answers |= {(context, key): answer for key, answer in zip(rows, found, strict=True)}
    by_turn: list[dict[int, list[tuple[Reading, Any]]]] = [{} for _ in prompts]
    for reading in every:
        answer = answers[reading.context if reading.already_read else "", _key(reading.encoded)]
        by_turn[reading.prompt].setdefault(reading.turn, []).append((reading, answer))
    return [
        adaptation.task.combine(prompt, list(turns.values()), multiplied)
        for prompt, turns in zip(prompts, by_turn, strict=True)
    ]


def _key(encoded: Encoded) -> tuple:
    return encoded.source, encoded.choices


def _after(encoded: Encoded, tokens: int) -> Encoded:
    return replace(encoded, source=encoded.source[tokens:])
