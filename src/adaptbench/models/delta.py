"""What a parameter-efficient method adds to a frozen model: small modules hooked onto its parts.

Every parameter has a leading run axis R, and every batch is R equal blocks of rows, so one forward and backward
through the frozen model trains R runs. A piece sees its input as (R, rows and positions of one run, width) and
must keep runs apart; nothing else is asked of it.
"""

import copy
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from adaptbench.models import hooks
from adaptbench.models.anatomy import AttentionSite, EmbeddingSite, LinearSite, NormSite, SublayerSite

# Model -> how many runs its rows are blocks of, while a delta is attached.
_runs: "weakref.WeakKeyDictionary[nn.Module, int]" = weakref.WeakKeyDictionary()


def runs_on(model: nn.Module) -> int:
    """How many runs share every pass through this model: those of the delta that is attached to it, or one."""
    return _runs.get(model, 1)


class Piece(nn.Module):
    """One attached module: parameters with a leading run axis, and how each run's share is initialised."""

    stored: ClassVar[tuple[str, ...]] = ()  # buffers (leading axis R) a run cannot be rebuilt without

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Draw the initial values, those of run r from its own generator. Constant ones need nothing."""

    def initialise_from(self, module: nn.Module, generators: Sequence[torch.Generator]) -> None:
        """Initial values that come from the module it attaches to."""

    def for_inference(self) -> "Piece | None":
        """What stays of the piece after training: itself, something smaller, or nothing."""
        return self

    def after_load(self) -> None:
        """Called when stored values have been loaded: recompute what follows from them."""

    def merge(self, module: nn.Module, run: int, detail: Any) -> None:
        """Change the module's own weights so that it computes as with run `run` of this piece attached.

        Raises:
            NotImplementedError: what the piece computes is no change of the module's weights.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be merged into the weights")


Attachment = tuple[hooks.Hook, str, Piece, Any]  # how, path of the module, piece, detail


