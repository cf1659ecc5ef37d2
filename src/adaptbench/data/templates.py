"""Prompt templates in the P3 format (Bach et al. 2022): Jinja, input and target split by `|||`.

`answer_choices` is itself a Jinja template whose rendering is split by `|||`, so choices may differ per row, in
number too. Besides the row's own fields a template sees `answer_choices` and `label_names`, the dataset's labels.
Templates run in Jinja's sandbox: a shared YAML file can phrase a row and do nothing else. A null (None, NaN) may steer
a template (`{% if context %}`) and is refused where it would be shown: "None" is no text of the data's.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import jinja2
import jinja2.meta
import jinja2.nodes
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment

from adaptbench.data.labels import is_null
from adaptbench.errors import InputError, RowError

SPLIT = "|||"
_BARS = "\ue000\ue000\ue000"  # stands for `|||` in a row's own text, which must not be taken for the separator
UNLABELLED = -1  # as promptsource writes it, so that its templates leave the target out


class NotApplicable(InputError):
    """A template that renders nothing for a row: P3's way of saying that it is meant for other rows."""


class _Unshown(Exception):
    """A template would show a field that has no text."""


class _Null:
    """Null in a row, as a template sees it: false, equal to none, and an error where it would be shown."""

    def __init__(self, field: str, what: str = "null"):
        self._field, self._what = field, what

    @property
    def _unshown(self) -> _Unshown:
        return _Unshown(f"the field {self._field!r} is {self._what}, and the template shows it")

    def __getitem__(self, inside: object) -> "_Null":
        return _Null(f"{self._field}.{inside}", self._what)

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, _Null)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        raise self._unshown

    def __iter__(self) -> Any:
        raise self._unshown

    __repr__ = __str__  # as part of a list, too


@jinja2.pass_context
def _choice(context: Context, values: Sequence[Any]) -> Any:
    """P3's `choice` filter draws at random; here the draw is the row's own, so that a prompt never changes."""
    return values[zlib.crc32(str(context.get("row_uid")).encode()) % len(values)]


_ENVIRONMENT = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
_ENVIRONMENT.filters["choice"] = _choice
_ENVIRONMENT.tests["none"] = lambda value: value is None or isinstance(value, _Null)
_NO_FIELDS = ("self", "label_names", "row_uid", "answer_choices")  # names that mean something else to a template
_ARITHMETIC = tuple(getattr(jinja2.nodes, name) for name in ("Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow", "Neg"))


@dataclass(frozen=True)
class Prompt:
    """A rendered row: what the model reads, what it may answer, and which answer is right.

    Fields that a kind of task has no use for stay empty. An unknown label is -1, an unknown number NaN.
    """

    uid: str
    template: str
    input: str
    choices: tuple[str, ...]
    label: float
    delimiter: str = " "
    """Stands between input and answer where the model reads them as one text."""
    second: str | None = None
    """The second text of a pair, or the context of a question."""
    references: tuple[str, ...] = ()
    """Right answers as texts, where an answer is no choice; none where nobody knows one."""
    starts: tuple[int, ...] = ()
    """Where each reference begins in `second`, where answers are pieces of it."""

    @property
    def target(self) -> str:
        """The right answer as text: what a demonstration shows and training follows."""
        return self.choices[int(self.label)] if self.choices else self.references[0]


