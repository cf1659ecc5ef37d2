"""Whether a processor multiplies bfloat16 matrices faster than float32 ones: measured once per machine."""

import json
import os
import time
from pathlib import Path

import torch

from adaptbench.models.identity import cache_folder
from adaptbench.provenance import processor

SIZE = (512, 576, 1536)  # of the products that are timed
REPEATS = 20
WORTH = 1.5  # times as fast, to use bfloat16 by default


def fast_dtype(device: torch.device) -> str:
    """What `model.dtype=auto` stands for: bfloat16 where it is fast on this device, else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if device.type == "cpu" and bfloat16_speedup() >= WORTH else "float32"


def bfloat16_speedup() -> float:
    """How many times as fast as in float32 a matrix product is in bfloat16, on one core of this machine."""
    kept = cache_folder() / "bfloat16.json"
    key = f"{processor()} torch {torch.__version__}"
    try:
        known: dict[str, float] = json.loads(kept.read_text())
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = round(_measured(), 2)
        _keep(kept, known)
    return float(known[key])


def _measured() -> float:
    """The ratio of the fastest product of each kind, taken in turns: others may be using the machine."""
    threads, seconds = torch.get_num_threads(), {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    torch.set_num_threads(1)
    try:
        for _ in range(REPEATS):
            for dtype in seconds:
                left, right = torch.ones(SIZE[0], SIZE[1], dtype=dtype), torch.ones(SIZE[1], SIZE[2], dtype=dtype)
                begun = time.perf_counter()
                left @ right
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - begun)
    finally:
        torch.set_num_threads(threads)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _keep(file: Path, known: dict[str, float]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(known))
        temporary.replace(file)
    except OSError:
        pass  # only a convenience
