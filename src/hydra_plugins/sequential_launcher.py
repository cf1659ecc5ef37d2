"""Hydra plugins for sweeps: cells run by model, so that it is loaded once; bad input is found before anything runs.

Hydra's own launcher knows neither which cells of a grid belong to an experiment nor how much work is left, and its
sweeper composes every cell once more than needed. (The package's name is Hydra's: it accepts plugins from here only.)
"""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, run_job, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict


@dataclass
class SequentialLauncherConfig:
    _target_: str = "hydra_plugins.sequential_launcher.SequentialLauncher"
    workers: int = 1  # processes that run cells at the same time; each loads its own model


@dataclass
class GridSweeperConfig:
    _target_: str = "hydra_plugins.sequential_launcher.GridSweeper"
    max_batch_size: int | None = None
    params: dict[str, Any] = field(default_factory=dict)


_store = ConfigStore.instance()
_store.store(group="hydra/launcher", name="sequential", node=SequentialLauncherConfig, provider="adaptbench")
_store.store(group="hydra/sweeper", name="grid", node=GridSweeperConfig, provider="adaptbench")


class GridSweeper(BasicSweeper):
    """Hydra's grid, without composing every cell to see whether it can be: a launcher that checks does that."""

    def sweep(self, arguments: list[str]) -> Any:
        from adaptbench.preflight import check_output

        assert self.config is not None
        check_output(Path(self.config.output), "output")  # before Hydra writes its multirun.yaml there
        return super().sweep(arguments)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        if not isinstance(self.launcher, SequentialLauncher):
            super().validate_batch_is_legal(batch)


class SequentialLauncher(BasicLauncher):
    """Drops the cells outside the experiment, checks all others, then runs them, one per worker at a time."""

    def __init__(self, workers: int = 1):
        super().__init__()
        self.workers = workers

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from adaptbench.config import resolve
        from adaptbench.preflight import check_room, preflight
        from adaptbench.runner import prepare_cell
        from experiments.cells import run_in_parallel
        from experiments.progress import announce, sweep_progress

        assert self.hydra_context is not None
        assert self.config is not None
        assert self.task_function is not None
        setup_globals()
        entries: Any = OmegaConf.to_object(self.config.cells)
        wanted = sorted(
            (overrides for overrides in job_overrides if belongs(overrides, entries)),
            key=lambda overrides: first_entry(overrides, entries),
        )
        composed = [self._compose(overrides, initial_job_idx + i) for i, overrides in enumerate(wanted)]
        configs = [resolve(without_hydra(cell)) for cell in composed]
        checked = [prepare_cell(config) for config in configs]
        needed: Counter[str] = Counter()
        for one in checked:
            if not one.config.dry_run:
                needed[one.config.output] += preflight(one.config, one.missing)
        for output, size in needed.items():
            check_room(Path(output), size, "output")
        runs, show = sum(len(config.seeds) for config in configs), all(config.progress for config in configs)
        if show:
            announce(configs, sum(cell.missing for cell in checked))
        if self.workers > 1:
            with sweep_progress(runs, show) as bar:
                for finished in run_in_parallel([without_hydra(cell) for cell in composed], self.workers):
                    bar.update(finished)
            return []
        results = []
        with sweep_progress(runs, show):
            for cell in composed:
                results.append(
                    run_job(
                        hydra_context=self.hydra_context,
                        task_function=self.task_function,
                        config=cell,
                        job_dir_key="hydra.sweep.dir",
                        job_subdir_key="hydra.sweep.subdir",
                    )
                )
        return results

    def _compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        assert self.hydra_context is not None
        assert self.config is not None
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        return composed


def without_hydra(composed: DictConfig) -> DictConfig:
    """What the task function will see."""
    config = copy.deepcopy(composed)
    with open_dict(config):
        del config["hydra"]
    return config


def belongs(overrides: Sequence[str], entries: Sequence[dict[str, Any]]) -> bool:
    """Whether a cell of the grid is part of its experiment: it matches one entry of `cells`, or there is none."""
    return not entries or first_entry(overrides, entries) < len(entries)


def first_entry(overrides: Sequence[str], entries: Sequence[dict[str, Any]]) -> int:
    """Position of the first entry of `cells` that a cell matches (entries are run in their order); else their number.

    Only what the sweep varies can be outside: a group the overrides do not name matches every entry.
    """
    chosen = dict(one.split("=", 1) for one in overrides if "=" in one)
    for position, entry in enumerate(entries):
        if all(chosen.get(group, allowed[0]) in allowed for group, allowed in entry.items()):
            return position
    return len(entries)
