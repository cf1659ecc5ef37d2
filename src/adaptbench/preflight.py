"""Everything outside this program that a run needs, tried before the first model is loaded.

A full disk, a folder that cannot be written, a missing package, device, model or key must not be found out when the
work is done, nor that a method cannot attach to a model when the cells before it have run. Two packages are missed even
earlier: PEFT when a configuration is resolved (`HuggingFacePeft.check`), and the hub's when data are read
(`runner.prepare_cell`).
"""

import multiprocessing
import os
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

from adaptbench.costs.storage import stored_bytes
from adaptbench.disk import nearest, too_little
from adaptbench.errors import InputError
from adaptbench.models.at_hand import check_at_hand
from adaptbench.models.backbone import (
    Backbone,
    load_config,
    meta_backbone,
    pick_device,
)
from adaptbench.models.checks import check_loadable
from adaptbench.models.encoders import check_encoder, meta_encoder
from adaptbench.models.identity import content_id
from adaptbench.models.paths import resolve_path
from adaptbench.models.placement import placement
from adaptbench.pretraining.provenance import check_provenance
from adaptbench.schema import Config
from adaptbench.tasks import task_type
from adaptbench.tracking import check_tracking

PROBE = 2**20  # bytes written to see whether there is room: more than the files of a small run
KINDS = ("records", "predictions", "prompts", "adapters", "failures", "tracked")

_sizes: dict[str, int] = {}  # method and model -> bytes that one run stores


def preflight(config: Config, waiting: int) -> int:
    """Try what a cell needs from outside. Cells that need the same share one try in a process.

    Args:
        waiting: how many runs of the cell are still to be done; without any, only a tracker has something to do.

    Returns:
        Bytes that the adapters of these runs will take in the folder of results.

    Raises:
        InputError: what is missing, and the setting that wants it.
    """
    tracking, kept = config.tracking, 0
    if waiting:
        if problem := config.method.missing_files():
            raise InputError(problem)
        _output(config.output, os.getcwd())
        bytes_per_run = bytes_of_a_run(config)
        check_room(Path(config.output), bytes_per_run * (waiting if config.keep_adapters else 1), "output")
        kept = bytes_per_run * waiting if config.keep_adapters else 0
    if multiprocessing.parent_process() is None:  # a worker's parent has tried; an outage later must cost no result
        _tracking(tracking.name, tracking.project, tracking.mode)
    return kept


@lru_cache(maxsize=256)
def _output(folder: str, _working_directory: str) -> None:
    check_output(Path(folder), "output")


def check_output(folder: Path, setting: str) -> None:
    """Write a little where results will go, and take it away again; nothing is created that was not there.

    Raises:
        InputError: the folder is a file, or files cannot be written into it.
    """
    try:
        for place in dict.fromkeys(nearest(path) for path in (folder, *(folder / kind for kind in KINDS))):
            if not place.is_dir():
                raise InputError(f"{setting}={str(folder)!r}: {place} is a file, expected a folder")
            _probe(place)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{setting}={str(folder)!r}: cannot be written: {reason}") from None


def check_room(folder: Path, needed: int, setting: str) -> None:
    """Compare what runs will leave with the room there is.

    Raises:
        InputError: the disk is too small for it.
    """
    if (free := too_little(folder, needed)) is not None:
        raise InputError(
            f"{setting}={str(folder)!r}: what these runs store takes {needed / 1e6:,.0f} MB, and "
            f"{free / 1e6:,.0f} MB are free; keep_adapters=false keeps no adapter"
        )


def _probe(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe") as file:
        file.write(bytes(PROBE))
        file.flush()
        os.fsync(file.fileno())


def bytes_of_a_run(config: Config) -> int:
    """Bytes that a run of the cell's method stores on its model, for which both are put together without weights.

    Raises:
        InputError: the model cannot be had, or the method does not fit it.
    """
    model = config.model
    if config.device == "meta":
        raise InputError("device='meta': has no numbers, expected auto, cpu, cuda or another accelerator")
    device = pick_device(config.device)
    check_provenance(model)
    content = content_id(resolve_path(model.path), model.revision)
    backbone = _model(
        model.name,
        model.path,
        model.revision,
        content,
        model.dtype,
        model.max_length,
        model.device_map,
        model.quantization,
        device,
        task_type(config.dataset).bare,
    )
    key = repr((config.method, model, content, task_type(config.dataset)))
    if key not in _sizes:
        _sizes[key] = _stored(config, backbone) if backbone is not None else 0
    return _sizes[key]


@lru_cache(maxsize=16)
def _model(
    name: str,
    path: str,
    revision: str | None,
    content: str | None,
    dtype: str,
    max_length: int | None,
    device_map: str | None,
    quantization: str,
    device: str,
    bare: bool,
) -> Backbone | None:
    """The model without its weights, once its packages, configuration, tokenizer and files have been found.

    A hub that cannot be reached is known before another model has run.
    """
    placement(device_map, quantization, getattr(torch, dtype), torch.device(device))
    source = resolve_path(path)
    local = Path(source).exists()
    if revision is not None and content is None and not local:
        raise InputError(f"model.revision={revision!r}: not in the cache, and the hub has none or cannot be reached")
    pinned = None if local else content
    config = load_config(path, pinned)
    if bare:
        check_encoder(config, f"model.path={path!r}", dtype, max_length)
    else:
        check_loadable(config, path, dtype, max_length)
    check_at_hand(source, pinned, f"model.path={path!r}")
    try:
        return (meta_encoder if bare else meta_backbone)(name, path, dtype, revision=pinned)
    except Exception:  # some architectures cannot be built without numbers; that is no fault of the input
        return None


def _stored(config: Config, backbone: Backbone) -> int:
    method = config.method
    method.check_model(backbone)
    try:
        adaptation = method.prepare(backbone, seeds=[0]).to_task(task_type(config.dataset))
        return stored_bytes(method, adaptation, context=0)
    except InputError as error:
        if error.__cause__ is not None and "meta" in str(error.__cause__):
            return 0  # a tuner of PEFT that reads the weights while it attaches: only the real model can say
        raise
    except Exception:  # as above
        return 0


@lru_cache(maxsize=16)
def _tracking(name: str, project: str, mode: str) -> None:
    check_tracking(name, project, mode)
