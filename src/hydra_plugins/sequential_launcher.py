"""Hydra launcher for sweeps in one process: the model is loaded once, and bad input is found before anything runs.

Hydra's own launcher knows neither which cells of a grid belong to an experiment nor how much work is left.
(The package's name is Hydra's: it only accepts plugins from here.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from omegaconf import open_dict


@dataclass
class SequentialLauncherConfig:
    _target_: str = "hydra_plugins.sequential_launcher.SequentialLauncher"


ConfigStore.instance().store(
    group="hydra/launcher", name="sequential", node=SequentialLauncherConfig, provider="adaptbench"
)


class SequentialLauncher(BasicLauncher):
    """Checks all cells of a sweep, drops those outside the experiment, then runs the rest one after the other."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from adaptbench.config import Config, resolve
        from adaptbench.runner import prepare_cell
        from experiments.progress import sweep_progress

        assert self.hydra_context is not None
        assert self.config is not None
        wanted: list[tuple[Sequence[str], Config]] = []
        for overrides in job_overrides:
            composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(composed):
                del composed["hydra"]
            config = resolve(composed)
            if belongs(config):
                prepare_cell(config)
                wanted.append((overrides, config))
        runs = sum(len(config.seeds) for _, config in wanted)
        show = all(config.progress for _, config in wanted)
        with sweep_progress(runs, show):
            return super().launch([overrides for overrides, _ in wanted], initial_job_idx)


def belongs(config: Any) -> bool:
    """Whether a cell of the grid is part of its experiment: it matches one entry of `cells`, or there is none."""
    names = {"method": config.method.name, "model": config.model.name, "dataset": config.dataset.name}
    return not config.cells or any(
        all(names[group] in allowed for group, allowed in entry.items()) for entry in config.cells
    )
