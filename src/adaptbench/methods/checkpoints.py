"""Adapters from disk: those a run has stored, and the T-Few paper's official checkpoint. No pickle is ever executed."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from adaptbench.errors import InputError
from adaptbench.methods.base import METHODS, Adaptation, Method
from adaptbench.methods.fish_mask import FishMask
from adaptbench.methods.ia3 import IA3
from adaptbench.methods.released import released_vectors
from adaptbench.models.backbone import Backbone


def load_adapter(folder: Path, backbone: Backbone) -> tuple[Method, Adaptation]:
    """The method and the adaptation that a run has stored in `adapters/<run_id>/`.

    Raises:
        InputError: no adapter there, or one that does not fit the model.
    """
    settings = read_json(folder / "adapter_config.json")
    method_class = METHODS.get(settings.get("kind", ""))
    if method_class is None or not (folder / "adapter.safetensors").is_file():
        raise InputError(f"{folder}: no stored adapter of a method known here")
    known = {field.name for field in fields(method_class)} - {"pretrained"}  # the stored vectors are complete
    method = method_class(**{name: value for name, value in settings.items() if name in known})
    state = load_file(folder / "adapter.safetensors")
    if isinstance(method, FishMask):
        adaptation = method.restore(backbone, state)
    else:
        adaptation = method.prepare(backbone, seeds=[0]).folded()
    assert adaptation.delta is not None
    return method, _filled(adaptation, state, folder)


def load_tfew(path: Path, backbone: Backbone) -> Adaptation:
    """The official (IA)^3 checkpoint as an adaptation (see `released_vectors`).

    Raises:
        InputError: names or shapes other than those of (IA)^3 on this model.
    """
    adaptation = Adaptation(backbone, [0], delta=IA3().build(backbone.anatomy, runs=1))
    return _filled(adaptation, released_vectors(path, backbone.anatomy), path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: there is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a JSON file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object")
    return content


def _filled(adaptation: Adaptation, state: dict[str, torch.Tensor], origin: Path) -> Adaptation:
    assert adaptation.delta is not None
    try:
        adaptation.delta.load_state_of(0, state)
    except ValueError as error:
        raise InputError(f"{origin}: does not fit {adaptation.backbone.name}: {error}") from error
    return adaptation
