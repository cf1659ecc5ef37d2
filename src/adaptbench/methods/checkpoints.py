"""Adapters from disk: those a run has stored, and the T-Few paper's official checkpoint. No pickle is ever executed."""

import json
import types
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from adaptbench.errors import InputError, one_line
from adaptbench.methods.base import METHODS, NOT_STORED, Adaptation, Method
from adaptbench.methods.ia3 import IA3
from adaptbench.methods.released import released_vectors
from adaptbench.methods.tensor_files import check_tensors, listed, read_tensors, shown
from adaptbench.models.backbone import Backbone


def load_adapter(folder: Path, backbone: Backbone) -> tuple[Method, Adaptation]:
    """The method and the adaptation that a run has stored in `adapters/<run_id>/`.

    Raises:
        InputError: no adapter there, one of another base model, or settings or tensors other than a run stores.
    """
    settings = read_json(folder / "adapter_config.json")
    if "peft_type" in settings:
        raise InputError(f"{folder}: an adapter of Hugging Face PEFT, and no stored adapter: use import_peft")
    kind = settings.get("kind")
    method_class = METHODS.get(kind) if isinstance(kind, str) else None
    if method_class is None or not method_class.restores:
        raise InputError(f"{folder}: kind={shown(kind)}: no stored adapter of a method known here")
    if settings.get("base_model") != backbone.name:
        raise InputError(
            f"{folder}: base_model={shown(settings.get('base_model'))}: an adapter of another model than"
            f" {shown(backbone.name)}"
        )
    method = _method(method_class, settings, folder)
    method.check_model(backbone)
    state = read_tensors(folder / "adapter.safetensors")
    check_tensors(state, _expected(method, backbone, state, folder), folder, f"{method.kind} on {backbone.name}")
    try:
        return method, method.restore(backbone, state)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def load_tfew(path: Path, backbone: Backbone) -> Adaptation:
    """The official (IA)^3 checkpoint as an adaptation (see `released_vectors`).

    Raises:
        InputError: names, shapes or values other than those of (IA)^3 on this model.
    """
    delta = IA3().build(backbone.anatomy, runs=1)
    delta.load_state_of(0, released_vectors(path, backbone.anatomy))
    return Adaptation(backbone, [0], delta=delta)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: there is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a JSON file ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object")
    return content


def _method(method_class: type[Method], settings: Mapping[str, Any], folder: Path) -> Method:
    """The method of stored settings: all that are stored of its own, none left to a default, and nothing else."""
    own = {field.name for field in fields(method_class)} - set(NOT_STORED)
    stored = settings.keys() - {"kind", "base_model"}
    if unknown := stored - own:
        raise InputError(f"{folder}: {settings['kind']} has no setting {listed(unknown)}")
    if missing := own - stored:
        raise InputError(f"{folder}: {settings['kind']} misses the setting {listed(missing)}")
    hints = get_type_hints(method_class)
    for name in sorted(own):
        if not _is(settings[name], hints[name]):
            expected = getattr(hints[name], "__name__", hints[name])
            raise InputError(f"{folder}: {name}={shown(settings[name])}: expected {expected}")
    values = {name: settings[name] for name in own}
    if "pretrained" in own:
        values["pretrained"] = None  # the stored vectors are complete
    method = method_class(**values)
    try:
        method.check()
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    return method


def _is(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is of an annotated type; a whole number is a floating point number too."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_is(value, option) for option in get_args(hint))
    if origin is list:
        return isinstance(value, list) and all(_is(entry, get_args(hint)[0]) for entry in value)
    if hint is float:
        return _is(value, int) or (isinstance(value, float) and abs(value) < float("inf"))
    if hint is int:
        return type(value) is int and abs(value) < 2**63  # true is an int too
    return isinstance(value, origin or hint)


def _expected(method: Method, backbone: Backbone, state: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Names and shapes of what the method stores, on the meta device."""
    try:
        return method.expected_tensors(backbone, state)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: {method.kind} of these settings cannot be built: {one_line(error)}") from error