@dataclass(frozen=True)
class Template:
    """A named way to phrase a row of `dataset`; rendering errors name dataset, template, row and field."""

    dataset: str
    name: str
    jinja: str
    answer_choices: str
    label_names: tuple[str, ...] = ()
    delimiter: str = " "

    def render(self, uid: str, fields: Mapping[str, Any], origin: str = "") -> Prompt:
        """The prompt of one row; `origin` is the file and row that errors name (the row's uid where it is unknown).

        Raises:
            NotApplicable: the template renders nothing at all for this row.
            InputError: a field is missing, the text or the choices are empty, choices repeat, the target is
                not among them, or the label points outside them.
        """
        source, target, choices = self.parts(uid, fields, origin)
        label = fields["label"]
        if not source:
            raise RowError(self._where(uid, origin), "the rendered input is empty")
        if not all(choices) or len(choices) < 2:
            raise RowError(self._where(uid, origin), f"needs at least two non-empty choices, found {list(choices)}")
        if len(set(choices)) != len(choices):
            raise RowError(self._where(uid, origin), f"the choices repeat: {list(choices)}")
        if label != UNLABELLED and target != choices[label]:
            wrong = f"the target {target!r} is not the choice {choices[label]!r} of its label"
            raise RowError(self._where(uid, origin), wrong, skippable=False)
        return Prompt(uid, self.name, source, choices, label, self.delimiter)

    def parts(self, uid: str, fields: Mapping[str, Any], origin: str = "") -> tuple[str, str, tuple[str, ...]]:
        """Input, target and choices as rendered, before any check of what they say."""
        rendered, choices = self._joined(fields), [""]
        if rendered is None:
            rendered, choices = self._rendered(uid, fields, origin)
        if not rendered.strip():
            where = self._where(uid, origin)
            raise NotApplicable(f"{where}: the template renders nothing: it is not meant for this row")
        pieces = rendered.split(SPLIT)
        if len(pieces) != 2:
            wrong = f"expected 'input ||| target', found {len(pieces)} part(s)"
            raise RowError(self._where(uid, origin), wrong, skippable=False)
        return _plain(pieces[0]), _plain(pieces[1]), tuple(map(_plain, choices))

    def _rendered(self, uid: str, fields: Mapping[str, Any], origin: str) -> tuple[str, list[str]]:
        """The text before it is split, and the choices."""
        text, choices_text = self._compiled
        values = {"label_names": list(self.label_names), "row_uid": uid, **_protected(fields)}
        try:
            choices = [choice.strip() for choice in choices_text.render(values).split(SPLIT)]
            if self.answer_choices and not UNLABELLED <= fields["label"] < len(choices):
                outside = f"label {fields['label']} is outside the {len(choices)} choices"
                raise RowError(self._where(uid, origin), outside)
            return text.render({**values, "answer_choices": choices}), choices
        except InputError:
            raise
        except _Unshown as error:
            raise RowError(self._where(uid, origin), str(error)) from error
        except Exception as error:  # whatever a template's expressions can raise on a row's values
            reason = f"cannot render: {error}{self._reads(fields, error)}"
            raise RowError(self._where(uid, origin), reason, skippable=False) from error

    def _joined(self, fields: Mapping[str, Any]) -> str | None:
        """What Jinja would render, at a fraction of the time, of a template that only puts texts of a row together."""
        shown = None if self.answer_choices else _fields_shown(self.jinja)
        if shown is None:
            return None
        texts: list[str] = []
        for text, name in shown:
            value = fields.get(name) if name else ""
            if type(value) is not str:
                return None
            texts += (text, value.replace(SPLIT, _BARS))
        return "".join(texts)

    def _where(self, uid: str, origin: str) -> str:
        return f"dataset {self.dataset!r}, template {self.name!r}, {origin or f'row {uid!r}'}"

    def check(self) -> None:
        """Compile.

        Raises:
            InputError: a syntax error, naming the template.
        """
        assert self._compiled

    @cached_property
    def categories(self) -> frozenset[str]:
        """Fields that the template compares with a text or number of its own, or computes with: they steer what it
        says, and are no content."""
        syntax = _ENVIRONMENT.parse(self.jinja + self.answer_choices)
        steering: list[jinja2.nodes.Node] = [
            test
            for test in syntax.find_all(jinja2.nodes.Compare)
            if any(constant.value not in ("", None) for constant in test.find_all(jinja2.nodes.Const))
        ]
        steering += syntax.find_all(_ARITHMETIC)
        steering += [  # with a text, + puts contents together
            plus
            for plus in syntax.find_all(jinja2.nodes.Add)
            if any(isinstance(constant.value, int | float) for constant in plus.find_all(jinja2.nodes.Const))
        ]
        steering += [lookup.arg for lookup in syntax.find_all(jinja2.nodes.Getitem)]
        names = [node for node in steering if isinstance(node, jinja2.nodes.Name)]  # find_all looks below a node alone
        names += [name for part in steering for name in part.find_all(jinja2.nodes.Name)]
        return frozenset(name.name for name in names) - {"label"}

    @property
    def _compiled(self) -> tuple[jinja2.Template, jinja2.Template]:
        try:
            return _compile(self.jinja), _compile(self.answer_choices)
        except jinja2.TemplateSyntaxError as error:
            raise InputError(
                f"dataset {self.dataset!r}, template {self.name!r}: syntax error: {error.message}"
            ) from error

    def _reads(self, fields: Mapping[str, Any], error: Exception) -> str:
        """The fields a template reads and what they hold, where the error itself names no field."""
        if isinstance(error, jinja2.UndefinedError) and "is undefined" in str(error):
            return f" (fields: {', '.join(map(str, fields))})"
        read = jinja2.meta.find_undeclared_variables(_ENVIRONMENT.parse(self.jinja + self.answer_choices))
        found = [f"{name}: {type(fields[name]).__name__}" for name in sorted(read) if name in fields]
        return f" (reads {', '.join(found)})" if found else ""


