"""Rows of local files, by their suffix. Whatever cannot be read is one line naming the file and the place in it."""

import bz2
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from adaptbench.data.hellaswag import rows_of_text
from adaptbench.errors import InputError

Row = dict[str, Any]


def read_rows(path: str | Path, dataset: str) -> list[Row]:
    """Rows of a file.

    Raises:
        InputError: no such file, an unknown suffix, not UTF-8, or a malformed line, which is named.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"dataset {dataset!r}: no such file: {file}")
    reader = next((one for suffix, one in READERS.items() if file.name.endswith(suffix)), None)
    if reader is None:
        raise InputError(f"dataset {dataset!r}: {file}: expected {', '.join(READERS)}")
    try:
        return reader(file)
    except UnicodeDecodeError as error:
        raise InputError(f"dataset {dataset!r}: {file} is not UTF-8 (byte {error.start})") from error
    except InputError as error:
        raise InputError(f"dataset {dataset!r}: {file}{error}") from error
    except (ValueError, OSError, csv.Error) as error:  # pandas, pyarrow and bz2 all raise some kind of these
        raise InputError(f"dataset {dataset!r}: cannot read {file}: {' '.join(str(error).split())[:200]}") from error


def _jsonl(file: Path) -> list[Row]:
    rows = []
    # Not splitlines(): JSON strings may hold the other separators Unicode calls line ends.
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f", line {number}: not JSON: {error.msg}") from error
        if not isinstance(row, dict):
            raise InputError(f", line {number}: expected an object")
        rows.append(row)
    return rows


def _csv(file: Path) -> list[Row]:
    return _records(pd.read_csv(file, keep_default_na=False, encoding="utf-8-sig"))


def _tsv(file: Path) -> list[Row]:
    """Tab-separated files as GLUE's: a quotation mark is a character like any other."""
    frame = pd.read_csv(file, sep="\t", keep_default_na=False, encoding="utf-8-sig", quoting=csv.QUOTE_NONE)
    return _records(frame)


def _parquet(file: Path) -> list[Row]:
    return _records(pd.read_parquet(file))


def _records(frame: pd.DataFrame) -> list[Row]:
    rows: list[Row] = frame.to_dict("records")  # type: ignore[assignment]
    return [{str(key): _plain(value) for key, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    """Columns of lists come back as arrays; templates and fingerprints want lists."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _hellaswag(file: Path) -> list[Row]:
    return rows_of_text(bz2.decompress(file.read_bytes()).decode("utf-8"))


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".txt.bz2": _hellaswag,
}
