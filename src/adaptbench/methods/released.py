"""The vectors that the T-Few paper's authors released, under the names (IA)^3 has here. No pickle is ever executed."""

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from adaptbench.errors import InputError
from adaptbench.models.anatomy import Anatomy


def released_vectors(path: Path, anatomy: Anatomy) -> dict[str, Tensor]:
    """The state of one run of (IA)^3 from an official checkpoint, such as `t03b_ia3_finish.pt`.

    There a vector is named after the module whose output it scales. It scales the output of the feed-forward's linear
    branch where (IA)^3 here scales the input of the second map: the same activations (`IA3`).

    Raises:
        InputError: not such a file, or one that scales what this model does not have.
    """
    try:
        vectors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise InputError(f"{path}: not a checkpoint of tensors ({str(error).splitlines()[0]})") from error
    names = _place_of_scale(anatomy)
    state = {}
    for name, vector in vectors.items():
        module = re.sub(r"\.multi_lora_b$", "", name)
        if module not in names:
            raise InputError(f"{path}: {name} scales nothing that (IA)^3 scales on this model")
        state[f"{names[module]}.vector"] = vector.reshape(1, -1)
    return state


def _place_of_scale(anatomy: Anatomy) -> dict[str, str]:
    """Module whose output is scaled -> module (IA)^3's vector is named after here."""
    places = {site.path: site.path for site in anatomy.linear("k", "v")}
    inner = {site.path.rpartition(".")[0]: site.path for site in anatomy.linear("ff_in")}
    for site in anatomy.linear("ff_out"):
        places[inner.get(site.path.rpartition(".")[0], site.path)] = site.path
    return places
