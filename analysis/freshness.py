"""Tells whether a report is up to date with its records, so that it is not drawn again where nothing changed."""

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import adaptbench

STAMP = ".report.json"
INPUTS = ("records/*.json", "failures/*.json", "predictions/*.parquet", "*.jsonl.gz", "outcomes.parquet")
OUTPUTS = ("report.html", "tables/*", "figures/*")
CODE = (Path(__file__).parent, Path(adaptbench.__file__).parent)
LIBRARIES = ("matplotlib", "numpy", "pandas", "scipy", "jinja2")


def read_stamp(folder: Path) -> str | None:
    """What the report of this folder printed when it was made; None where it has to be made (again)."""
    try:
        stamp: dict[str, Any] = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        unchanged = stamp["inputs"] == inputs(folder) and stamp["outputs"] == fingerprint(folder, OUTPUTS)
        return str(stamp["printed"]) if unchanged else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_stamp(folder: Path, made_from: str, printed: str) -> None:
    """Remembers what the report just written was made from (`inputs`, taken before it was made) and what it printed."""
    stamp = {"inputs": made_from, "outputs": fingerprint(folder, OUTPUTS), "printed": printed}
    (folder / STAMP).write_text(json.dumps(stamp), encoding="utf-8")


def inputs(folder: Path) -> str:
    """A hash of all that a report follows from: records, predictions, our code, and the libraries that draw it."""
    code = "".join(fingerprint(root, ("**/*.py", "published/*", "templates/*")) for root in CODE)
    versions = [version(library) for library in LIBRARIES]
    return hashlib.sha256(repr((fingerprint(folder, INPUTS), code, versions)).encode()).hexdigest()


def fingerprint(folder: Path, patterns: Iterable[str]) -> str:
    """A hash of the names, sizes and times of files; their content would take longer than the report's tables."""
    found = []
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}):
        status = path.stat()
        found.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(repr(found).encode()).hexdigest()
