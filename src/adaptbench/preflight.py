"""Everything outside this program that a run needs, tried before the first model is loaded.

A full disk, a folder that cannot be written, a missing package, device, model or key must not be found out when the
work is done. Two packages are missed even earlier: PEFT when a configuration is resolved (`HuggingFacePeft.check`),
and the hub's when data are read (`runner.prepare_cell`).
"""

import multiprocessing
import os
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

from adaptbench.config import Config
from adaptbench.errors import InputError
from adaptbench.models.backbone import check_scores, load_config, pick_device
from adaptbench.models.placement import placement
from adaptbench.tracking import check_tracking

PROBE = 2**20  # bytes written to see whether there is room: more than the files of a small run
KINDS = ("records", "predictions", "prompts", "adapters", "failures", "tracked")


def preflight(config: Config, waiting: bool = True) -> None:
    """Try what a cell needs from outside. Cells that need the same share one try in a process.

    Args:
        waiting: whether any run of the cell is still to be done; without one, only a tracker has something to do.

    Raises:
        InputError: what is missing, and the setting that wants it.
    """
    model, tracking = config.model, config.tracking
    if waiting:
        if problem := config.method.missing():
            raise InputError(problem)
        _output(config.output, os.getcwd())
        device = pick_device(config.device)
        _model(model.path, model.dtype, model.device_map, model.quantization, device)
    if multiprocessing.parent_process() is None:  # a worker's parent has tried; an outage later must cost no result
        _tracking(tracking.name, tracking.project, tracking.mode)


@lru_cache(maxsize=256)
def _output(folder: str, _working_directory: str) -> None:
    check_output(Path(folder), "output")


def check_output(folder: Path, setting: str) -> None:
    """Write a little where results will go, and take it away again; nothing is created that was not there.

    Raises:
        InputError: the folder is a file, or files cannot be written into it.
    """
    try:
        for place in dict.fromkeys(_nearest(one) for one in (folder, *(folder / kind for kind in KINDS))):
            if not place.is_dir():
                raise InputError(f"{setting}={str(folder)!r}: {place} is a file, expected a folder")
            _probe(place)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{setting}={str(folder)!r}: cannot be written: {reason}") from None


def _nearest(path: Path) -> Path:
    """The path itself where it exists, else its nearest ancestor that does."""
    path = Path(os.path.abspath(path))
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def _probe(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe") as file:
        file.write(bytes(PROBE))
        file.flush()
        os.fsync(file.fileno())


@lru_cache(maxsize=256)
def _model(path: str, dtype: str, device_map: str | None, quantization: str, device: str) -> None:
    """Its packages, and its configuration: a hub that cannot be reached is known before another model has run."""
    placement(device_map, quantization, getattr(torch, dtype), torch.device(device))
    check_scores(load_config(path), f"model.path={path!r}")


@lru_cache(maxsize=16)
def _tracking(name: str, project: str, mode: str) -> None:
    check_tracking(name, project, mode)
