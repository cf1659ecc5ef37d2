"""Speed claims, measured side by side."""

from pathlib import Path

from experiments.commandline import IN_REPOSITORY

# The repository keeps its own numbers beside the programs; an installed package writes nothing into itself.
RESULTS = Path(__file__).parent / "results" if IN_REPOSITORY else Path("outputs/bench")
