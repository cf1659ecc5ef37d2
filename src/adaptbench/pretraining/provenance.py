"""What a model folder says of the pre-training that made it: a bill of its own, beside that of adapting the model."""

import json
from pathlib import Path
from typing import Any

from adaptbench.models.paths import resolve_path

FILE = "provenance.json"
BILLED = ("flops", "seconds", "storage_bytes", "tokens")


def pretraining_of(path: str) -> dict[str, Any] | None:
    """The continued pre-training that made a model folder; None for any other folder, and for a hub id.

    Args:
        path: what `model.path` says.

    Returns:
        `objective`, `start` (the model it continued from), `corpus` (names), `flops`, `seconds`, `storage_bytes`,
        `tokens`, and `before`: the same of its start, whose own bill is not part of this one.
    """
    file = Path(resolve_path(path)) / FILE
    if not file.is_file():
        return None
    said = json.loads(file.read_text())
    if "objective" not in said or "bill" not in said:
        return None
    return {
        "objective": said["objective"],
        "start": said["start"]["model"],
        "corpus": said["corpus"]["names"],
        **{name: said["bill"][name] for name in BILLED},
        "before": said["start"]["pretraining"],
    }
