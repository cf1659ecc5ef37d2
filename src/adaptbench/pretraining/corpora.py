"""Unlabelled text: where it comes from, how it is cut into blocks of tokens, and which of them a batch reads.

A domain's corpus is files or a data set of the hub. A task's corpus is its own training rows without their labels.
Which texts are left out of it, `held_out.py` says.
"""

import glob
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from adaptbench.data.example import Example
from adaptbench.data.hub import hub_rows
from adaptbench.data.labels import is_null
from adaptbench.data.parts import PART, read_part
from adaptbench.data.readers import READERS, Malformed
from adaptbench.data.sources import load_task
from adaptbench.data.tokenization import Ids, marks, token_ids
from adaptbench.errors import InputError
from adaptbench.pretraining.held_out import as_text, digest, held_out_digests, shown, whole_training_set
from adaptbench.schema import Config, DatasetConfig, PretrainRecipe

TABLES = tuple(suffix for suffix in READERS if not suffix.startswith(".txt"))  # all else is plain text
TOGETHER = 1000  # texts that are tokenised in one call


@dataclass(frozen=True)
class Cells:
    """What a recipe names of conf/: the model to start from, and data sets."""

    start: Config
    read: Sequence[Config] = ()
    """Of the data sets whose training rows are the corpus, if it is those;"""
    left_out: Sequence[Config] = ()
    """and of others whose held-out rows must not be in it either."""

    @property
    def tasks(self) -> list[Config]:
        return [*self.read, *self.left_out]


@dataclass(frozen=True)
class Corpus:
    """Texts, and what they are called."""

    names: tuple[str, ...]
    texts: Sequence[str]
    rows: Sequence[bytes] = ()
    """Of texts that are rows of data sets, the content of each."""
    left_out: Sequence[str] = ()
    """Texts of held-out rows that were in it."""

    def __add__(self, other: "Corpus") -> "Corpus":
        """Of two that are rows, or neither is."""
        pairs = zip(_parts(self), _parts(other), strict=True)
        return Corpus((*self.names, *other.names), *([*own, *others] for own, others in pairs))

    def without(self, digests: Collection[str]) -> "Corpus":
        """Without texts, and rows, whose hashes are among some."""
        found = [digest(text) in digests for text in self.texts]
        if self.rows:
            found = [known or digest(row) in digests for known, row in zip(found, self.rows, strict=True)]
        texts = [text for text, known in zip(self.texts, found, strict=True) if not known]
        rows = [row for row, known in zip(self.rows, found, strict=False) if not known]
        left_out = [text for text, known in zip(self.texts, found, strict=True) if known]
        return replace(self, texts=texts, rows=rows, left_out=[*self.left_out, *left_out])

    @property
    def digests(self) -> set[str]:
        """What it would be known by."""
        return {*(digest(text) for text in self.texts if text.strip()), *map(digest, self.rows)}

    @property
    def left_out_sha256(self) -> str:
        """Of the texts that were taken out, whatever their order, number and white space."""
        texts = sorted({" ".join(text.split()) for text in self.left_out})
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _parts(corpus: Corpus) -> tuple[Sequence[Any], ...]:
    return corpus.texts, corpus.rows, corpus.left_out


def corpus_names(corpus: Any) -> list[str]:
    """The data sets of conf/dataset that a recipe's `corpus` names: one, or several."""
    return [corpus] if isinstance(corpus, str) else list(corpus)


def read_corpus(recipe: PretrainRecipe, cells: Cells) -> Corpus:
    """The texts that a recipe names, without the held-out ones of any of its data sets.

    Raises:
        InputError: they cannot be read.
    """
    if recipe.files:
        whole = file_corpus(recipe.files, recipe.column)
    elif recipe.hub:
        whole = hub_corpus(recipe.hub, recipe.subset, recipe.split, recipe.column)
    else:
        first, *others = (task_corpus(cell, recipe.column) for cell in cells.read)
        whole = sum(others, first)
    return whole.without(held_out_digests(cells.tasks, recipe.column))


def task_corpus(config: Config, column: str | None = None) -> Corpus:
    """The training rows of a data set as texts.

    A row is the text that the first template meant for it shows, without the answer; the two texts of a pair follow
    one another. Where the data set comes as ready-made draws alone, those are the rows.

    Args:
        config: a cell of the data set.
        column: the template field to read instead.

    Raises:
        InputError: no training rows, no such column, or no text in it.
    """
    task = load_task(whole_training_set(config.dataset))

    def read(row: Example) -> str:
        return _text(row.fields, column, row.origin) if column else as_text(shown(task, row))

    rows = list(task.train) or list({read(row): row for draw in task.draws.values() for row in draw}.values())
    if not rows:
        raise InputError(f"dataset {task.name!r}: no training rows to pre-train on")
    return Corpus((task.name,), [read(row) for row in rows], [row.content for row in rows])


def file_corpus(files: Sequence[str], column: str | None = None) -> Corpus:
    """The texts of files: a line each of plain text (as in the authors' own script), else of a column of a table.

    Args:
        files: paths, which may have `*` in their last part; of tables also parts, as in `data/parts.py`.
        column: `text` unless named.

    Raises:
        InputError: no such file or column, or a row that cannot be read.
    """
    texts: list[str] = []
    for name in files:
        path = Path(name).expanduser()
        part = PART.fullmatch(path.name)
        if (part["file"] if part else path.name).endswith(TABLES):
            texts += _column(read_part(path, "files"), column or "text", name)
        else:
            texts += [line for file in _files(path) for line in _lines(file)]
    return Corpus(tuple(files), texts)


