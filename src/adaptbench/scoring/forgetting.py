"""What tuning costs elsewhere: how much worse a tuned model continues general text than it did before.

In-context learning leaves the weights alone and forgets nothing. The text of the embedded world is that of its models'
pre-training; every other model reads prose in the public domain that comes with the package (`real/SOURCES.md`).
"""

import json
import random
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from adaptbench.data.templates import Prompt
from adaptbench.methods.base import Adaptation
from adaptbench.methods.zero_shot import ZeroShot
from adaptbench.microworld import stories
from adaptbench.microworld.world import build
from adaptbench.models.backbone import Backbone
from adaptbench.scoring.evaluate import evaluate
from adaptbench.tasks.choices import Choices
from adaptbench.training.log import TrainingLog

PROSE = Path(__file__).parent.parent / "real" / "prose" / "passages.jsonl"
STORIES, SENTENCES = 200, 4  # of the embedded world

# Model -> nats per token of the passages as it continued them before any tuning.
_before: "weakref.WeakKeyDictionary[torch.nn.Module, float]" = weakref.WeakKeyDictionary()


def forgetting(adaptation: Adaptation, base: Backbone, path: str, batch_size: int) -> list[float | None]:
    """By how many nats per token each run continues general text worse than the base model; negative: better.

    Args:
        base: the model before it was adapted.
        path: what the model was loaded from.
        batch_size: most rows in a pass, over all runs.

    Returns:
        A number for each run; zero where no weights were changed, None where the task took the model's head away.
    """
    runs = len(adaptation.seeds)
    if adaptation.task.bare:
        return [None] * runs
    if adaptation.delta is None and not adaptation.tuned:
        return [0.0] * runs
    prompts = passages(path)
    if base.model not in _before:
        (_before[base.model],) = nats_per_token(ZeroShot().prepare(base, (0,)), prompts, batch_size)
    return [after - _before[base.model] for after in nats_per_token(adaptation, prompts, batch_size)]


def nats_per_token(adaptation: Adaptation, prompts: Sequence[Prompt], batch_size: int) -> list[float]:
    """Each run's negative log-likelihood of the second halves after the first, per token; demonstrations left out."""
    alone = replace(adaptation, contexts=None, task=Choices(), log=TrainingLog())
    found = []
    for answers in evaluate(alone, prompts, batch_size):
        total = sum(answer.log_likelihoods[0] for answer in answers)
        found.append(-total / sum(answer.tokens[0] for answer in answers))
    return found


def passages(path: str) -> list[Prompt]:
    """General text for the model at `path`: the first half of each passage, and the second half as its only choice."""
    texts = _stories() if path.startswith("microworld:") else _prose()
    found = []
    for number, text in enumerate(texts):
        words = text.split(" ")
        half = len(words) // 2
        found.append(Prompt(str(number), "passage", " ".join(words[:half]), (" ".join(words[half:]),), 0))
    return found


@cache
def _prose() -> tuple[str, ...]:
    return tuple(json.loads(line)["text"] for line in PROSE.read_text(encoding="utf-8").splitlines())


@cache
def _stories() -> tuple[str, ...]:
    rng, world = random.Random("forgetting"), build()
    return tuple(stories.story(world, rng, SENTENCES) for _ in range(STORIES))
