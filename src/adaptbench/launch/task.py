"""What Hydra calls for a cell, wherever its launcher runs it."""

from dataclasses import dataclass, field

from omegaconf import DictConfig

from adaptbench.launch.cells import run_composed
from adaptbench.launch.outcome import Outcome


@dataclass
class Task:
    """Hydra's task function: from a composed configuration to an outcome.

    Hydra drops what the function of a single run returns, so outcomes are kept here. A sweep sets those of all its
    cells, which may have run in other processes.
    """

    outcomes: list[Outcome] = field(default_factory=list)

    def __call__(self, composed: DictConfig) -> Outcome:
        outcome = run_composed(composed)
        self.outcomes.append(outcome)
        return outcome
