"""What a path in a dataset's YAML names: a file, several files, or a part of one.

    test.csv                a file
    test.csv[:3800]         its first rows, as in the hub's split names (`test[:3800]`); [3800:] the others
    train_*.jsonl           several files, in the order of their names
    all.json#train          one list of a JSON object of lists
    all.json[title%:70]     the rows whose title has a hash below 70, of 100; [title%70:80], [title%80:] the others

The hash is SHA-256 of the column's text as an integer, modulo 100. So rows that have it in common are never separated,
and a row stays in its part whatever else a file holds, in whatever order. A file whose own name looks like one of these
is just that file.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptbench.data.labels import written
from adaptbench.data.readers import Malformed, Row, read_rows
from adaptbench.errors import InputError

PART = re.compile(r"(?P<file>.+?)(?:#(?P<key>[^\[\]]+))?(?:\[(?P<start>-?\d+)?:(?P<stop>-?\d+)?\])?")
SHARE = re.compile(r"(?P<name>.+)\[(?!-?\d+%)(?P<column>[^\[\]%:]+)%(?P<range>[^\[\]%]*)\]")  # the hub has [10%:20%]
HASHES = 100


@dataclass(frozen=True)
class Share:
    """The rows for which a hash of one column lies in a range."""

    column: str
    hashes: range

    def of(self, rows: Iterable[Row | Malformed], where: str) -> list[Row | Malformed]:
        """These rows, in order. One that cannot be read belongs to every share: it is not lost without a word.

        Raises:
            InputError: a row without the column; `where` is what it names.
        """
        return [
            row
            for index, row in enumerate(rows)
            if isinstance(row, Malformed) or _hash(self._value(row, f"{where}, row {index}")) in self.hashes
        ]

    def _value(self, row: Row, where: str) -> Any:
        if self.column not in row:
            raise InputError(f"{where}: no column {self.column!r} (columns: {', '.join(map(str, row))})")
        return row[self.column]


def _hash(value: Any) -> int:
    return int.from_bytes(hashlib.sha256(written(value).encode()).digest(), "big") % HASHES


def split_share(name: str) -> tuple[str, Share | None]:
    """A name without the hashes that it ends with, and the share they stand for.

    Raises:
        InputError: no range of hashes.
    """
    match = SHARE.fullmatch(name)
    if match is None:
        return name, None
    ends = re.fullmatch(r"(\d*):(\d*)", match["range"])
    hashes = range(int(ends[1] or 0), int(ends[2] or HASHES)) if ends else range(0)
    if not hashes or hashes.stop > HASHES:
        raise InputError(f"{name}: expected [column%start:stop] with 0 <= start < stop <= {HASHES}")
    return match["name"], Share(match["column"], hashes)


def is_there(path: Path) -> bool:
    """Whether a path names files, and all of them are there.

    Raises:
        InputError: it ends with no range of hashes.
    """
    files, _, _, _ = _parts(path)
    return bool(files) and all(file.is_file() for file in files)


def read_part(path: Path, dataset: str, header: Sequence[str] = ()) -> list[Row | Malformed]:
    """The rows that a path names, in order.

    Args:
        header: names of the columns of CSV or TSV files that have none.

    Raises:
        InputError: no such file, one that cannot be read, or a part that it cannot have.
    """
    files, key, slice_, share = _parts(path)
    rows = [row for file in files or [path] for row in read_rows(file, dataset, header, key)][slice_]
    return rows if share is None else share.of(rows, f"dataset {dataset!r}: {path}")


def _parts(path: Path) -> tuple[list[Path], str, slice, Share | None]:
    """Files, the key of a list inside, and which of the rows."""
    if path.is_file():
        return [path], "", slice(None), None
    name, share = split_share(path.name)
    match = PART.fullmatch(name)
    if match is None:
        return [path], "", slice(None), None
    start, stop = (None if match[end] is None else int(match[end]) for end in ("start", "stop"))
    name = match["file"]
    files = sorted(path.parent.glob(name)) if "*" in name else [path.with_name(name)]
    return files, match["key"] or "", slice(start, stop), share