def hub_corpus(path: str, subset: str | None, split: str, column: str | None = None) -> Corpus:
    """The texts of a split of a data set of the hub, or of its cache.

    Raises:
        InputError: it cannot be had, or has no such column.
    """
    rows = hub_rows(DatasetConfig(name=path, source="hub", path=path, subset=subset), split)
    return Corpus((path,), _column(rows, column or "text", f"{path}:{split}"))


def _column(rows: Iterable[Mapping[str, Any] | Malformed], column: str, where: str) -> list[str]:
    found = []
    for number, row in enumerate(rows):
        if isinstance(row, Malformed):
            raise InputError(f"{where}, {row.place}: {row.reason}")
        found.append(_text(row, column, f"{where}, row {number}"))
    return found


def _text(row: Mapping[str, Any], column: str, origin: str) -> str:
    if column not in row:
        raise InputError(f"{origin}: no text column {column!r} (columns: {', '.join(map(str, row))})")
    value = row[column]
    if is_null(value):
        return ""
    if not isinstance(value, str):
        raise InputError(f"{origin}: column {column!r} holds {value!r:.40}, expected a text")
    return value


def _files(path: Path) -> list[Path]:
    files = [Path(file) for file in sorted(glob.glob(str(path)))] if "*" in path.name else [path]
    for file in files or [path]:
        if not file.is_file():
            raise InputError(f"files={str(path)!r}: no such file")
    return files


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"files={str(file)!r}: not UTF-8 (byte {error.start})") from error


@dataclass(frozen=True, eq=False)
class Blocks:
    """N blocks of tokens, each as the model reads it."""

    content: np.ndarray  # all tokens of the corpus, one block's after another's
    starts: np.ndarray  # (N + 1,) where each block's begin, and their end
    before: Ids = ()  # the marks around each
    after: Ids = ()

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, block: int) -> np.ndarray:
        inside = self.content[self.starts[block] : self.starts[block + 1]]
        return np.array([*self.before, *inside.tolist(), *self.after])

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens of each block, marks included."""
        return np.diff(self.starts) + len(self.before) + len(self.after)

    @cached_property
    def sha256(self) -> str:
        """Of the tokens and of where blocks begin."""
        digest = hashlib.sha256(self.content.tobytes())
        digest.update(self.starts.tobytes())
        digest.update(repr((self.before, self.after)).encode())
        return digest.hexdigest()

    def steps_of_an_epoch(self, size: int) -> int:
        """Batches that read every block once; the last may be smaller."""
        return -(-len(self) // size)

    def batch(self, seed: int, step: int, size: int) -> list[np.ndarray]:
        """The blocks of a step: those of each epoch in an order of its own."""
        epoch, index = divmod(step, self.steps_of_an_epoch(size))
        chosen = _order(seed, epoch, len(self))[index * size : (index + 1) * size]
        return [self[block] for block in chosen.tolist()]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, blocks: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(blocks)


def cut(corpus: Corpus, tokenizer: Any, length: int, packed: bool, causal: bool) -> Blocks:
    """Every token of a corpus in exactly one block of at most `length` tokens.

    Args:
        packed: texts follow one another and blocks are full, all but the last; else every text begins a block of its
            own, and a longer one goes on in the next.
        causal: texts are marked as the tokenizer marks them and end with the end-of-sequence token, and blocks begin
            anywhere; else every block has the marks of a text, and texts in it are separated.

    Raises:
        InputError: nothing to read, or no room for it beside the marks.
    """
    mark = marks(tokenizer)
    room = length if causal else length - len(mark.before) - len(mark.after)
    if room < 1:
        raise InputError(f"length={length}: no room between the {length - room} marks of a text")
    texts = _tokenised(corpus.texts, tokenizer)
    if causal:
        end = mark.after or _token(tokenizer.eos_token_id)
        texts = [np.array([*mark.before, *ids.tolist(), *end], np.int32) for ids in texts]
    if not texts:
        shown = ", ".join(corpus.names)
        reason = f"all its {len(corpus.left_out):,} texts are held out" if corpus.left_out else "no text"
        raise InputError(f"{shown}: the corpus is empty: {reason}")
    around = ((), ()) if causal else (mark.before, mark.after)
    if packed:
        between = np.array(() if causal else _token(tokenizer.sep_token_id), np.int32)
        stream = np.concatenate([part for ids in texts for part in (between, ids)][1:])
        return Blocks(stream, np.array([*range(0, len(stream), room), len(stream)]), *around)
    sizes = [min(room, len(ids) - begun) for ids in texts for begun in range(0, len(ids), room)]
    return Blocks(np.concatenate(texts), np.cumsum([0, *sizes]), *around)


def _tokenised(texts: Sequence[str], tokenizer: Any) -> list[np.ndarray]:
    """The ids of every text that has some."""
    found = []
    for start in range(0, len(texts), TOGETHER):
        part = [text for text in texts[start : start + TOGETHER] if text.strip()]
        found += [np.array(ids, np.int32) for ids in (token_ids(tokenizer, part) if part else []) if ids]
    return found


def _token(index: int | None) -> Ids:
    return () if index is None else (index,)
