"""Composed cells, kept between calls: Hydra takes a quarter of a second for each, and most calls repeat the last one.

What is kept is what Hydra composed, before any of our checks, in the user's cache folder. Its name is a hash of all
that it follows from: the configuration's files, our code (defaults stand in dataclasses), versions, and overrides.
"""

import hashlib
import os
import pickle
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from omegaconf import DictConfig

import adaptbench
from adaptbench.config import as_config
from adaptbench.models.identity import cache_folder
from adaptbench.schema import Config

KEPT = 64  # sweeps
VARIABLE = re.compile(r"oc\.env:\s*(\w+)")


def compose_all(
    cells: Sequence[Sequence[str]],
    compose: Callable[[Sequence[str]], DictConfig],
    folders: Sequence[Path],
    common: Sequence[str],
) -> list[Config]:
    """Every cell's configuration as dataclasses, unchecked.

    Args:
        cells: the overrides of each.
        compose: from overrides to a composed configuration without Hydra's own part.
        folders: where the configuration's YAML files are.
        common: overrides that `compose` adds to every cell's.
    """
    path = _path(folders, [list(common), *map(list, cells)])
    if (kept := _read(path)) is not None:
        return kept
    configs = [as_config(compose(overrides)) for overrides in cells]
    _write(path, configs)
    return configs


def _path(folders: Sequence[Path], overrides: Sequence[Sequence[str]]) -> Path:
    """Where these cells are kept: named after all that they follow from, variables of the environment among it."""
    files = [file for folder in folders for file in sorted(folder.rglob("*.yaml"))]
    files += sorted(Path(adaptbench.__file__).parent.rglob("*.py"))
    found, read = hashlib.sha256(), set(VARIABLE.findall(repr(overrides)))
    for file in files:
        content = file.read_bytes()
        found.update(str(file).encode() + b"\0" + content + b"\0")
        if file.suffix == ".yaml":
            read |= set(VARIABLE.findall(content.decode(errors="replace")))
    versions = [sys.version, *map(version, ("hydra-core", "omegaconf"))]
    variables = {name: os.environ.get(name) for name in sorted(read)}
    found.update(repr((versions, variables, overrides)).encode())
    return cache_folder() / "composed" / f"{found.hexdigest()[:32]}.pickle"


def _read(path: Path) -> list[Config] | None:
    try:
        kept = pickle.loads(path.read_bytes())
        path.touch()  # the least recently used are dropped
    except Exception:  # whatever a damaged or foreign file can raise: it is composed again
        return None
    return kept


def _write(path: Path, configs: Sequence[Config]) -> None:
    """Whole or not at all; a cache that cannot be written is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            pickle.dump(list(configs), file)
        os.replace(temporary, path)
        for old in sorted(path.parent.glob("*.pickle"), key=os.path.getmtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        return
