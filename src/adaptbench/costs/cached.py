"""The bill of shared demonstrations: their keys and values are computed once and read by every prediction.

Only a decoder-only model can do so exactly (what a bidirectional encoder makes of a demonstration depends on the
query). A prediction then runs its query and choices alone, which attend to the held keys.

`cached_flops` and `cached_memory` bill any implementation: hand it over as `step`. The default is a plain pass over
a transformers cache, enough to count with on the meta device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from adaptbench.costs.flops import count
from adaptbench.costs.memory import Memory, PeakTracker, own_tensors
from adaptbench.costs.meta import MetaRun, meta_batch
from adaptbench.data.batching import Batch, Shape
from adaptbench.models.backbone import Backbone

Step = Callable[[Backbone, Batch, DynamicCache], object]


@dataclass(frozen=True)
class CachedFlops:
    once: int  # reading the demonstrations
    predict: int  # scoring the choices of one prompt after them


def cached_flops(run: MetaRun, shape: Shape, context: int, step: Step | None = None) -> CachedFlops:
    """FLOPs of reading `context` tokens once, and of a batch of this shape (without them) after they were read."""
    backbone, step = run.adaptation.backbone, step or score_after
    with torch.inference_mode(), run.adaptation.attached():
        once = count(lambda: read_once(backbone, context))
        cache = held(backbone, context)
        return CachedFlops(once, count(lambda: step(backbone, meta_batch(shape), cache)))


def cached_memory(run: MetaRun, shape: Shape, context: int, step: Step | None = None) -> Memory:
    """The peak of such a batch, the held keys and values as an item of their own."""
    backbone, step = run.adaptation.backbone, step or score_after
    with torch.inference_mode(), run.adaptation.attached(), PeakTracker(own_tensors(run)) as tracker:
        with tracker.as_kind("kv_cache"):
            cache = held(backbone, context)
        step(backbone, meta_batch(shape), cache)
        return tracker.memory


class HeldLayer(DynamicLayer):
    """One layer's keys and values of the demonstrations: put before those of a prompt, and never added to."""

    def __init__(self, keys: Tensor, values: Tensor):  # (1, H, P, head width) each
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return self._after(self.keys, key_states), self._after(self.values, value_states)

    @staticmethod
    def _after(held_states: Tensor | None, states: Tensor) -> Tensor:
        assert held_states is not None
        return torch.cat([held_states.expand(states.shape[0], -1, -1, -1), states], dim=2)


def held(backbone: Backbone, context: int) -> DynamicCache:
    """Keys and values of `context` tokens without contents, one copy for all rows."""
    cache = DynamicCache()
    with torch.device("meta"):
        for site in backbone.anatomy.attentions:
            size = (1, site.heads, context, site.head_width)
            layer = HeldLayer(torch.empty(size, dtype=backbone.dtype), torch.empty(size, dtype=backbone.dtype))
            cache.layers.append(layer)
    return cache


def read_once(backbone: Backbone, context: int) -> Tensor:
    """One pass over the demonstrations; nothing is scored, so one position's logits are more than enough."""
    with torch.device("meta"):
        ids = torch.zeros(1, context, dtype=torch.long)
        mask = torch.ones(1, 1, context, context, dtype=torch.bool)
    return backbone.model(
        input_ids=ids, attention_mask=mask, position_ids=ids, use_cache=False, logits_to_keep=1
    ).logits


def score_after(backbone: Backbone, batch: Batch, cache: DynamicCache) -> Tensor:
    """Logits of a prompt's last token and of its choices side by side, each attending to the held keys.

    Costs depend on sizes only, so the mask here is all true; an implementation that computes must say who sees whom.
    """
    n, choices, length = batch.targets.shape
    ids = torch.cat([batch.source, batch.targets[..., :-1].flatten(1)], dim=1)
    total, past = ids.shape[1], cache.get_seq_length()
    with torch.device("meta"):
        mask = torch.ones(n, 1, total, past + total, dtype=torch.bool)
        positions = torch.arange(total)[None].expand(n, -1)
    return backbone.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=False,
        logits_to_keep=choices * (length - 1) + 1,
    ).logits
