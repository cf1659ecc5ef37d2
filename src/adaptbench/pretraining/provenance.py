"""What a model folder says of the pre-training that made it: a bill of its own, beside that of adapting the model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adaptbench.errors import InputError, one_line
from adaptbench.models.paths import PROVENANCE, check_made, resolve_path
from adaptbench.schema import ModelConfig

FILE = PROVENANCE
DIGESTS = "corpus.sha256"  # beside it: what was read, see `held_out.py`
BILLED = ("flops", "seconds", "storage_bytes", "tokens")
HELD_OUT = ("column", "left_out", "left_out_sha256", "made_for", "digests_sha256")
AGAIN = "make the model again with python -m experiments.pretrain"


def pretraining_of(path: str) -> dict[str, Any] | None:
    """The continued pre-training that made a model folder; None for any other folder, and for a hub id.

    Args:
        path: what `model.path` says.

    Returns:
        `objective`, `start` (the model it continued from), `sha256` (of the weights it made), `corpus` (names) and
        `corpus_sha256`; `column`, `left_out`, `left_out_sha256` and `made_for`: which texts were read, how many were
        not, and for runs with which seeds, shots and development rows; `flops`, `seconds`, `storage_bytes`, `tokens`;
        and `before`: the same of its start, whose own bill is not part of this one.

    Raises:
        InputError: what its folder says of it cannot be read, or is incomplete.
    """
    folder = folder_of(path)
    if folder is None or not (folder / FILE).is_file():
        return None
    file = folder / FILE
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read: {one_line(error)}; {AGAIN}") from None
    if not _of_a_continued_one(said):
        return None
    try:
        stage = {
            "objective": said["objective"],
            "start": said["start"]["model"],
            "sha256": said["sha256"],
            "corpus": said["corpus"]["names"],
            "corpus_sha256": said["corpus"]["sha256"],
            **{name: said["corpus"][name] for name in HELD_OUT},
            **{name: said["bill"][name] for name in BILLED},
            "before": said["start"]["pretraining"],
        }
        whole = all(isinstance(part[name], int | float) for part in stages(stage) for name in BILLED)
    except KeyError as error:
        raise InputError(f"{file}: says nothing of {error.args[0]!r}; {AGAIN}") from None
    except TypeError:
        whole = False
    if not whole:
        raise InputError(f"{file}: not as experiments.pretrain writes it; {AGAIN}")
    return stage


def stages(pretraining: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A pre-training, the one before it, and so on."""
    while pretraining is not None:
        yield pretraining
        pretraining = pretraining["before"]


def check_provenance(model: ModelConfig) -> None:
    """Whether a model that is made here is there, and what it says of its pre-training whole: known before all else.

    Raises:
        InputError: what is missing.
    """
    check_made(model)
    pretraining, folder = pretraining_of(model.path), folder_of(model.path)
    if pretraining is None and model.fetch:
        raise InputError(f"model.path={model.path!r}: its {FILE} says nothing of a pre-training; {model.fetch}")
    if pretraining is not None and folder is not None and not (folder / DIGESTS).is_file():
        raise InputError(f"model.path={model.path!r}: without its {DIGESTS}; {model.fetch or AGAIN}")


def folder_of(path: str) -> Path | None:
    """The folder that `model.path` means, if it means one and it is there: files that hold a model say nothing more."""
    if Path(path).suffix == ".gguf":
        return None
    try:
        folder = Path(resolve_path(path))
    except InputError:  # not installed, not shipped: said where the model is looked for
        return None
    return folder if folder.is_dir() else None


def _of_a_continued_one(said: Any) -> bool:
    if not isinstance(said, dict):
        return False
    recipe = said.get("recipe")
    kind = recipe.get("kind") if isinstance(recipe, dict) else None
    return kind == "continued" or "objective" in said or "bill" in said
