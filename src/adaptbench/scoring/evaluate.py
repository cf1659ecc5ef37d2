"""Score every evaluation prompt with an adapted model, for all its runs."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from adaptbench.data.batching import Encoded, collate, encode
from adaptbench.data.templates import Prompt
from adaptbench.methods.base import Adaptation
from adaptbench.methods.contexts import Context
from adaptbench.models.backbone import Backbone
from adaptbench.scoring.metrics import ChoiceScores
from adaptbench.scoring.rank import token_log_probabilities
from adaptbench.scoring.shared_context import shared_context


@dataclass(frozen=True)
class Reading:
    """One pass over a prompt, after one of its contexts (empty for all but in-context learning)."""

    prompt: int  # its index
    context: Context
    encoded: Encoded  # the context included
    shared: bool = False  # the context's keys and values are computed once for all prompts
    turn: int = 0  # which of the prompt's contexts; two may hold the same words
    content_free: bool = False  # read to calibrate the others; equal ones are read once
    choice: int | None = None  # the channel reads every choice by itself; what is scored is the input


def readings(adaptation: Adaptation, prompts: Sequence[Prompt], run: int) -> list[Reading]:
    """Everything one run reads to answer the prompts."""
    backbone = adaptation.backbone
    if adaptation.contexts is None:
        return [Reading(index, (), encode(backbone, prompt)) for index, prompt in enumerate(prompts)]
    contexts, found = adaptation.contexts[run], []
    for index, prompt in enumerate(prompts):
        for turn, context in enumerate(contexts.find(prompt)):
            read = partial(Reading, index, context, shared=contexts.shared, turn=turn)
            if contexts.channel:
                found += [read(encoded, choice=c) for c, encoded in enumerate(flipped(backbone, prompt, context))]
                continue
            found.append(read(encode(backbone, prompt, context)))
            for text in contexts.content_free.get(prompt.template, ()):
                nothing = replace(prompt, input=text or " ")
                found.append(read(encode(backbone, nothing, context), content_free=True))
    return found


def flipped(backbone: Backbone, prompt: Prompt, context: Context) -> list[Encoded]:
    """A prompt as the noisy channel reads it: each choice is an input, and the input is what follows it."""
    return [
        encode(backbone, replace(prompt, input=choice, choices=(prompt.input,), label=0), context)
        for choice in prompt.choices
    ]


@torch.inference_mode()
def evaluate(
    adaptation: Adaptation, prompts: Sequence[Prompt], batch_size: int, progress: bool = False
) -> list[list[ChoiceScores]]:
    """Choice scores of each run (outer list), in the order of `prompts`.

    Runs of a delta share each pass as blocks of rows; runs that differ in their context go one after the
    other; where nothing depends on the run, one pass serves all.
    """
    runs = len(adaptation.seeds)
    with adaptation.attached():
        if adaptation.contexts is not None:
            return [_in_context(adaptation, prompts, run, batch_size, progress) for run in range(runs)]
        encoded = [reading.encoded for reading in readings(adaptation, prompts, 0)]
        if adaptation.same_for_all_runs:
            return _score(adaptation.backbone, encoded, 1, batch_size, progress) * runs
        return _score(adaptation.backbone, encoded, runs, batch_size, progress)


def _in_context(
    adaptation: Adaptation, prompts: Sequence[Prompt], run: int, batch_size: int, progress: bool
) -> list[ChoiceScores]:
    """One run's scores: every prompt after its contexts, the choices' probabilities combined over them."""
    combine = multiplied if adaptation.contexts is not None and adaptation.contexts[run].multiplied else averaged
    every = readings(adaptation, prompts, run)
    passes: dict[Context, dict[tuple, Encoded]] = {}
    for reading in every:  # readings that share keys and values must share a batch; the others may meet anyone
        own = passes.setdefault(reading.context if reading.shared else (), {})
        own.setdefault(_key(reading.encoded), reading.encoded)  # content-free inputs return with every prompt
    scored: dict[tuple[Context, tuple], ChoiceScores] = {}
    for context, rows in passes.items():
        after = [_after(encoded, len(context)) for encoded in rows.values()]
        with shared_context(adaptation.backbone, context) if context else nullcontext():
            (scores,) = _score(adaptation.backbone, after, 1, batch_size, progress, already_read=len(context))
        scored |= {(context, key): score for key, score in zip(rows, scores, strict=True)}
    by_turn: list[dict[int, list[tuple[Reading, ChoiceScores]]]] = [{} for _ in prompts]
    for reading in every:
        score = scored[reading.context if reading.shared else (), _key(reading.encoded)]
        by_turn[reading.prompt].setdefault(reading.turn, []).append((reading, score))
    return [
        combine([_answer(prompt, read) for read in own.values()]) for prompt, own in zip(prompts, by_turn, strict=True)
    ]


def _key(encoded: Encoded) -> tuple:
    return encoded.source, encoded.choices


def _answer(prompt: Prompt, read: Sequence[tuple[Reading, ChoiceScores]]) -> ChoiceScores:
    """The scores of a prompt's choices after one context, from all that was read there."""
    if read[0][0].choice is not None:  # the channel: log p(input | choice), whatever the input's length
        values = tuple(score.log_likelihoods[0] for _, score in read)
        return ChoiceScores(prompt, values, (read[0][1].tokens[0],) * len(values))
    (direct,) = [score for reading, score in read if not reading.content_free]
    free = [score for reading, score in read if reading.content_free]
    if not free:
        return replace(direct, prompt=prompt)
    return replace(direct, prompt=prompt, log_likelihoods=calibrated(direct, averaged(free)))


