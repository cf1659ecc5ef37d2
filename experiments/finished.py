"""What the programs that read finished runs share: the folder of an experiment, and its records."""

import sys
from pathlib import Path
from typing import Any

from adaptbench.errors import InputError
from analysis.collect import ReportError, read_all, validate


def experiment_folder(about: str) -> Path | None:
    """The one argument of such a program, outputs/<experiment>; None once help has been printed.

    Raises:
        InputError: not one argument, or no folder of that name.
    """
    given = sys.argv[1:]
    if {"-h", "--help"} & set(given):
        print(about)
        return None
    if len(given) != 1 or given[0].startswith("-"):
        found = " ".join(given) or "nothing"
        raise InputError(f"expected one argument, outputs/<experiment>, found {found} (see --help)")
    folder = Path(given[0])
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected outputs/<experiment>")
    return folder


def finished(folder: Path) -> list[dict[str, Any]]:
    """The records of an experiment of the newest schema, sorted by their ids.

    Raises:
        InputError: names a file that is no record.
    """
    try:
        found = [validate(record, path) for record, path in read_all(folder, "records")]
    except ReportError as error:
        raise InputError(str(error)) from None
    newest = max((record["schema"] for record in found), default=None)
    return [record for record in found if record["schema"] == newest]
