"""What `model.path` may say, and where that is on this machine."""

import os
from pathlib import Path

from adaptbench.errors import InputError
from adaptbench.models.gguf import dequantised
from adaptbench.models.identity import cache_folder
from adaptbench.schema import ModelConfig

SHIPPED = Path(__file__).parent.parent / "microworld" / "weights"
INSTALLED = "installed:"
PROVENANCE = "provenance.json"  # what a model that was made here says of itself


def resolve_path(path: str) -> str:
    """The folder that a model is loaded from, or its hub id.

    Args:
        path: a folder; a `.gguf` file, which is dequantised the first time; a hub id; `microworld:<name>`, the model of
            that name shipped with the package; or `installed:<path>`, below the folder of installed models.

    Raises:
        InputError: a model that is not shipped or not installed, or a file that cannot be read.
    """
    if path.startswith("microworld:"):
        folder = SHIPPED / path.removeprefix("microworld:")
        if not folder.is_dir():
            raise InputError(f"model.path={path!r}: no such shipped model; run `make pretrain`")
        return str(folder)
    if path.startswith(INSTALLED):
        place = models_folder() / path.removeprefix(INSTALLED)
        if not place.exists():
            raise InputError(f"model.path={path!r}: {place} is not there; `make models` installs it")
    else:
        place = Path(path).expanduser()
    if place.suffix == ".gguf" and not place.is_dir():
        if not place.is_file():
            raise InputError(f"model.path={path!r}: no such file")
        return str(dequantised(place))
    return str(place) if place.is_dir() else path


def models_folder() -> Path:
    """Where packages with models are installed: `$ADAPTBENCH_MODELS`, else in the user's cache."""
    return Path(os.environ.get("ADAPTBENCH_MODELS") or cache_folder() / "models").expanduser()


def stand_in(local: str | None) -> str | None:
    """The path of an installed model that serves in place of a hub id; None where it is not installed."""
    return f"{INSTALLED}{local}" if local and (models_folder() / local).exists() else None


def check_made(model: ModelConfig) -> None:
    """Whether a model that is made here is there, with what it says of itself: without that nobody knows what it cost.

    Raises:
        InputError: says how it is made.
    """
    if not model.fetch:
        return
    folder = Path(resolve_path(model.path))
    if not folder.exists():
        raise InputError(f"model.path={model.path!r}: not there; {model.fetch}")
    if not (folder / PROVENANCE).is_file():
        raise InputError(f"model.path={model.path!r}: without its {PROVENANCE}; {model.fetch}")
