"""The bill of shared demonstrations: their keys and values are computed once and read by every prediction.

Only a decoder-only model can do so exactly (what a bidirectional encoder makes of a demonstration depends on the
query). What is billed is what runs (scoring/shared_context.py), on the meta device.
"""

from dataclasses import dataclass, replace

import torch

from adaptbench.costs.flops import count
from adaptbench.costs.memory import Memory, PeakTracker, own_tensors
from adaptbench.costs.meta import MetaRun
from adaptbench.data.batching import Shape
from adaptbench.scoring.limits import PassSize
from adaptbench.scoring.shared_context import read, shared


@dataclass(frozen=True)
class CachedFlops:
    once: int  # reading the demonstrations
    predict: int  # scoring the choices of one prompt after them


def cached_flops(run: MetaRun, shape: Shape, context: int) -> CachedFlops:
    """FLOPs of reading `context` tokens once, and of a batch of this shape (without them) after they were read."""
    backbone = run.adaptation.backbone
    with torch.inference_mode(), run.adaptation.attached():
        once = count(lambda: read(backbone, (0,) * context))
        with shared(read(backbone, (0,) * context)):
            after = replace(run.batch(shape), already_read=context)
            return CachedFlops(once, count(lambda: run.task.predict(backbone, after, PassSize())))


def cached_memory(run: MetaRun, shape: Shape, context: int) -> Memory:
    """The peak of such a batch in passes that fit, the held keys and values as an item of their own."""
    backbone = run.adaptation.backbone
    size = run.task.pass_size(backbone, shape)
    after = replace(run.batch(replace(shape, rows=min(shape.rows, size.rows))), already_read=context)
    with torch.inference_mode(), run.adaptation.attached():
        states = {
            module: (torch.empty_like(key), torch.empty_like(value))  # without what reading them needed besides
            for module, (key, value) in read(backbone, (0,) * context).items()
        }
        with PeakTracker(own_tensors(run)) as tracker:
            with tracker.as_kind("kv_cache"):
                held = {module: (key.clone(), value.clone()) for module, (key, value) in states.items()}
            with shared(held):
                run.task.predict(backbone, after, size)
            return tracker.memory
