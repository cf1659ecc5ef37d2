"""What a path in a dataset's YAML names: a file, several files, or a part of one.

    test.csv            a file
    test.csv[:3800]     its first rows, as in the hub's split names (`test[:3800]`); [3800:] the others
    train_*.jsonl       several files, in the order of their names
    all.json#train      one list of a JSON object of lists

A file whose own name looks like that is just that file.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from adaptbench.data.readers import Malformed, Row, read_rows

PART = re.compile(r"(?P<file>.+?)(?:#(?P<key>[^\[\]]+))?(?:\[(?P<start>-?\d+)?:(?P<stop>-?\d+)?\])?")


def is_there(path: Path) -> bool:
    """Whether a path names files, and all of them are there."""
    files, _, _ = _parts(path)
    return bool(files) and all(file.is_file() for file in files)


def read_part(path: Path, dataset: str, header: Sequence[str] = ()) -> list[Row | Malformed]:
    """The rows that a path names, in order.

    Args:
        header: names of the columns of CSV or TSV files that have none.

    Raises:
        InputError: no such file, or one that cannot be read.
    """
    files, key, rows = _parts(path)
    return [row for file in files or [path] for row in read_rows(file, dataset, header, key)][rows]


def _parts(path: Path) -> tuple[list[Path], str, slice]:
    """Files, the key of a list inside, and which of the rows."""
    match = PART.fullmatch(path.name)
    if match is None or path.is_file():
        return [path], "", slice(None)
    start, stop = (None if match[end] is None else int(match[end]) for end in ("start", "stop"))
    name = match["file"]
    files = sorted(path.parent.glob(name)) if "*" in name else [path.with_name(name)]
    return files, match["key"] or "", slice(start, stop)
