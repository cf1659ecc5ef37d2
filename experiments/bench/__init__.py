"""Speed claims, measured side by side."""

import json
from pathlib import Path
from typing import Any

from adaptbench import provenance
from adaptbench.record import now
from experiments.commandline import IN_REPOSITORY

# The repository keeps its own numbers beside the programs; an installed package writes nothing into itself.
RESULTS = Path(__file__).parent / "results" if IN_REPOSITORY else Path("outputs/bench")


def write_results(folder: Path, name: str, content: dict[str, Any]) -> None:
    """What was measured, with the machine and the code that it was measured on."""
    origin = {"versions": provenance.versions(), "hardware": provenance.hardware(), "git": provenance.git()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({**content, **origin, "at": now()}, indent=1) + "\n")
