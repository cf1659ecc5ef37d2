"""Labels: the names that `dataset.labels` declares, and how what a file says is looked up among them.

A label counts as it is written: `yes`, `true`, `1.0` and `01` are four names, and no two of them are the same.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from adaptbench.errors import InputError

SHOWN = 12  # declared names that a message lists: there are data sets of a hundred
_QUOTED = r'"(?:\\.|[^"\\])*"' + r"|'(?:\\.|[^'\\])*'"
_ENTRY = re.compile(rf"\s*({_QUOTED}|[^\s\"'{{}},][^{{}},]*?)\s*:\s*([^{{}},:]*?)\s*(,|$)")  # name: index


def label_mapping(given: Any) -> dict[str, int]:
    """`dataset.labels` as text -> index, from YAML's mapping or from `{name: index, ..}` as typed on a command line.

    Raises:
        InputError: no mapping, a name that YAML has turned into a truth value, one name for two indices, or no index.
    """
    pairs = _typed(given) if isinstance(given, str) else list(given.items()) if isinstance(given, Mapping) else None
    if pairs is None:
        raise InputError(f"dataset.labels={given!r}: expected a mapping such as {{bad: 0, good: 1}}")
    labels: dict[str, int] = {}
    for name, index in pairs:
        if isinstance(name, bool):
            raise InputError(
                f"dataset.labels: YAML reads yes, no, on, off, true and false as truth values (here: {name}); "
                "put the label in quotes, as the file writes it: {'no': 0, 'yes': 1}"
            )
        if isinstance(index, bool) or not isinstance(index, int):
            raise InputError(f"dataset.labels: {name!r}: {index!r}: expected the index of a choice, 0 or more")
        if index < 0:
            raise InputError(f"dataset.labels: {name!r}: {index} is no index of a choice, expected 0 or more")
        if labels.setdefault(str(name), index) != index:
            raise InputError(f"dataset.labels: {str(name)!r} stands twice, for {labels[str(name)]} and for {index}")
    return labels


def _typed(text: str) -> list[tuple[str, Any]]:
    """Names and indices of `{a: 0, "b c": 1}`: the names stay text, whatever they look like."""
    inside, place, pairs = text.strip().removeprefix("{").removesuffix("}"), 0, []
    if not (text.strip().startswith("{") and text.strip().endswith("}")):
        raise InputError(f"dataset.labels={text!r}: expected a mapping such as {{bad: 0, good: 1}}")
    while inside[place:].strip():
        found = _ENTRY.match(inside, place)
        if found is None:
            rest = inside[place:].strip()
            raise InputError(f"dataset.labels: {rest!r}: expected 'name: index' (names with , or {{ want quotes)")
        name, index = found[1], found[2]
        whole = re.fullmatch(r"-?[0-9]+", index) is not None
        pairs.append((_unquoted(name), int(index) if whole else index))
        place = found.end()
    return pairs


def _unquoted(name: str) -> str:
    """A name without the quotes and backslashes it was typed with; double quotes are JSON's."""
    if name.startswith('"'):
        with suppress(json.JSONDecodeError):
            return str(json.loads(name))
    return re.sub(r"\\(.)", r"\1", name[1:-1] if name[0] in "\"'" else name)


def shown_names(labels: Mapping[str, int]) -> dict[str, int]:
    """The first name of every index: those that templates see. Later ones are other spellings of the same label."""
    first: dict[int, str] = {}
    for name, index in labels.items():
        first.setdefault(index, name)
    return {first[index]: index for index in sorted(first)}


def label_index(labels: Mapping[str, int], value: Any) -> int:
    """The index of a row's label: by the declared names alone, or an integer as it stands where none are declared.

    Raises:
        ValueError: what was found and what was expected.
    """
    text = written(value)
    shown = repr(value) if isinstance(value, str) else text
    if labels:
        if text in labels:
            return labels[text]
        more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
        raise ValueError(f"label {shown}: expected {', '.join(list(labels)[:SHOWN])}{more}")
    if re.fullmatch(r"0|[1-9][0-9]*", text) and not isinstance(value, float):
        return int(text)
    raise ValueError(f"label {shown}: expected an integer from 0, or a name that dataset.labels declares")


def written(value: Any) -> str:
    """A value as its file writes it: text as it is, the others as JSON (`true`, `1.0`, `null`)."""
    return value if isinstance(value, str) else json.dumps(None if is_null(value) else value, default=str)


def is_null(value: Any) -> bool:
    """None, or what is left of it in a column of numbers: not a number."""
    return value is None or (isinstance(value, float) and value != value)
