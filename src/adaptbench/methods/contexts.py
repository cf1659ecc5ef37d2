"""What in-context learning puts before a prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Context = tuple[int, ...]  # token ids


@dataclass(frozen=True)
class Contexts:
    """One run's contexts: a prompt is read after each context of its template, and the answers are averaged."""

    by_template: Mapping[str, tuple[Context, ...]]
    demonstrations: int  # how many of the shots they hold
    shared: bool = False  # keys and values of a context are computed once for all prompts

    def before(self, template: str) -> tuple[Context, ...]:
        """The contexts for a prompt of this template; the empty one if there are none."""
        return self.by_template.get(template) or ((),)

    def save(self, file: Path) -> None:
        """The token ids of the demonstrations in one template: what serving a task needs."""
        first = next(iter(self.by_template.values()), ((),))
        np.save(file, np.array([token for context in first for token in context], dtype=np.int32))
