"""Mirrors finished records to Weights & Biases, if asked. The files remain the record."""

from pathlib import Path
from typing import Protocol

from adaptbench.config import TrackingConfig
from adaptbench.record import RunRecord


class Tracker(Protocol):
    """Is told of every finished run."""

    def log(self, record: RunRecord) -> None: ...


class NoTracker:
    def log(self, record: RunRecord) -> None:
        pass


class WandbTracker:
    """One wandb run per record, its id the run_id, grouped by cell (model and dataset)."""

    def __init__(self, config: TrackingConfig, folder: Path):
        import wandb  # slow to import, and only needed here

        self._wandb = wandb
        self._config = config
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def log(self, record: RunRecord) -> None:
        scalars = {
            key: value
            for key, value in record.values.items()
            if isinstance(value, int | float | str) and not key.startswith("provenance.")
        }
        run = self._wandb.init(
            project=self._config.project,
            mode=self._config.mode,  # type: ignore[arg-type]
            dir=str(self._folder),
            id=record.run_id,
            resume="allow",
            reinit="create_new",
            name=f"{record['method']}-{record['dataset']}-{record['seed']}",
            group=f"{record['model']}-{record['dataset']}",
            job_type=record["method"],
            tags=[record["experiment"], record["method"]],
            config=record["provenance.config"],
            settings=self._wandb.Settings(silent=True),
        )
        run.summary.update(scalars)
        run.finish()


def tracker(config: TrackingConfig, folder: Path) -> Tracker:
    """The tracker a configuration asks for."""
    return WandbTracker(config, folder) if config.name == "wandb" else NoTracker()
