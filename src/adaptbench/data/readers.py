"""Rows of local files, by their suffix. Whatever cannot be read is one line naming the file and the place in it.

CSV and TSV are text: nothing is taken for a number, a truth value or a missing one.
"""

import bz2
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet

from adaptbench.data.hellaswag import rows_of_text
from adaptbench.data.hyperpartisan import hyperpartisan_rows
from adaptbench.data.squad import squad_rows
from adaptbench.errors import InputError

Row = dict[str, Any]
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
LONGEST_FIELD = 2**31 - 1  # of a CSV file, in characters; Python's own limit is an eighth of a million
_LONE = re.compile("[\ud800-\udfff]")  # JSON can write half of a surrogate pair, and no tokenizer can read it


@dataclass(frozen=True)
class Malformed:
    """Stands in the place of a row that cannot be read."""

    place: str
    reason: str


def read_rows(path: str | Path, dataset: str, header: Sequence[str] = (), key: str = "") -> list[Row | Malformed]:
    """Rows of a file, in its order.

    Args:
        header: names of the columns of a CSV or TSV file that has none.
        key: of the list to read, in a JSON file that holds an object of lists.

    Raises:
        InputError: no such file, an unknown suffix, not UTF-8, or broken beyond a single row.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"dataset {dataset!r}: no such file: {file}")
    reader = next((candidate for suffix, candidate in READERS.items() if file.name.endswith(suffix)), None)
    if reader is None:
        raise InputError(f"dataset {dataset!r}: {file}: expected {', '.join(READERS)}")
    try:
        if key:
            return _list_inside(file, key)
        if header and reader not in (_csv, _tsv):
            raise InputError(f": dataset.header={list(header)}: only CSV and TSV files may lack one")
        return reader(file, header) if header else reader(file)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"dataset {dataset!r}: {file} is not UTF-8 (byte {error.start}, line {line})") from error
    except InputError as error:
        raise InputError(f"dataset {dataset!r}: {file}{error}") from error
    except (ValueError, OSError) as error:  # pyarrow and bz2 both raise some kind of these
        raise InputError(f"dataset {dataset!r}: cannot read {file}: {' '.join(str(error).split())[:200]}") from error


def _text(file: Path) -> str:
    content = file.read_bytes()
    if content.startswith(UTF_16):
        raise InputError(" is UTF-16: expected UTF-8")
    if b"\0" in content:
        raise InputError(" holds NUL bytes: expected text in UTF-8")
    return content.decode("utf-8-sig")


def _jsonl(file: Path) -> list[Row | Malformed]:
    return _json_lines(_text(file))


def _json_lines(text: str) -> list[Row | Malformed]:
    # Not splitlines(): JSON strings may hold the other separators Unicode calls line ends.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return [_json_row(line, f"line {number}") for number, line in lines]


def _json(file: Path) -> list[Row | Malformed]:
    """One array of objects, or an object a line as in JSONL; or SQuAD's own layout."""
    text = _text(file)
    if '"paragraphs"' in text and _is_json(text):
        return list(squad_rows(json.loads(text), file))
    if not text.lstrip().startswith("["):
        rows = _json_lines(text)
        if rows and all(isinstance(row, Malformed) for row in rows) and _is_json(text):
            raise InputError(": one JSON value over several lines: expected an array of objects, or one object a line")
        return rows
    return [_object(row, f"row {index}") for index, row in enumerate(_parsed(text))]


def _list_inside(file: Path, key: str) -> list[Row | Malformed]:
    """One list of a JSON object of lists; rows that are lists themselves have columns called 0, 1, .."""
    whole = _parsed(_text(file))
    lists = {name: rows for name, rows in whole if type(rows) is list} if isinstance(whole, _Pairs) else {}
    if key not in lists:
        raise InputError(f": no list {key!r} in it, expected one of {', '.join(lists) or 'none'}")
    return [_object(_numbered(row), f"row {index}") for index, row in enumerate(lists[key])]


