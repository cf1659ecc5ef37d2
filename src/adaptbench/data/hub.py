"""Splits of hub data sets. A cached copy serves where there is no network; a missing one says what to type."""

from typing import Any

from adaptbench.data.parts import split_share
from adaptbench.errors import InputError
from adaptbench.schema import DatasetConfig


class Unavailable(InputError):
    """A split that neither hub nor cache can serve here."""


def hub_rows(config: DatasetConfig, split: str) -> list[dict[str, Any]]:
    """Rows of a split, label numbers replaced by their names where the dataset's YAML declares one of those.

    Args:
        split: also with hashes of a column, as in `data/parts.py`: `train[title%:70]`.

    Raises:
        Unavailable: no `datasets` package, or neither hub nor cache can serve it.
        InputError: hashes that the split cannot have.
    """
    named, share = split_share(split)
    try:
        from datasets import load_dataset
    except ImportError as error:
        reason = f"it comes from the hub: pip install 'adaptbench[hub]'{_elsewhere(config)}"
        raise Unavailable(f"dataset {config.name!r}: {reason}") from error
    options = {"revision": config.revision} if config.revision else {}
    try:
        loaded = load_dataset(config.path, config.subset, split=named, **options)
    except Exception as error:  # the library raises a different type for each of its many ways to fail
        raise Unavailable(
            f"dataset {config.name!r}: cannot load {config.path!r} ({config.subset}, split {split}) from the hub "
            f"or its cache: {' '.join(str(error).split())[:200]}; fetch it where there is network with: "
            f"{fetch_command(config)}{_elsewhere(config)}"
        ) from error
    rows: list[Any] = loaded.to_list() if hasattr(loaded, "to_list") else [dict(row) for row in loaded]
    if share is not None:
        rows = share.of(rows, f"dataset {config.name!r}: {config.path}:{split}")
    for column, names in _label_names(loaded).items():
        if config.labels.keys().isdisjoint(names):
            continue  # the YAML declares the numbers
        for row in rows:  # names are safe: RAFT numbers its labels from 1 and its cache from 0
            number = row[column]
            row[column] = names[number] if number is not None and 0 <= number < len(names) else number
    return rows


def fetch_command(config: DatasetConfig) -> str:
    """What to type on a machine with network, whose cache the other then uses."""
    if config.fetch:
        return config.fetch
    arguments = ", ".join(repr(argument) for argument in (config.path, config.subset) if argument is not None)
    if config.revision:
        arguments += f", revision={config.revision!r}"
    return f'python -c "from datasets import load_dataset; load_dataset({arguments})"'


def _elsewhere(config: DatasetConfig) -> str:
    return f", or put the files under {config.folder} (ADAPTBENCH_DATA)" if config.local else ""


def _label_names(loaded: Any) -> dict[str, list[str]]:
    """Column -> names of its integer labels."""
    features = getattr(loaded, "features", None) or {}
    return {column: list(kind.names) for column, kind in features.items() if hasattr(kind, "names")}