@dataclass(frozen=True)
class TextTemplate(Template):
    """A template without choices: a text, and where a task needs one a second text after `|||`."""

    def render(self, uid: str, fields: Mapping[str, Any], origin: str = "") -> Prompt:
        """The prompt of one row, with what the row says is right.

        Raises:
            NotApplicable: the template renders nothing at all for this row.
            InputError: a field is missing, or a text is empty.
        """
        first, second, _ = self.parts(uid, fields, origin)
        if not first or (self.pairs and not second):
            empty = f"the rendered {'input' if not first else 'second text'} is empty"
            raise RowError(self._where(uid, origin), empty)
        return Prompt(
            uid,
            self.name,
            first,
            (),
            fields.get("label", UNLABELLED),
            self.delimiter,
            second if self.pairs else None,
            tuple(fields.get("references", ())),
            tuple(fields.get("starts", ())),
        )

    @property
    def pairs(self) -> bool:
        """It gives two texts."""
        return not self.jinja.endswith(SPLIT)


@lru_cache(maxsize=1024)
def _compile(text: str) -> jinja2.Template:
    """Kept here and not in a template, which travels between processes."""
    return _ENVIRONMENT.from_string(text)


@lru_cache(maxsize=1024)
def _fields_shown(text: str) -> tuple[tuple[str, str], ...] | None:
    """Pieces of text, each with the name of the field that follows it ("" after the last); None where the template
    does anything but show whole fields, or cannot be read."""
    try:
        nodes = _ENVIRONMENT.parse(text).body
    except jinja2.TemplateSyntaxError:
        return None
    pieces, before = [], ""
    for node in nodes:
        for part in node.nodes if isinstance(node, jinja2.nodes.Output) else [node]:
            if isinstance(part, jinja2.nodes.TemplateData):
                before += part.data
            elif isinstance(part, jinja2.nodes.Name) and part.name not in _NO_FIELDS:
                pieces.append((before, part.name))
                before = ""
            else:
                return None
    return (*pieces, (before, ""))


def _protected(value: Any, field: str = "") -> Any:
    """The value with every `|||` inside its texts hidden from the splitting, and null for what has no text."""
    if isinstance(value, str):
        return value.replace(SPLIT, _BARS) if SPLIT in value else value
    if isinstance(value, Mapping):
        return {key: _protected(entry, f"{field}.{key}" if field else str(key)) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_protected(entry, f"{field}[{place}]") for place, entry in enumerate(value)]
    if isinstance(value, bytes):
        return _Null(field, "bytes, no text")
    return _Null(field) if is_null(value) else value


def _plain(text: str) -> str:
    return text.strip().replace(_BARS, SPLIT)