class Delta(nn.Module):
    """The pieces of a method on a model, for R runs at once."""

    def __init__(self, runs: int):
        super().__init__()
        self.runs = runs
        self.pieces = nn.ModuleDict()
        self._attachments: list[Attachment] = []

    def map_output(self, site: LinearSite | SublayerSite, piece: Piece) -> None:
        """Replace a linear map's or sublayer's output y by piece(y)."""
        columns = site.columns if isinstance(site, LinearSite) else None
        key = site.key if isinstance(site, LinearSite) else site.path
        self.attach(hooks.map_output, key, site.path, piece, columns)

    def map_input(self, site: LinearSite, piece: Piece) -> None:
        """Replace a linear map's input x by piece(x)."""
        self.attach(hooks.map_input, site.key, site.path, piece)

    def add_to_output(self, site: LinearSite, piece: Piece) -> None:
        """Add piece(x) to a linear map's output, x being its input."""
        self.attach(hooks.add_to_output, site.key, site.path, piece, site.columns)

    def prefix(self, site: AttentionSite, piece: Piece) -> None:
        """Prepend the keys and values that piece(number of rows) returns."""
        self.attach(hooks.attention, site.path, site.path, piece)

    def norm(self, site: NormSite, piece: Piece) -> None:
        """Replace a norm's weight and bias: the piece sees the normalised states."""
        self.attach(hooks.norm, site.path, site.path, piece, site.offset)

    def embed(self, site: EmbeddingSite, piece: Piece) -> None:
        """Replace the model's input embeddings e by piece(e, ids); negative ids are virtual tokens."""
        self.attach(hooks.embedding, f"prompt.{site.kind}", "", piece, site)

    def share(self, name: str, piece: Piece) -> None:
        """Parameters that attach nowhere themselves; other pieces, attached later, refer to them."""
        self.pieces[name] = piece

    def around_forward(self, name: str, piece: Piece) -> None:
        """Shared parameters with work to do once per pass: piece.begin() before the model runs, piece.end() after."""
        self.attach(hooks.around_forward, name, "", piece)

    def attach(self, how: hooks.Hook, key: str, path: str, piece: Piece, detail: Any = None) -> None:
        """Hook a piece onto the module at `path`. What is stored of it is named after `key`."""
        name = key.replace(".", "/")
        if name in self.pieces and self.pieces[name] is not piece:
            raise ValueError(f"{key} has a piece already")
        self.pieces[name] = piece
        self._attachments.append((how, path, piece, detail))

    def initialise(self, seeds: Sequence[int], model: nn.Module | None = None) -> "Delta":
        """Draw every run's initial values from its own seed, so that they do not depend on its company."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        for piece in self._pieces():
            piece.initialise(generators)
        if model is not None:
            for _, path, piece, _ in self._attachments:
                piece.initialise_from(model.get_submodule(path), generators)
        return self

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """The model computes with this delta inside the block, and as before after it."""
        with ExitStack() as stack:
            for how, path, piece, detail in self._attachments:
                stack.callback(how(model.get_submodule(path), piece, self.runs, detail))
            before = _runs.get(model)
            if before not in (None, 1, self.runs) and self.runs != 1:
                raise ValueError(f"deltas of {before} and {self.runs} runs cannot share a pass")
            _runs[model] = max(self.runs, before or 1)
            stack.callback(_restore_runs, model, before)
            yield

    def for_inference(self) -> "Delta":
        """The delta as it is kept and served after training: without what only helped to train it."""
        kept: dict[int, Piece | None] = {id(piece): piece.for_inference() for piece in self._pieces()}
        if all(kept[id(piece)] is piece for piece in self._pieces()):
            return self
        folded = Delta(self.runs)
        names = {id(piece): name for name, piece in self.pieces.items()}
        for how, path, piece, detail in self._attachments:
            smaller = kept[id(piece)]
            if smaller is not None:
                folded.attach(how, names[id(piece)], path, smaller, detail)
        return folded

    def for_rows(self, tasks: Tensor) -> "Delta":
        """A delta that gives row n of a batch the parameters of run tasks[n]: every row a run of its own.

        Args:
            tasks: (N,) run index of every row.
        """
        rows = copy.deepcopy(self)
        with torch.no_grad():
            for tensor in [*rows.parameters(), *rows.buffers()]:
                tensor.data = tensor.data[tasks]
        rows.runs = len(tasks)
        return rows

    def merge(self, model: nn.Module, run: int) -> None:
        """Change the model's weights so that it computes as with run `run` attached.

        Raises:
            NotImplementedError: some piece is no change of weights.
        """
        with torch.no_grad():
            for _, path, piece, detail in self._attachments:
                piece.merge(model.get_submodule(path), run, detail)

    @property
    def parameters_per_run(self) -> int:
        return sum(parameter[0].numel() for parameter in self.parameters())

    def state_of(self, run: int) -> dict[str, Tensor]:
        """What one run must keep, named after where it attaches: its parameters, and buffers that are `stored`."""
        return {name: _on_host(tensor[run].detach()).contiguous() for name, tensor in self._state().items()}

    def load_state_of(self, run: int, state: dict[str, Tensor]) -> None:
        """Set one run's parameters; the names must be those of `state_of`.

        Raises:
            ValueError: a name or shape that does not match.
        """
        own = self._state()
        if own.keys() != state.keys():
            raise ValueError(f"adapter names differ: {sorted(own.keys() ^ state.keys())[:4]}")
        with torch.no_grad():
            for name, tensor in own.items():
                if tensor[run].shape != state[name].shape:
                    raise ValueError(f"{name}: {tuple(state[name].shape)} is not {tuple(tensor[run].shape)}")
                tensor[run] = state[name]
        for piece in self._pieces():
            piece.after_load()

    def save(self, folder: Path, run: int, name: str = "adapter") -> None:
        save_file(self.state_of(run), folder / f"{name}.safetensors")

    def _pieces(self) -> list[Piece]:
        return list(self.pieces.values())  # type: ignore[arg-type]

    def _state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = dict(self.named_parameters())
        for name, piece in self.pieces.items():
            state |= {f"pieces.{name}.{buffer}": getattr(piece, buffer) for buffer in piece.stored}  # type: ignore
        return {name.removeprefix("pieces.").replace("/", "."): tensor for name, tensor in state.items()}


def _restore_runs(model: nn.Module, runs: int | None) -> None:
    if runs is None:
        _runs.pop(model, None)
    else:
        _runs[model] = runs


def _on_host(tensor: Tensor) -> Tensor:
    """A meta tensor has nothing to copy: its shape says what a file would hold."""
    return tensor if tensor.is_meta else tensor.cpu()
