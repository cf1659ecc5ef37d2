"""Mirrors finished records to Weights & Biases, if asked. The files remain the record.

What has been mirrored is remembered on disk, one small file for each run, so whatever could not be mirrored, or was
finished before a tracker was asked for, is caught up by the next call.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from adaptbench.errors import InputError, one_line
from adaptbench.record import RunRecord
from adaptbench.schema import TrackingConfig

SECONDS = 60.0  # to wait for the service, once; after that it counts as out of reach

# Tracker -> why it could not be reached. Runs are no longer sent there from this process: each would wait in vain.
out_of_reach: dict[str, str] = {}


class Tracker(Protocol):
    """Is told of every finished run, also of one that it has been told of before. Never raises."""

    def log(self, record: RunRecord) -> None: ...


class NoTracker:
    def log(self, record: RunRecord) -> None:
        pass


class WandbTracker:
    """One wandb run per record, its id the run_id, grouped by cell (model and dataset)."""

    def __init__(self, config: TrackingConfig, folder: Path):
        self._config = config
        self._folder = folder
        self._mirrored = folder / "tracked" / "wandb" / quote(config.project, safe="") / config.mode

    def log(self, record: RunRecord) -> None:
        name = f"tracking=wandb ({self._config.mode})"
        marker, stamp = self._mirrored / record.run_id, str(record["provenance.finished"])
        try:
            if name in out_of_reach or (marker.is_file() and marker.read_text() == stamp):
                return
            self._mirror(record)
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.write_text(stamp)  # last: what was interrupted is mirrored again, under the same id
        except Exception as error:  # whatever a service does must not cost a result
            out_of_reach[name] = one_line(error)

    def _mirror(self, record: RunRecord) -> None:
        import wandb  # slow to import, and only needed here

        scalars = {
            key: value
            for key, value in record.values.items()
            if isinstance(value, int | float | str) and not key.startswith("provenance.")
        }
        run = wandb.init(
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
            settings=wandb.Settings(
                silent=True, init_timeout=SECONDS, finish_timeout=SECONDS, finish_timeout_raises=True
            ),
        )
        run.summary.update(scalars)
        run.finish()


def tracker(config: TrackingConfig, folder: Path) -> Tracker:
    """The tracker a configuration asks for."""
    return NoTracker() if config.name == "none" or config.mode == "disabled" else WandbTracker(config, folder)


def check_tracking(name: str, project: str, mode: str) -> None:
    """Try a tracker before anything is worth tracking.

    Raises:
        InputError: its package is missing, or its service refuses or cannot be reached.
    """
    if name == "none" or mode == "disabled":
        return
    try:
        wandb: Any = import_module("wandb")
    except Exception as error:
        hint = "pip install wandb" if find_spec("wandb") is None else f"it cannot be imported: {one_line(error)}"
        raise InputError(f"tracking=wandb needs the package wandb: {hint}") from error
    if not hasattr(wandb, "init"):  # a folder of that name in the current directory is no package
        raise InputError(f"tracking=wandb: {wandb!r} is not that package")
    if wrong := set(project) & set("/\\#?%:"):
        raise InputError(f"tracking.project={project!r}: W&B takes no {' '.join(sorted(wrong))} in a project's name")
    if mode != "online":
        return
    elsewhere = "or take tracking.mode=offline and `wandb sync` later"
    try:
        wandb.setup(wandb.Settings(silent=True))
        known = wandb.login(prompt=False, verify=True)
    except Exception as error:
        raise InputError(f"tracking.mode=online: {one_line(error)} ({elsewhere})") from error
    if not known:
        raise InputError(f"tracking.mode=online: no key; set WANDB_API_KEY or run `wandb login`, {elsewhere}")