def calibrated(direct: ChoiceScores, content_free: ChoiceScores) -> tuple[float, ...]:
    """Zhao et al. 2021: p(y | x) / p(y | content-free), up to a constant that is the same for all choices."""
    pairs = zip(direct.log_likelihoods, content_free.log_likelihoods, strict=True)
    return tuple(value - nothing for value, nothing in pairs)


def averaged(scores: Sequence[ChoiceScores]) -> ChoiceScores:
    """Choice probabilities averaged over the contexts of a prompt (Min et al. 2022, ensemble)."""
    if len(scores) == 1:
        return scores[0]
    each = np.array([score.log_likelihoods for score in scores])
    mean = np.logaddexp.reduce(each, axis=0) - np.log(len(scores))
    return replace(scores[0], log_likelihoods=tuple(mean.tolist()))


def multiplied(scores: Sequence[ChoiceScores]) -> ChoiceScores:
    """Choice probabilities multiplied over the contexts of a prompt, as their geometric mean: the order is the same."""
    each = np.array([score.log_likelihoods for score in scores])
    return replace(scores[0], log_likelihoods=tuple(each.mean(axis=0).tolist()))


def _after(encoded: Encoded, tokens: int) -> Encoded:
    return replace(encoded, source=encoded.source[tokens:])


def _score(
    backbone: Backbone,
    encoded: Sequence[Encoded],
    runs: int,
    batch_size: int,
    progress: bool,
    already_read: int = 0,
) -> list[list[ChoiceScores]]:
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].source))  # little padding
    size = max(1, batch_size // runs)
    results: list[dict[int, ChoiceScores]] = [{} for _ in range(runs)]
    starts = range(0, len(order), size)
    for start in tqdm(starts, desc="evaluating", leave=False, disable=None if progress else True, mininterval=1):
        indices = order[start : start + size]
        rows = [encoded[index] for index in indices]
        batch = collate(rows * runs, backbone.pad_id, already_read).to(backbone.device)
        sums = token_log_probabilities(backbone, batch).double().sum(2).view(runs, len(rows), -1).tolist()
        for run in range(runs):
            for index, row, values in zip(indices, rows, sums[run], strict=True):
                tokens = tuple(len(choice) for choice in row.choices)
                results[run][index] = ChoiceScores(row.prompt, tuple(values[: len(tokens)]), tokens)
    return [[scores[index] for index in range(len(encoded))] for scores in results]
