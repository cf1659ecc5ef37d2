"""From a file's row to an Example: columns renamed, label looked up, an identity given; or left out, and said so."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from adaptbench.data.ag_news import article
from adaptbench.data.example import Example
from adaptbench.data.hellaswag import cleaned
from adaptbench.data.labels import is_null
from adaptbench.data.readers import Malformed
from adaptbench.data.templates import NotApplicable, Template
from adaptbench.errors import InputError, RowError
from adaptbench.schema import DatasetConfig
from adaptbench.tasks import TaskType, task_type

# Named ways to put a row right before anything else sees it (`operations` in a dataset's YAML).
OPERATIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"ag_news": article, "hellaswag": cleaned}
IDENTITIES = ("uid", "idx")  # columns that name rows, if every row has a name of its own there


def to_examples(
    config: DatasetConfig,
    rows: Iterable[Mapping[str, Any] | Malformed],
    where: str,
    labelled: bool = True,
    templates: Sequence[Template] = (),
) -> tuple[list[Example], list[str]]:
    """Checked examples, and what was left out of them: "file, row: reason" texts, with `skip_bad_rows` alone.

    Args:
        where: the file or split that errors name.
        templates: where bad rows are left out, those that have to be able to phrase a row.

    Raises:
        InputError: no rows, or none that is good; a missing column, a label outside the declared ones, a null label.
    """
    task = task_type(config)
    found: list[tuple[str, dict[str, Any]]] = []  # place in the file, fields
    skipped: list[str] = []
    for index, row in enumerate(rows):
        place = row.place if isinstance(row, Malformed) else f"row {index}"
        try:
            fields = _fields(config, task, row, f"dataset {config.name!r}: {where}, {place}", labelled)
            if config.skip_bad_rows:
                _readable(templates, str(index), fields)
        except RowError as error:
            if not config.skip_bad_rows:
                raise
            skipped.append(f"{where}, {place}: {error.reason}")
        else:
            found.append((f"row {index}", fields))
    if skipped and not found:
        raise InputError(f"dataset {config.name!r}: {where}: every row is bad; the first: {skipped[0]}")
    if not found:
        raise InputError(f"dataset {config.name!r}: {where} has no rows")
    uids = _identities(config, found, f"dataset {config.name!r}: {where}")
    examples = [Example(uid, fields, f"{where}, {place}") for uid, (place, fields) in zip(uids, found, strict=True)]
    return examples, skipped


def _fields(
    config: DatasetConfig, task: TaskType, given: Mapping[str, Any] | Malformed, origin: str, labelled: bool
) -> dict[str, Any]:
    """What templates see of a row."""
    if isinstance(given, Malformed):
        raise RowError(origin, given.reason)
    row = dict(given)
    for name in config.operations:
        if name not in OPERATIONS:
            raise InputError(f"dataset.operations={name!r}: expected one of {', '.join(OPERATIONS)}")
        try:
            row = OPERATIONS[name](row)
        except (KeyError, TypeError, AttributeError) as error:
            raise RowError(origin, f"operation {name!r} does not fit the row: {error!r}", skippable=False) from error
    mapped = {
        field: _value(row, columns, origin)
        for field, columns in config.columns.items()
        if labelled or field != task.answer_field
    }
    row.update(mapped)
    for name in config.numbers:
        row[name] = _number(row, name, origin)
    if labelled and task.answer_field not in row:
        found = ", ".join(map(str, row))
        raise RowError(origin, f"no column {task.answer_field!r} (columns: {found})", skippable=False)
    try:
        task.read_answer(config, row, labelled)
    except ValueError as error:
        raise RowError(origin, str(error)) from error
    return row


def _readable(templates: Sequence[Template], uid: str, fields: Mapping[str, Any]) -> None:
    """Whether every template that is meant for a row can phrase it, and one is meant for it.

    Raises:
        RowError: what is wrong with the row.
    """
    meant = 0
    for template in templates:
        try:
            template.render(uid, fields)
        except NotApplicable:
            continue
        except RowError as error:
            raise RowError("", f"template {template.name!r}: {error.reason}") from error
        meant += 1
    if templates and not meant:
        raise RowError("", "no template is meant for this row")


def _value(row: Mapping[str, Any], columns: Any, origin: str) -> Any:
    """The first of the columns there is; `target.span1_text` looks inside a nested one."""
    candidates = [columns] if isinstance(columns, str) else list(columns)
    for column in candidates:
        if column in row:
            return row[column]
        inside: Any = row
        *path, last = column.split(".")
        for part in path:
            inside = inside.get(part) if isinstance(inside, Mapping) else None
        if isinstance(inside, Mapping) and last in inside:
            return inside[last]
    wanted = " or ".join(repr(column) for column in candidates)
    raise RowError(origin, f"no column {wanted} (columns: {', '.join(map(str, row))})", skippable=False)


def _number(row: Mapping[str, Any], name: str, origin: str) -> Any:
    """A field that templates compute with: CSV and TSV hold text."""
    if name not in row:
        raise RowError(origin, f"dataset.numbers: no field {name!r} (fields: {', '.join(map(str, row))})", False)
    value = row[name]
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]+\s*", value):
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"[\s0-9.eE+-]+", value):
        with suppress(ValueError):
            value = float(value)
    if is_null(value) or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)):
        return value  # null is a fault only where a template shows it
    raise RowError(origin, f"dataset.numbers: {name!r} is {value!r}, which is no number")


def _identities(config: DatasetConfig, rows: Sequence[tuple[str, Mapping[str, Any]]], where: str) -> list[str]:
    """A name for every row: a column's where it names each row and no two alike, else the row's number."""
    for column in IDENTITIES:
        values = [fields.get(column) for _, fields in rows]
        names = [str(value) for value in values]
        if not any(map(is_null, values)) and len(set(names)) == len(names):
            return names
        if column in config.columns:  # asked for: predictions would come out under other names than expected
            repeated = next((name for i, name in enumerate(names) if name in names[:i]), "null")
            raise InputError(
                f"{where}: dataset.columns.{column}={config.columns[column]!r}: {repeated!r} names two rows "
                "(leave it out to number them)"
            )
    return [place.removeprefix("row ") for place, _ in rows]
