"""Prompt templates in the P3 format (Bach et al. 2022): Jinja, input and target split by `|||`.

`answer_choices` is itself a Jinja template whose rendering is split by `|||`, so choices may differ per row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import yaml

from adaptbench.errors import InputError

SPLIT = "|||"
_ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
_ENVIRONMENT.policies["ext.i18n.trimmed"] = False


@dataclass(frozen=True)
class Prompt:
    """A rendered row: what the model reads, what it may answer, and which answer is right."""

    uid: str
    template: str
    input: str
    choices: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Template:
    """A named way to phrase a row of `dataset`; rendering errors name dataset, template, row and field."""

    dataset: str
    name: str
    jinja: str
    answer_choices: str

    @cached_property
    def _compiled(self) -> tuple[jinja2.Template, jinja2.Template]:
        try:
            return _ENVIRONMENT.from_string(self.jinja), _ENVIRONMENT.from_string(self.answer_choices)
        except jinja2.TemplateSyntaxError as error:
            raise InputError(
                f"dataset {self.dataset!r}, template {self.name!r}: syntax error: {error.message}"
            ) from error

    def render(self, uid: str, fields: Mapping[str, Any]) -> Prompt:
        """The prompt of one row.

        Raises:
            InputError: a field is missing, the text or the choices are empty, choices repeat, the target is
                not among them, or the label points outside them.
        """
        where = f"dataset {self.dataset!r}, template {self.name!r}, row {uid!r}"
        text, choices_text = self._compiled
        label = fields["label"]
        try:
            choices = tuple(choice.strip() for choice in choices_text.render(fields).split(SPLIT))
            if not 0 <= label < len(choices):
                raise InputError(f"{where}: label {label} is outside the {len(choices)} choices")
            parts = text.render(answer_choices=list(choices), **fields).split(SPLIT)
        except (jinja2.UndefinedError, jinja2.TemplateError, TypeError) as error:
            raise InputError(f"{where}: cannot render: {error}") from error
        if len(parts) != 2:
            raise InputError(f"{where}: expected 'input ||| target', found {len(parts)} part(s)")
        source, target = (part.strip() for part in parts)
        if not source:
            raise InputError(f"{where}: the rendered input is empty")
        if not all(choices) or len(choices) < 2:
            raise InputError(f"{where}: needs at least two non-empty choices, found {list(choices)}")
        if len(set(choices)) != len(choices):
            raise InputError(f"{where}: the choices repeat: {list(choices)}")
        if target != choices[label]:
            raise InputError(f"{where}: the target {target!r} is not the choice {choices[label]!r} of its label")
        return Prompt(uid, self.name, source, choices, label)


class _PromptSourceLoader(yaml.SafeLoader):
    """Reads promptsource's custom tags as plain mappings, so that no class of theirs is needed."""


_PromptSourceLoader.add_multi_constructor(
    "!Template", lambda loader, _suffix, node: loader.construct_mapping(node, deep=True)
)


def load_promptsource(path: Path, dataset: str, *, original_only: bool = True) -> list[Template]:
    """Templates of a promptsource `templates.yaml`, in file order.

    Args:
        original_only: keep those that ask the dataset's original task, as T0 and T-Few do.
    """
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_PromptSourceLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"dataset {dataset!r}: cannot read templates {path}: {_one_line(error)}") from error
    if not isinstance(document, dict) or not isinstance(document.get("templates"), dict):
        raise InputError(f"dataset {dataset!r}: {path} is not a promptsource file (no 'templates' mapping)")
    return [
        Template(dataset, entry["name"], entry["jinja"], entry["answer_choices"])
        for entry in document["templates"].values()
        if entry.get("answer_choices") and (not original_only or (entry.get("metadata") or {}).get("original_task"))
    ]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
