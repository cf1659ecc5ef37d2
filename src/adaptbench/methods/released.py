"""The vectors that the T-Few paper's authors released, under the names (IA)^3 has here. No pickle is ever executed."""

import pickle
from pathlib import Path

import torch
from torch import Tensor

from adaptbench.errors import InputError, one_line
from adaptbench.methods.tensor_files import check_tensors, listed, shown
from adaptbench.models.sites import Anatomy, LinearSite

SUFFIX = ".multi_lora_b"
_UNREADABLE = (
    *(pickle.UnpicklingError, OSError, EOFError, RuntimeError),
    *(AttributeError, LookupError, TypeError, ValueError),  # from pickles cut short or made up
)


def released_vectors(path: Path, anatomy: Anatomy) -> dict[str, Tensor]:
    """The state of one run of (IA)^3 from an official checkpoint, such as `t03b_ia3_finish.pt`.

    There a vector is named after the module whose output it scales. It scales the output of the feed-forward's linear
    branch where (IA)^3 here scales the input of the second map: the same activations (`IA3`).

    Raises:
        InputError: not such a file, anything in it but one vector of finite numbers for every place that (IA)^3 scales
            on this model, or a model whose feed-forward has no linear branch.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise InputError(f"{path}: not a checkpoint of tensors ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected vectors by name, found {type(content).__name__}")
    places, state = _place_of_scale(anatomy, path), {}
    for name, vector in content.items():
        if not isinstance(name, str) or name.removesuffix(SUFFIX) not in places:
            raise InputError(f"{path}: {shown(name)} scales nothing that (IA)^3 scales on this model")
        if not isinstance(vector, Tensor) or vector.layout is not torch.strided or vector.is_quantized:
            raise InputError(f"{path}: {shown(name)} is no vector but {type(vector).__name__}")
        site, width = places[name.removesuffix(SUFFIX)]
        if vector.numel() != max(vector.shape, default=0):
            raise InputError(f"{path}: {shown(name)} is no vector: its shape is {tuple(vector.shape)}")
        if f"{site.key}.vector" in state:
            raise InputError(f"{path}: {shown(name)} comes twice")
        if vector.numel() != width:
            raise InputError(f"{path}: {shown(name)} has {vector.numel()} values, expected {width}")
        state[f"{site.key}.vector"] = vector.reshape(1, -1)
    absent = {name for name, (site, _) in places.items() if f"{site.key}.vector" not in state}
    if absent:
        raise InputError(f"{path}: no vectors for {listed(absent)}")
    shapes = {f"{site.key}.vector": torch.empty(1, width, device="meta") for site, width in places.values()}
    check_tensors(state, shapes, path, "(IA)^3")
    return state


def _place_of_scale(anatomy: Anatomy, path: Path) -> dict[str, tuple[LinearSite, int]]:
    """Module whose output is scaled -> where (IA)^3's vector attaches here, and its width."""
    places = {site.key: (site, site.d_out) for site in anatomy.linear("k", "v")}
    gated = {site.path.rpartition(".")[0] for site in anatomy.linear("ff_gate")}
    inner = {site.path.rpartition(".")[0]: site.path for site in anatomy.linear("ff_in") if site.columns is None}
    for site in anatomy.linear("ff_out"):
        block = site.path.rpartition(".")[0]
        if block not in gated or block not in inner:  # before an activation a vector is not what it is after it
            raise InputError(f"{path}: such vectors belong to gated feed-forwards, and {block} has no gate")
        places[inner[block]] = (site, site.d_in)
    return places
