"""Held-out rows: those that runs are evaluated on, or choose the best state of their training on.

Their texts are left out of what is pre-trained on. What was read is known by short hashes of it, which lie beside the
model, so that a run finds out whether its own held-out rows are among it: whole texts, not parts of longer ones.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from adaptbench.data.example import Example, TaskData
from adaptbench.data.fewshot import FewShotSet, draw
from adaptbench.data.sources import load_task
from adaptbench.data.templates import NotApplicable, Prompt
from adaptbench.data.texts import BETWEEN
from adaptbench.errors import InputError
from adaptbench.pretraining.provenance import AGAIN, DIGESTS, folder_of, pretraining_of, stages
from adaptbench.schema import Config, DatasetConfig

DIGITS = 16  # of a hash: among a billion texts and a thousand that are asked for, one is taken for another in 2e7 tries


def digest(content: str | bytes) -> str:
    """The start of the SHA-256 of a text, whatever its white space, or of a row's content."""
    given = " ".join(content.split()).encode() if isinstance(content, str) else content
    return hashlib.sha256(given).hexdigest()[:DIGITS]


def shown(task: TaskData, row: Example) -> Prompt:
    """A row as the first template phrases it that is meant for it.

    Raises:
        InputError: none is.
    """
    for template in task.templates:
        try:
            return template.render(row.uid, row.fields, row.origin)
        except NotApplicable:
            continue
    raise InputError(f"dataset {task.name!r}, {row.origin}: no template is meant for this row")


def as_text(prompt: Prompt) -> str:
    """What a prompt shows, without the answer; the two texts of a pair follow one another."""
    return prompt.input if prompt.second is None else f"{prompt.input}{BETWEEN}{prompt.second}"


def row_digests(task: TaskData, row: Example, columns: Iterable[str] = ()) -> set[str]:
    """All that a row would be known by in a corpus.

    That is its content, which knows it in any wording; what the first template shows, whole and each text of a pair;
    its longest text; and what stands in the given columns.
    """
    prompt = shown(task, row)
    own = {name: value for name, value in row.fields.items() if isinstance(value, str)}
    texts = [as_text(prompt), prompt.input, prompt.second, max(own.values(), key=len, default="")]
    texts += [own.get(column) for column in columns]
    return {digest(row.content), *(digest(text) for text in texts if text and text.strip())}


def whole_training_set(dataset: DatasetConfig) -> DatasetConfig:
    """A data set with all its training rows, not what few-shot draws have of them, where it has a training set."""
    return dataset if dataset.train is None else replace(dataset, draws=None)


def held_out_digests(cells: Sequence[Config], column: str | None = None) -> set[str]:
    """What the held-out rows of some cells would be known by, those of all their seeds.

    Raises:
        InputError: the rows cannot be read.
    """
    found: set[str] = set()
    for cell in cells:
        task = load_task(whole_training_set(cell.dataset))
        of_draws: Sequence[Example] = ()
        if task.held_out:
            drawn = load_task(cell.dataset) if cell.dataset.draws else task
            of_draws = [row for seed in cell.seeds for row in draw(drawn, seed, cell.shots).development]
        for row in _distinct(task.evaluation, task.development, of_draws):
            found |= row_digests(task, row, [column] if column else ())
    return found


def made_for(cells: Sequence[Config]) -> list[dict[str, Any]]:
    """Whose held-out rows were left out, in words of the configuration."""
    return [
        {
            "dataset": cell.dataset.name,
            "seeds": list(cell.seeds),
            "shots": cell.dataset.shots if cell.shots is None else cell.shots,
            "development": cell.dataset.development,
        }
        for cell in cells
    ]


def digest_lines(digests: Iterable[str]) -> bytes:
    """The file of what was read: a hash a line, sorted."""
    return "".join(f"{found}\n" for found in sorted(set(digests))).encode()


def digests_read(path: str, pretraining: dict[str, Any]) -> set[str]:
    """What a model was pre-trained on, and what its start was before it.

    Args:
        path: what `model.path` says.
        pretraining: what `pretraining_of` says of it.

    Raises:
        InputError: the file is not there, or is not the one that belongs to the model.
    """
    folder = folder_of(path)
    assert folder is not None
    file = folder / DIGESTS
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; {AGAIN}") from None
    if hashlib.sha256(content).hexdigest() != pretraining["digests_sha256"]:
        raise InputError(f"{file}: changed since the model was made; {AGAIN}")
    return set(content.decode().split())


def check_trained_on(path: str, task: TaskData, few_shot_sets: Sequence[FewShotSet], limit: int | None = None) -> None:
    """Refuse runs on a model that was pre-trained on their held-out rows; models without pre-training pass at once.

    Args:
        path: what `model.path` says; a model that is not there passes, too.
        few_shot_sets: of the runs' seeds, with their development rows.
        limit: how many rows are evaluated; None: all.

    Raises:
        InputError: says how many rows it read, and how a model is made that did not.
    """
    pretraining = pretraining_of(path)
    if pretraining is None:
        return
    read = digests_read(path, pretraining)
    columns = {stage["column"] for stage in stages(pretraining) if stage.get("column")}
    development = _distinct(*(few_shot.development for few_shot in few_shot_sets))
    parts = []
    for rows, kind in ((development, "development"), (task.evaluation[:limit], "evaluated")):
        if known := sum(not read.isdisjoint(row_digests(task, row, columns)) for row in rows):
            parts.append(f"{known:,} of the {len(rows):,} {kind} rows")
    if parts:
        seeds, shots = (sorted({one(few_shot) for few_shot in few_shot_sets}) for one in (_seed, _shots))
        raise InputError(
            f"model.path={path!r}: was pre-trained on {' and '.join(parts)} of dataset {task.name!r} (seeds={seeds}, "
            f"shots={', '.join(map(str, shots))}); it was made for {_words(pretraining['made_for'])}; make it again "
            "with such settings in recipes.<name>.overrides, and where it reads another corpus with "
            f"recipes.<name>.leave_out=[{task.name}]"
        )


def _distinct(*groups: Sequence[Example]) -> list[Example]:
    return list({id(row): row for rows in groups for row in rows}.values())


def _seed(few_shot: FewShotSet) -> int:
    return few_shot.seed


def _shots(few_shot: FewShotSet) -> int:
    return len(few_shot.examples)


def _words(runs: Sequence[dict[str, Any]]) -> str:
    return "; ".join(" ".join(f"{what}={how}" for what, how in run.items()) for run in runs) or "no run in particular"
