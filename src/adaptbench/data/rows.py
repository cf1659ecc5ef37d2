"""From a file's row to an Example: columns renamed, label looked up, an identity given."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from adaptbench.config import DatasetConfig
from adaptbench.data.example import Example
from adaptbench.data.hellaswag import cleaned
from adaptbench.data.templates import UNLABELLED
from adaptbench.errors import InputError

# Named ways to put a row right before anything else sees it (`operations` in a dataset's YAML).
OPERATIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"hellaswag": cleaned}


def to_examples(
    config: DatasetConfig, rows: Iterable[Mapping[str, Any]], where: str, labelled: bool = True
) -> list[Example]:
    """Checked examples; `where` is the file or split that errors name.

    Raises:
        InputError: no rows, a missing column, a label outside the declared ones, or two rows of one identity.
    """
    examples = [_example(config, dict(row), index, where, labelled) for index, row in enumerate(rows)]
    if not examples:
        raise InputError(f"dataset {config.name!r}: {where} has no rows")
    seen: set[str] = set()
    for index, example in enumerate(examples):
        if example.uid in seen:
            raise InputError(f"dataset {config.name!r}: {where}, row {index}: the uid {example.uid!r} stands twice")
        seen.add(example.uid)
    return examples


def _example(config: DatasetConfig, row: dict[str, Any], index: int, where: str, labelled: bool) -> Example:
    origin = f"dataset {config.name!r}: {where}, row {index}"
    for name in config.operations:
        if name not in OPERATIONS:
            raise InputError(f"dataset.operations={name!r}: expected one of {', '.join(OPERATIONS)}")
        try:
            row = OPERATIONS[name](row)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{origin}: operation {name!r} does not fit the row: {error!r}") from error
    mapped = {
        field: _value(row, columns, origin) for field, columns in config.columns.items() if labelled or field != "label"
    }
    row.update(mapped)
    if not labelled:
        row["label"] = UNLABELLED
    elif "label" not in row:
        raise InputError(f"{origin}: no column 'label' (columns: {', '.join(map(str, row))})")
    else:
        row["label"] = _label(config.labels, row["label"], origin)
    return Example(uid=str(row.get("uid", row.get("idx", index))), fields=row)


def _value(row: Mapping[str, Any], columns: Any, origin: str) -> Any:
    """The first of the columns there is; `target.span1_text` looks inside a nested one."""
    candidates = [columns] if isinstance(columns, str) else list(columns)
    for column in candidates:
        if column in row:
            return row[column]
        value: Any = row
        for part in column.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    wanted = " or ".join(repr(column) for column in candidates)
    raise InputError(f"{origin}: no column {wanted} (columns: {', '.join(map(str, row))})")


def _label(labels: Mapping[str, int], value: Any, origin: str) -> int:
    """Integer label: through the `labels` mapping of the dataset's YAML, or as it stands."""
    if str(value) in labels:
        return labels[str(value)]
    if isinstance(value, bool) or not isinstance(value, int):
        expected = ", ".join(labels) if labels else "an integer"
        raise InputError(f"{origin}: label {value!r}: expected {expected}")
    if value < 0 or (labels and value > max(labels.values())):
        expected = f"{', '.join(labels)}, or 0 to {max(labels.values())}" if labels else "an integer from 0"
        raise InputError(f"{origin}: label {value}: expected {expected}")
    return value
