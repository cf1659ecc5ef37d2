"""The ways a piece hooks onto a module. Each returns the function that undoes it; no model code is touched.

A piece sees a module's input or output as (R, rows and positions of one run, width).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from adaptbench.models import sites
from adaptbench.models.attention import PREFIXES

Columns = sites.Columns | None
Undo = Callable[[], None]
Hook = Callable[[nn.Module, nn.Module, int, Any], Undo]  # module, piece, runs, detail


def per_run(tensor: Tensor, runs: int) -> Tensor:
    """(N, ..., D) as (R, rows and positions of one run, D); N = R * B with runs as the outer blocks."""
    return tensor.reshape(runs, -1, tensor.shape[-1])


def _apply(piece: nn.Module, runs: int, tensor: Tensor) -> Tensor:
    if len(tensor) == 1 < runs:  # read once for all rows (DeBERTa's relative positions): from here on once for each run
        tensor = tensor.expand(runs, *tensor.shape[1:])
    result = piece(per_run(tensor, runs))
    return result.reshape(*tensor.shape[:-1], result.shape[-1])


def rows(tensor: Tensor, columns: Columns) -> slice | Tensor:
    """Where these columns of a map's output are among the rows of its weight matrix, or in its bias."""
    return slice(None) if columns is None else columns.places(len(tensor)).to(tensor.device)


def map_output(module: nn.Module, piece: nn.Module, runs: int, columns: Columns) -> Undo:
    """Replace the (first) output y, or some of its columns, by piece(y)."""

    def hook(_module: nn.Module, _inputs: Any, result: Any) -> Any:
        first = result[0] if isinstance(result, tuple) else result
        if columns is None:
            first = _apply(piece, runs, first)
        else:
            start, stop, groups = columns
            grouped = first.unflatten(-1, (groups, -1))
            changed = _apply(piece, runs, grouped[..., start:stop].flatten(-2)).unflatten(-1, (groups, -1))
            first = torch.cat([grouped[..., :start], changed, grouped[..., stop:]], dim=-1).flatten(-2)
        return (first, *result[1:]) if isinstance(result, tuple) else first

    return module.register_forward_hook(hook).remove


def map_input(module: nn.Module, piece: nn.Module, runs: int, _detail: Any) -> Undo:
    """Replace the input x by piece(x)."""

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (_apply(piece, runs, inputs[0]), *inputs[1:])

    return module.register_forward_pre_hook(hook).remove


def add_to_output(module: nn.Module, piece: nn.Module, runs: int, columns: Columns) -> Undo:
    """Add piece(x) to the output, or to some of its columns; by piece.added(output, x), if it has such a method."""

    added: Any = getattr(piece, "added", None) if columns is None else None

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> Tensor:
        if added is not None and len(inputs[0]) % runs == 0:
            return added(per_run(result, runs), per_run(inputs[0], runs)).view(result.shape)
        update = _apply(piece, runs, inputs[0])
        if columns is not None:
            start, stop, groups = columns
            before, after = start, result.shape[-1] // groups - stop
            update = nn.functional.pad(update.unflatten(-1, (groups, -1)), (before, after)).flatten(-2)
        return result + update

    return module.register_forward_hook(hook).remove


def attention(module: nn.Module, piece: nn.Module, _runs: int, _detail: Any) -> Undo:
    """Prepend the keys and values of piece(number of rows). A gated piece is shown the attention's input first."""
    if module in PREFIXES:
        raise RuntimeError("this attention has a prefix already")
    PREFIXES[module] = piece
    watch: Any = getattr(piece, "watch", None)

    def show(_module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        watch(inputs[0] if inputs else named["hidden_states"])

    handle = module.register_forward_pre_hook(show, with_kwargs=True) if watch is not None else None

    def undo() -> None:
        del PREFIXES[module]
        if handle is not None:
            handle.remove()

    return undo


def norm(module: nn.Module, piece: nn.Module, runs: int, offset: float) -> Undo:
    """The norm only normalises, and the piece multiplies by its own weight and adds its own bias.

    Rescaling the norm's output instead would divide by the frozen weight, which may be zero. Where the model
    multiplies by offset + weight (Gemma), the piece's weight is meant so, too.
    """
    parameters = module._parameters
    own = {name: parameter for name, parameter in parameters.items() if parameter is not None}
    for name, parameter in own.items():
        neutral = torch.full_like(parameter, 1 - offset if name == "weight" else 0)
        parameters[name] = nn.Parameter(neutral, requires_grad=False)

    def hook(_module: nn.Module, _inputs: Any, normalised: Tensor) -> Tensor:
        scaled = _apply(piece, runs, normalised)
        return scaled + offset * normalised if offset else scaled

    remove = module.register_forward_hook(hook).remove

    def undo() -> None:
        remove()
        parameters.update(own)

    return undo


def before_norm(module: nn.Module, piece: nn.Module, runs: int, _detail: Any) -> Undo:
    """Add piece(norm(s)) to what the norm reads, s: the output is norm(s + piece(norm(s))).

    If the piece has `levels`, each adds to what the one before has left.
    """
    levels: Any = getattr(piece, "levels", (piece,))

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], normalised: Tensor) -> Tensor:
        states = inputs[0]
        for level in levels:
            states = states + _apply(level, runs, normalised)
            normalised = type(module).forward(module, states)
        return normalised

    return module.register_forward_hook(hook).remove


def embedding(module: nn.Module, piece: nn.Module, _runs: int, site: sites.EmbeddingSite) -> Undo:
    """The model reads embeddings instead of ids: piece(embeddings, ids), where negative ids are virtual tokens.

    A pass without these ids (a decoder's, on an encoder's states) is left alone.
    """

    def hook(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        ids = named.get(site.ids)
        if ids is None:
            return None
        embedded = module.get_submodule(site.path)(ids.clamp(min=0))
        if site.scale != 1:
            embedded = site.scale * embedded
        rest = {name: value for name, value in named.items() if name != site.ids}
        return inputs, {**rest, site.embeds: piece(embedded, ids)}

    return module.register_forward_pre_hook(hook, with_kwargs=True).remove


def weight(module: nn.Module, piece: nn.Module, _runs: int, name: str) -> Undo:
    """Compute with piece(weight) in place of one of the module's own weights (one run only)."""
    parameters: dict[str, Any] = module._parameters
    own = parameters[name]

    def put(_module: nn.Module, _inputs: Any) -> None:
        parameters[name] = piece(own)

    def restore(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        parameters[name] = own

    handles = (module.register_forward_pre_hook(put), module.register_forward_hook(restore))

    def undo() -> None:
        for handle in handles:
            handle.remove()
        parameters[name] = own

    return undo


def around_forward(module: nn.Module, piece: Any, _runs: int, _detail: Any) -> Undo:
    """piece.begin() before every pass through the module, piece.end() after it."""
    handles = (
        module.register_forward_pre_hook(lambda *_: piece.begin()),
        module.register_forward_hook(lambda *_: piece.end(), always_call=True),
    )

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo
