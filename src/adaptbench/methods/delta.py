"""What a parameter-efficient method adds to a frozen model: small modules hooked onto its parts.

Every parameter has a leading run axis R, and every batch is R equal blocks of rows, so one forward and backward
through the frozen model trains R runs. A piece sees its input as (R, rows and positions of one run, width) and
must keep runs apart; nothing else is asked of it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adaptbench.models.anatomy import AttentionSite, LinearSite, SublayerSite
from adaptbench.models.attention import PREFIXES


class Piece(nn.Module):
    """One attached module: parameters with a leading run axis, and how each run's share is initialised."""

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Draw the initial values, those of run r from its own generator. Constant ones need nothing."""


class Delta(nn.Module):
    """The pieces of a method on a model, for R runs at once."""

    def __init__(self, runs: int):
        super().__init__()
        self.runs = runs
        self.pieces = nn.ModuleDict()
        self._attachments: list[tuple[Callable[..., Any], str, Piece, tuple[int, int] | None]] = []

    def scale_or_shift(self, site: LinearSite | SublayerSite, piece: Piece) -> None:
        """Replace a linear map's or sublayer's output y by piece(y)."""
        columns = site.columns if isinstance(site, LinearSite) else None
        key = site.key if isinstance(site, LinearSite) else site.path
        self._attach(_hook_output, key, site.path, piece, columns)

    def before(self, site: LinearSite, piece: Piece) -> None:
        """Replace a linear map's input x by piece(x)."""
        self._attach(_hook_input, site.key, site.path, piece, None)

    def beside(self, site: LinearSite, piece: Piece) -> None:
        """Add piece(x) to a linear map's output, x being its input."""
        self._attach(_hook_parallel, site.key, site.path, piece, site.columns)

    def prefix(self, site: AttentionSite, piece: Piece) -> None:
        """Prepend the keys and values that piece(number of rows) returns."""
        self._attach(_hook_attention, site.path, site.path, piece, None)

    def _attach(
        self,
        how: Callable[..., Any],
        key: str,
        path: str,
        piece: Piece,
        columns: tuple[int, int] | None,
    ) -> None:
        self.pieces[key.replace(".", "/")] = piece
        self._attachments.append((how, path, piece, columns))

    def initialise(self, seeds: Sequence[int]) -> "Delta":
        """Draw every run's initial values from its own seed, so that they do not depend on its company."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        for piece in self.pieces.values():
            assert isinstance(piece, Piece)
            piece.initialise(generators)
        return self

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """The model computes with this delta inside the block, and as before after it."""
        with ExitStack() as stack:
            for how, path, piece, columns in self._attachments:
                stack.callback(how(model.get_submodule(path), piece, self.runs, columns))
            yield

    @property
    def parameters_per_run(self) -> int:
        return sum(parameter[0].numel() for parameter in self.parameters())

    def state_of(self, run: int) -> dict[str, Tensor]:
        """The parameters of one run, named after where they attach."""
        return {
            name.removeprefix("pieces.").replace("/", "."): _on_host(parameter[run].detach()).contiguous()
            for name, parameter in self.named_parameters()
        }

    def load_state_of(self, run: int, state: dict[str, Tensor]) -> None:
        """Set one run's parameters; the names must be those of `state_of`.

        Raises:
            ValueError: a name or shape that does not match.
        """
        own = {name.removeprefix("pieces.").replace("/", "."): parameter for name, parameter in self.named_parameters()}
        if own.keys() != state.keys():
            raise ValueError(f"adapter names differ: {sorted(own.keys() ^ state.keys())[:4]}")
        with torch.no_grad():
            for name, parameter in own.items():
                if parameter[run].shape != state[name].shape:
                    raise ValueError(f"{name}: {tuple(state[name].shape)} is not {tuple(parameter[run].shape)}")
                parameter[run] = state[name]

    def save(self, folder: Path, run: int) -> None:
        save_file(self.state_of(run), folder / "adapter.safetensors")

    def load(self, folder: Path, run: int) -> None:
        self.load_state_of(run, load_file(folder / "adapter.safetensors"))


def _on_host(tensor: Tensor) -> Tensor:
    """A meta tensor has nothing to copy: its shape says what a file would hold."""
    return tensor if tensor.is_meta else tensor.cpu()


def per_run(tensor: Tensor, runs: int) -> Tensor:
    """(N, ..., D) as (R, rows and positions of one run, D); N = R * B with runs as the outer blocks."""
    return tensor.reshape(runs, -1, tensor.shape[-1])


def _apply(piece: Piece, runs: int, tensor: Tensor) -> Tensor:
    result = piece(per_run(tensor, runs))
    return result.reshape(*tensor.shape[:-1], result.shape[-1])


def _hook_output(module: nn.Module, piece: Piece, runs: int, columns: tuple[int, int] | None) -> Callable[[], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        if columns is None:
            first = _apply(piece, runs, first)
        else:
            start, stop = columns
            changed = _apply(piece, runs, first[..., start:stop])
            first = torch.cat([first[..., :start], changed, first[..., stop:]], dim=-1)
        return (first, *output[1:]) if isinstance(output, tuple) else first

    return module.register_forward_hook(hook).remove


def _hook_input(module: nn.Module, piece: Piece, runs: int, _columns: Any) -> Callable[[], None]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (_apply(piece, runs, inputs[0]), *inputs[1:])

    return module.register_forward_pre_hook(hook).remove


def _hook_parallel(module: nn.Module, piece: Piece, runs: int, columns: tuple[int, int] | None) -> Callable[[], None]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        update = _apply(piece, runs, inputs[0])
        if columns is not None:
            update = nn.functional.pad(update, (columns[0], output.shape[-1] - columns[1]))
        return output + update

    return module.register_forward_hook(hook).remove


def _hook_attention(module: nn.Module, piece: Piece, _runs: int, _columns: Any) -> Callable[[], None]:
    if module in PREFIXES:
        raise RuntimeError("this attention has a prefix already")
    PREFIXES[module] = piece

    def remove() -> None:
        del PREFIXES[module]

    return remove
