"""LayerNorm tuning: the weights (and biases) of all layer norms, and nothing else (paper, section 3.3)."""

from dataclasses import dataclass

from adaptbench.methods.base import PeftMethod, register
from adaptbench.models.anatomy import Anatomy
from adaptbench.models.delta import Delta


@register("layernorm")
@dataclass(frozen=True)
class LayerNorm(PeftMethod):
    """Every layer norm: those of the sublayers and the last ones of the stacks."""

    attachment = "norms"
    formula = "w ⊙ norm(x) + b, w and b trained"
    source = "arXiv 2205.05638, appendix D"
    merges = True

    layer_norms: bool = True

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        return Delta(runs)
