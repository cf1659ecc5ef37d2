"""What in-context learning puts before a prompt, and how the answers are read off."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from adaptbench.data.templates import Prompt

Context = str  # demonstrations as text: tokenised together with the prompt that follows them


@dataclass(frozen=True)
class ReadingPlan:
    """What a prediction reads, as far as it is known before any text is: for prices."""

    demonstrations: int = 0  # before the prompt, in one pass
    contexts: int = 1  # passes over the prompt, each after demonstrations of its own
    budget: int | None = None  # most tokens of demonstrations in a pass
    shareable: bool = False  # all prompts have the same demonstrations, so that they could be read once,
    shared: bool = False  # and they are
    channel: bool = False  # a pass for every choice, in which the input is scored
    content_free: int = 0  # inputs that say nothing, read once for all prompts


@dataclass(frozen=True)
class Contexts:
    """One run's contexts: a prompt is read after each of its contexts, and the answers are averaged."""

    find: Callable[[Prompt], tuple[Context, ...]] = lambda _prompt: ("",)
    stored: tuple[int, ...] = ()  # token ids of the demonstrations in one template: what serving a task needs
    demonstrations: int = 0  # how many of the shots a context holds
    shared: bool = False  # keys and values of a context are computed once for all prompts
    channel: bool = False  # score the input given each choice instead of the choice given the input
    multiplied: bool = False  # an ensemble's probabilities are multiplied, not averaged
    content_free: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # template -> inputs that say nothing

    def save(self, file: Path) -> None:
        np.save(file, np.array(self.stored, dtype=np.int32))
