"""What a task is: rows, the templates that phrase them, and how answers are judged."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adaptbench.data.templates import UNLABELLED, Template
from adaptbench.errors import InputError
from adaptbench.tasks import TaskType
from adaptbench.tasks.choices import Choices


@dataclass(frozen=True)
class Example:
    """One row. `fields` is what a template sees; where a task has classes, the integer "label", -1 if it is unknown."""

    uid: str
    fields: Mapping[str, Any]
    origin: str = field(default="", compare=False)
    """File and row, for messages; no part of the content."""
    _content: bytes | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def label(self) -> int:
        return self.fields.get("label", UNLABELLED)

    @property
    def content(self) -> bytes:
        """What fingerprints are of, written once: every seed draws the same rows, in an order of its own."""
        content = self._content
        if content is None:  # a cached_property would give every row a dictionary of its own
            content = _line(dict(self.fields))
            object.__setattr__(self, "_content", content)
        return content


@dataclass(frozen=True)
class TaskData:
    """A task, loaded and checked.

    Few-shot sets are drawn from `train`, unless `draws` gives them ready-made by seed (as the T-Few paper
    ships its own): then those files *are* the few-shot sets.
    """

    name: str
    shots: int | str
    """Few-shot examples, or all."""
    train: Sequence[Example]
    evaluation: Sequence[Example]
    templates: Sequence[Template]
    metric: str | None = None
    """What its score is; None: the first metric that judges this kind of answer."""
    type: TaskType = field(default_factory=Choices)
    draws: Mapping[int, Sequence[Example]] = field(default_factory=dict)
    sampling: str = "natural"
    development: Sequence[Example] = ()
    """Rows on which the best state of a training is chosen, the same for every seed;"""
    held_out: int = 0
    """or how many of them are held out of the draw of each."""
    development_split: str | None = None
    """What these rows are, in words."""
    answer_delimiter: str = " "
    norm: str = "token"
    """How scores of choices are normalised by their length."""
    evaluation_split: str = "evaluation"
    """What `evaluation` is, in words where it stands in for another split."""
    skipped: tuple[str, ...] = ()
    """Bad rows that were left out, as "file, row: reason"."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Training rows that were left out on purpose: how many for which reason."""

    def template(self, name: str) -> Template:
        for template in self.templates:
            if template.name == name:
                return template
        known = ", ".join(template.name for template in self.templates)
        raise InputError(f"template={name!r}: not a template of dataset {self.name!r}; known: {known}")


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 over the rows' content, in order: the same rows give the same fingerprint on any machine."""
    return _sha256(example.content for example in examples)


def wording(templates: Sequence[Template]) -> str:
    """SHA-256 over the templates' content: a changed word is another question."""
    return _sha256(
        _line({"name": template.name, "jinja": template.jinja, "choices": template.answer_choices})
        for template in templates
    )


_ENCODER = json.JSONEncoder(sort_keys=True, default=str)


def _line(content: dict[str, Any]) -> bytes:
    return _ENCODER.encode(content).encode() + b"\n"


def _sha256(lines: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    return digest.hexdigest()
