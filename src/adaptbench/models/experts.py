"""Experts on the meta device: what a mixture of experts costs, whichever experts its tokens are sent to.

Every token passes as many experts as the router picks, so a count needs no routing. The library's kernels do: they look
for each expert's tokens, or have no form without storage.
"""

from typing import Any

from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

COUNTED = "adaptbench_counted"


def counted(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """(M, D) -> (M, D), with the matrix products and the large tensors of the library's grouped kernel."""
    picked = top_k_index.shape[-1]
    states = hidden.repeat_interleave(picked, 0)  # (M * picked, D)
    first = experts.gate_up_proj if experts.has_gate else experts.up_proj
    states = states @ _of_one_expert(experts, first)
    states = experts._apply_gate(states) if experts.has_gate else experts.act_fn(states)
    states = states @ _of_one_expert(experts, experts.down_proj)
    weighted = states * top_k_weights.reshape(-1, 1)
    return weighted.view(len(hidden), picked, -1).sum(1).to(hidden.dtype)


def _of_one_expert(experts: Any, weight: Tensor) -> Tensor:  # (E, ...) -> (D_in, D_out)
    return weight[0] if experts.is_transposed else weight[0].T


ALL_EXPERTS_FUNCTIONS.register(COUNTED, counted)
