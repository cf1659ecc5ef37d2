"""A folder that is there with all its files or not at all, whenever a training that writes it is killed."""

import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

from adaptbench.errors import InputError
from adaptbench.models.paths import PROVENANCE


def check_replaceable(folder: Path, setting: str) -> None:
    """Refuse a folder that a new one cannot take the place of, before anything is computed.

    Raises:
        InputError: it is a mount point, or holds files and is no earlier output.
    """
    if os.path.ismount(folder):
        raise InputError(f"{setting}={str(folder)!r}: a mount point, expected a folder inside it")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / PROVENANCE).exists():
        raise InputError(
            f"{setting}={str(folder)!r}: holds files and no {PROVENANCE}: no earlier output, expected a new folder"
        )


def replace_folder(folder: Path, write: Callable[[Path], object]) -> Path | None:
    """Write a folder beside the place where it belongs, and rename it once all of it is on the disk.

    Args:
        write: writes all files into the folder that it is given.

    Returns:
        Where an earlier folder is kept that held files which the new one has not; None if nothing is lost without it.
    """
    place = folder.resolve()
    partial, earlier = (place.with_name(f".{place.name}.{what}") for what in ("partial", "earlier"))
    place.parent.mkdir(parents=True, exist_ok=True)
    if earlier.exists() and not place.exists():  # killed between the two renames
        earlier.rename(place)
    kept = _kept(earlier, place)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        write(partial)
        for path in (*partial.rglob("*"), partial):
            sync(path)
        if place.exists():
            place.rename(earlier)
        partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync(place.parent)
    return _kept(earlier, place) or kept


def sync(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems do not do so for folders
            raise
    finally:
        os.close(descriptor)


def _kept(earlier: Path, place: Path) -> Path | None:
    """Take away a folder that has been replaced, but for one with files that its successor has not: that is renamed."""
    if not earlier.exists():
        return None
    if {path.relative_to(earlier) for path in earlier.rglob("*")} <= {
        path.relative_to(place) for path in place.rglob("*")
    }:
        shutil.rmtree(earlier)
        return None
    names = (place.with_name(f"{place.name}.earlier{number or ''}") for number in count())
    kept = next(path for path in names if not path.exists())
    earlier.rename(kept)
    return kept