def _numbered(row: Any) -> Any:
    return _Pairs((str(column), value) for column, value in enumerate(row)) if type(row) is list else row


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        raise InputError(f", line {error.lineno}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise InputError(": nested too deeply") from error


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_row(line: str, place: str) -> Row | Malformed:
    try:
        row = _DECODER.decode(line)
    except json.JSONDecodeError as error:
        array = " (an array belongs in a .json file)" if line.lstrip().startswith("[") else ""
        return Malformed(place, f"not JSON: {error.msg}{array}")
    except (ValueError, RecursionError) as error:  # a number of too many digits, brackets without end
        return Malformed(place, f"not JSON that can be read: {error}")
    return _object(row, place)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object before its keys become those of a dictionary, where the last of two would win."""


_DECODER = json.JSONDecoder(object_pairs_hook=_Pairs)


def _object(value: Any, place: str) -> Row | Malformed:
    if not isinstance(value, _Pairs):
        return Malformed(place, f"expected an object, found {json.dumps(value, default=list)[:40]}")
    try:
        return _fields(value)
    except InputError as error:
        return Malformed(place, str(error))


def _fields(pairs: _Pairs, inside: str = "") -> Row:
    """A JSON object as a dictionary, its texts checked. Most are ASCII, and then nothing is searched."""
    found: Row = {}
    for key, value in pairs:
        if key in found or not (key.isascii() or _LONE.search(key) is None):
            raise InputError(f"the field {key!r} {'stands twice' if key in found else 'holds a lone surrogate'}")
        found[key] = value if type(value) is str and value.isascii() else _plain(value, f"{inside}{key}")
    return found


def _plain(value: Any, field: str) -> Any:
    """A JSON value of plain dictionaries and lists, its texts checked."""
    if isinstance(value, str):
        if _LONE.search(value):
            raise InputError(f"field {field!r} holds a lone surrogate (half of a \\ud83d\\ude00 pair): no valid text")
        return value
    if isinstance(value, _Pairs):
        return _fields(value, f"{field}.")
    return [_plain(entry, field) for entry in value] if isinstance(value, list) else value


def _csv(file: Path, names: Sequence[str] = ()) -> list[Row | Malformed]:
    return _table(csv.reader(io.StringIO(_text(file), newline=""), strict=True), ",", names)


def _tsv(file: Path, names: Sequence[str] = ()) -> list[Row | Malformed]:
    """Tab-separated files as GLUE's: a quotation mark is a character like any other."""
    lines = csv.reader(io.StringIO(_text(file), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    return _table(lines, "\t", names)


def _table(reader: Any, separator: str, names: Sequence[str]) -> list[Row | Malformed]:
    """Rows of separated text under a header; blank lines do not count, and a column without a name is left out."""
    csv.field_size_limit(LONGEST_FIELD)
    header = list(names) or None  # given, or else the first line
    rows: list[Row | Malformed] = []
    try:
        for cells in reader:
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                continue
            if header is None:
                header = _header(cells, separator)
            elif len(cells) != len(header):
                found = f"{len(cells)} field{'s' if len(cells) > 1 else ''}, expected the header's {len(header)}"
                rows.append(Malformed(f"row {len(rows)} (line {reader.line_num})", found))
            else:
                rows.append({name: cell for name, cell in zip(header, cells, strict=True) if name})
    except csv.Error as error:
        hint = "a quotation mark inside quotes is written twice"
        raise InputError(f", row {len(rows)} (line {reader.line_num}): {error} ({hint})") from error
    if header is None:
        raise InputError(" is empty: expected a header and rows")
    return rows


def _header(cells: list[str], separator: str) -> list[str]:
    _no_column_twice(cells)
    other = next((candidate for candidate in ";\t|," if candidate != separator and candidate in cells[0]), None)
    if len(cells) == 1 and other:
        raise InputError(f": only one column, {cells[0]!r}: fields are separated by {separator!r}, not by {other!r}")
    return cells


def _no_column_twice(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name and name in seen:
            raise InputError(f": the column {name!r} stands twice")
        seen.add(name)


def _parquet(file: Path) -> list[Row | Malformed]:
    table = pyarrow.parquet.ParquetFile(file).read()  # not read_table: that takes folders called a=b for columns
    _no_column_twice(table.column_names)
    rows: list[Row | Malformed] = table.to_pylist()
    return rows


def _hyperpartisan(file: Path) -> list[Row | Malformed]:
    return [*hyperpartisan_rows(file)]


def _sst(file: Path) -> list[Row | Malformed]:
    """A label, a blank and a sentence a line, as SST has circulated since Kim (2014)."""
    rows: list[Row | Malformed] = []
    for number, line in enumerate(_text(file).split("\n"), start=1):
        label, blank, sentence = line.partition(" ")
        if blank and label.isdigit():
            rows.append({"label": label, "sentence": sentence})
        elif line.strip():
            rows.append(Malformed(f"line {number}", f"expected a label and a sentence, found {line[:40]!r}"))
    return rows


def _hellaswag(file: Path) -> list[Row | Malformed]:
    return [*rows_of_text(bz2.decompress(file.read_bytes()).decode("utf-8"))]


READERS: dict[str, Callable[..., list[Row | Malformed]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".txt.bz2": _hellaswag,
    ".txt": _jsonl,  # as SciBERT's repository calls such files
    ".xml": _hyperpartisan,
    ".binary.train": _sst,
}
"""From a file's suffix to its reader."""
