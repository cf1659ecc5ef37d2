"""Room on disks."""

import os
import shutil
from pathlib import Path


def nearest(path: Path) -> Path:
    """The path itself where it exists, else its nearest ancestor that does.

    Raises:
        OSError: a name that the file system does not take.
    """
    path = Path(os.path.abspath(path))
    while path != path.parent:
        try:
            path.lstat()
            break
        except (FileNotFoundError, NotADirectoryError):
            path = path.parent
    return path


def too_little(folder: Path, needed: int) -> int | None:
    """The free bytes where a folder is, or will be, if they are fewer than needed; None if they are enough."""
    usage = shutil.disk_usage(nearest(folder))
    if usage.total and usage.free < needed:  # some file systems do not say, and have a total of zero
        return usage.free
    return None
