"""Hydra plugins for sweeps, a thin face on `adaptbench.launch`.

The sweeper decides which cells of a grid there are and checks them all, whatever the launcher; Hydra's own would
compose every cell just to see whether it can. (The package's name is Hydra's: it accepts plugins from here only.)
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
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


class SequentialLauncher(BasicLauncher):
    """Cells run on this machine: `GridSweeper` does it; under other sweepers, one after the other as Hydra does."""

    def __init__(self, workers: int = 1):
        super().__init__()
        self.workers = workers


class GridSweeper(BasicSweeper):
    """The cells of a grid that belong to the experiment, composed and checked before any of them is launched."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.task = task_function

    def sweep(self, arguments: list[str]) -> Any:
        from adaptbench.errors import InputError
        from adaptbench.launch.check import check_cells
        from adaptbench.launch.compositions import compose_all
        from adaptbench.launch.grid import belonging, check_entries
        from adaptbench.launch.sweep import run_elsewhere, run_here
        from adaptbench.preflight import check_output

        assert self.config is not None
        assert self.launcher is not None
        check_output(Path(self.config.output), "output")  # before anything is written there
        overrides = self._overrides(arguments)
        (grid,) = self.split_arguments(overrides, None)
        entries = check_entries(OmegaConf.to_object(self.config.cells), lambda group: self._options(group, overrides))
        wanted = [list(cell) for cell in belonging(grid, entries)]
        if not wanted:
            raise InputError("cells: none of the cells that were asked for belongs to this experiment")
        cells = check_cells(compose_all(wanted, self._compose, self._folders(), self.config.hydra.overrides.hydra))
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        if isinstance(self.launcher, SequentialLauncher):
            outcome = run_here(cells, self.launcher.workers)
        else:
            outcome = run_elsewhere(cells, lambda: self._launched(wanted))
        self.task.outcomes = [outcome]
        return outcome

    def _overrides(self, arguments: list[str]) -> list[Override]:
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return parser.parse_overrides([*self._parse_config(), *arguments])

    def _options(self, group: str, overrides: Sequence[Override]) -> list[str] | None:
        """What a group can be, or what a single setting is swept over; None where it is neither."""
        assert self.hydra_context is not None
        options = list(self.hydra_context.config_loader.get_group_options(group))
        swept = [value for override in overrides if override.get_key_element() == group for value in _values(override)]
        return options or swept or None

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        assert self.hydra_context is not None
        assert self.config is not None
        return without_hydra(self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides)))

    def _folders(self) -> list[Path]:
        assert self.hydra_context is not None
        paths = [source.path for source in self.hydra_context.config_loader.get_search_path().get_path()]
        return [Path(path.removeprefix("file://")) for path in paths if path and "pkg://" not in path]

    def _launched(self, cells: Sequence[Sequence[str]]) -> Iterator[Any]:
        """Outcomes of cells that a launcher runs somewhere, so many at a time as it was told."""
        assert self.launcher is not None
        size = self.max_batch_size or len(cells)
        for start in range(0, len(cells), size):
            for job in self.launcher.launch(cells[start : start + size], initial_job_idx=start):
                yield job.return_value  # raises what the job raised


def _values(override: Override) -> Iterable[str]:
    return override.sweep_string_iterator() if override.is_sweep_override() else [override.get_value_element_as_str()]


def without_hydra(composed: DictConfig) -> DictConfig:
    """What the task function will see."""
    config = copy.deepcopy(composed)
    with open_dict(config):
        del config["hydra"]
    return config
