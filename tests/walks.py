"""The walks of CONTRIBUTING.md: their files, as they stand there, put where they belong."""

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILE = re.compile(r"`([\w./]+)`:\n\n```\w+\n(.*?)```", re.DOTALL)


def section(heading: str) -> str:
    """The text under a heading."""
    return TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]


def write_files(heading: str, folder: Path) -> list[Path]:
    """Write every file of a section to its place below a folder."""
    paths = []
    for name, content in FILE.findall(section(heading)):
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text(content)
        paths.append(path)
    return paths


@contextmanager
def added(path: Path, registry: dict[str, object]) -> Iterator[None]:
    """Import the package of a file anew, as if the file lay in its folder; afterwards the registry is as it was."""
    package = importlib.import_module(f"adaptbench.{path.parent.name}")
    before, folders = dict(registry), package.__path__
    package.__path__ = [*folders, str(path.parent)]
    try:
        exec(compile(Path(str(package.__file__)).read_text(), str(package.__file__), "exec"), vars(package))
        yield
    finally:
        package.__path__ = folders
        registry.clear()
        registry.update(before)
        sys.modules.pop(f"{package.__name__}.{path.stem}", None)
        vars(package).pop(path.stem, None)
