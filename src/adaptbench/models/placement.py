"""Where and how a large model's weights are kept: spread by accelerate, quantised by bitsandbytes (both optional)."""

from importlib.util import find_spec
from typing import Any

import torch

from adaptbench.errors import InputError


def placement(device_map: str | None, quantization: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What to tell `from_pretrained`; empty where the model simply goes to one device.

    Raises:
        InputError: the package that would do it is not installed.
    """
    options: dict[str, Any] = {}
    if device_map is not None:
        _require("accelerate", f"model.device_map={device_map}", "large")
        options["device_map"] = device_map if device.type != "cpu" else {"": "cpu"}
    if quantization != "none":
        _require("bitsandbytes", f"model.quantization={quantization}", "quantized")
        _require("accelerate", f"model.quantization={quantization}", "quantized")
        options["quantization_config"] = _bitsandbytes(quantization, dtype)
        options.setdefault("device_map", {"": device.index or 0} if device.type != "cpu" else {"": "cpu"})
    return options


def _bitsandbytes(quantization: str, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _require(package: str, wish: str, extra: str) -> None:
    if find_spec(package) is None:
        raise InputError(f"{wish} needs {package}: pip install 'adaptbench[{extra}]'")
