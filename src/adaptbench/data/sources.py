"""Where tasks come from: the embedded world, local files, or the Hugging Face hub.

A dataset is one YAML in conf/dataset/ (see `DatasetConfig`); this module turns it into a checked `TaskData`.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from adaptbench.config import DatasetConfig
from adaptbench.data.example import Example, TaskData
from adaptbench.data.templates import Template, load_promptsource
from adaptbench.errors import InputError


def load_task(config: DatasetConfig) -> TaskData:
    """The task a dataset YAML describes.

    Raises:
        InputError: a missing file, column or package, a malformed row, or a label outside the declared ones.
    """
    if config.source == "microworld":
        return _from_microworld(config)
    if config.source == "files":
        return _from_files(config)
    if config.source == "hub":
        return _from_hub(config)
    raise InputError(f"dataset.source={config.source!r}: expected microworld, files or hub")


def _from_microworld(config: DatasetConfig) -> TaskData:
    from adaptbench.microworld import tasks  # generating the world takes a moment: only when asked for

    if config.name not in tasks.names() + tasks.names(split="development"):
        raise InputError(f"dataset.name={config.name!r}: not a task of the embedded world")
    task = tasks.load(config.name)
    return TaskData(
        name=config.name,
        shots=config.shots or task.shots,
        train=_examples(config, task.train, "train"),
        evaluation=_examples(config, task.evaluation, "evaluation"),
        templates=[Template(config.name, **template) for template in task.templates],
        metric=config.metric,
    )


def _from_files(config: DatasetConfig) -> TaskData:
    if config.evaluation is None:
        raise InputError(f"dataset {config.name!r}: 'evaluation' must name a file")
    train = _examples(config, read_rows(config.train, config.name), config.train) if config.train else []
    return TaskData(
        name=config.name,
        shots=_required_shots(config),
        train=train,
        evaluation=_examples(config, read_rows(config.evaluation, config.name), config.evaluation),
        templates=_templates(config),
        metric=config.metric,
        draws=_draws(config),
    )


def _from_hub(config: DatasetConfig) -> TaskData:
    if config.path is None:
        raise InputError(f"dataset {config.name!r}: 'path' must name a hub data set")
    if config.train is None or config.evaluation is None:
        raise InputError(f"dataset {config.name!r}: 'train' and 'evaluation' must name splits")
    return TaskData(
        name=config.name,
        shots=_required_shots(config),
        train=_examples(config, _hub_rows(config, config.train), f"{config.path}:{config.train}"),
        evaluation=_examples(config, _hub_rows(config, config.evaluation), f"{config.path}:{config.evaluation}"),
        templates=_templates(config),
        metric=config.metric,
        draws=_draws(config),
    )


def _hub_rows(config: DatasetConfig, split: str) -> list[dict[str, Any]]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise InputError(f"dataset {config.name!r} comes from the hub: pip install 'adaptbench[hub]'") from error
    try:
        return list(load_dataset(config.path, config.subset, split=split))
    except Exception as error:  # the library raises a different type for each of its many ways to fail
        raise InputError(
            f"dataset {config.name!r}: cannot load {config.path!r} ({config.subset}, split {split}) from the hub "
            f"or its cache: {' '.join(str(error).split())[:200]}"
        ) from error


def read_rows(path: str, dataset: str) -> list[dict[str, Any]]:
    """Rows of a JSONL, CSV, TSV or Parquet file; a malformed line is named."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"dataset {dataset!r}: no such file: {file}")
    try:
        if file.suffix in {".jsonl", ".json"}:
            return _read_jsonl(file, dataset)
        if file.suffix in {".csv", ".tsv"}:
            frame = pd.read_csv(file, sep="\t" if file.suffix == ".tsv" else ",", keep_default_na=False)
        elif file.suffix == ".parquet":
            frame = pd.read_parquet(file)
        else:
            raise InputError(f"dataset {dataset!r}: {file}: expected .jsonl, .csv, .tsv or .parquet")
    except UnicodeDecodeError as error:
        raise InputError(f"dataset {dataset!r}: {file} is not UTF-8 (byte {error.start})") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OSError) as error:
        raise InputError(f"dataset {dataset!r}: cannot read {file}: {' '.join(str(error).split())}") from error
    return frame.to_dict("records")  # type: ignore[return-value]


def _read_jsonl(file: Path, dataset: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"dataset {dataset!r}: {file}, line {number}: not JSON: {error.msg}") from error
        if not isinstance(row, dict):
            raise InputError(f"dataset {dataset!r}: {file}, line {number}: expected an object")
        rows.append(row)
    return rows


def _draws(config: DatasetConfig) -> dict[int, list[Example]]:
    """Few-shot draws given as files, one per seed: `draws` is a path with `{seed}` in it."""
    if config.draws is None:
        return {}
    pattern = Path(config.draws).expanduser()
    before, _, after = pattern.name.partition("{seed}")
    found = {}
    for file in sorted(pattern.parent.glob(f"{before}*{after}")):
        seed = file.name.removeprefix(before).removesuffix(after)
        if seed.isdigit():
            found[int(seed)] = _examples(config, read_rows(str(file), config.name), str(file))
    if not found:
        raise InputError(f"dataset {config.name!r}: no few-shot draw matches {pattern}")
    return found


def _templates(config: DatasetConfig) -> list[Template]:
    templates = [
        Template(config.name, name, entry["jinja"], entry["answer_choices"]) for name, entry in config.templates.items()
    ]
    if config.promptsource is not None:
        templates += load_promptsource(Path(config.promptsource).expanduser(), config.name)
    if not templates:
        raise InputError(f"dataset {config.name!r}: no templates ('templates' or 'promptsource' must give some)")
    return templates


def _required_shots(config: DatasetConfig) -> int:
    if config.shots is None:
        raise InputError(f"dataset {config.name!r}: 'shots' must be given")
    return config.shots


def _examples(config: DatasetConfig, rows: Iterable[Mapping[str, Any]], where: str) -> list[Example]:
    examples = [_example(config, dict(row), index, where) for index, row in enumerate(rows)]
    if not examples:
        raise InputError(f"dataset {config.name!r}: {where} has no rows")
    return examples


def _example(config: DatasetConfig, row: dict[str, Any], index: int, where: str) -> Example:
    """Rename columns, map the label to its integer, and give the row an identity."""
    origin = f"dataset {config.name!r}: {where}, row {index}"
    for field, column in config.columns.items():
        if column not in row:
            raise InputError(f"{origin}: no column {column!r} (columns: {', '.join(map(str, row))})")
        row[field] = row[column]
    if "label" not in row:
        raise InputError(f"{origin}: no column 'label' (columns: {', '.join(map(str, row))})")
    row["label"] = _label(config.labels, row["label"], origin)
    return Example(uid=str(row.get("uid", row.get("idx", index))), fields=row)


def _label(labels: Mapping[str, int], value: Any, origin: str) -> int:
    """Integer label: as it stands, or through the `labels` mapping of the dataset's YAML."""
    if str(value) in labels:
        return labels[str(value)]
    if isinstance(value, bool) or not isinstance(value, int):
        expected = ", ".join(labels) if labels else "an integer"
        raise InputError(f"{origin}: label {value!r}: expected {expected}")
    return value
