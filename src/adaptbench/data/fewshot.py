"""Few-shot draws: which K rows a seed sees, or all. Every method of a seed sees the same ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from adaptbench.data.example import Example, TaskData, fingerprint
from adaptbench.errors import InputError


@dataclass(frozen=True)
class FewShotSet:
    """The K training rows of one seed, and the rows on which it may choose the best state of its training."""

    seed: int
    examples: Sequence[Example]
    development: Sequence[Example] = ()

    @cached_property
    def sha256(self) -> str:
        return fingerprint(self.examples)

    @cached_property
    def development_sha256(self) -> str:
        return fingerprint(self.development) if self.development else ""


def draw(task: TaskData, seed: int, shots: int | str | None = None) -> FewShotSet:
    """K rows of the training pool: NumPy's legacy shuffle of the file order, then the first K.

    This is exactly how the T-Few paper's own draws were made (verified against its published files). With
    `sampling: stratified` it is the first of every class, in equal numbers, shuffled once more: the search for the rows
    of a rare class goes on when the others are complete, and a context would end in that class alone.

    Development rows that are held out of the draw are the next ones after the K (UniPELT, arXiv 2110.07577); of a whole
    training set (`shots="all"`) they are the first.

    Raises:
        InputError: more shots than rows, or no draw for this seed where draws come as files.
    """
    shots = task.shots if shots is None else shots
    if isinstance(shots, int) and shots < 1:
        raise InputError(f"shots={shots}: expected at least 1 (method=zero_shot needs none)")
    if task.draws:
        if seed not in task.draws:
            known = ", ".join(map(str, sorted(task.draws)))
            raise InputError(
                f"seeds: dataset {task.name!r} has no few-shot draw for seed {seed}; it has {known} "
                "(dataset.draws=null draws from the training rows)"
            )
        rows = list(task.draws[seed])
    else:
        rows = list(task.train)
        generator = np.random.RandomState(seed)
        generator.shuffle(rows)  # type: ignore[arg-type]
    if shots == "all":
        shots = len(rows) - task.held_out
        rows = [*rows[task.held_out :], *rows[: task.held_out]]
    if not isinstance(shots, int):
        raise InputError(f"shots={shots!r}: expected a number or all")
    if shots < 1 or shots + task.held_out > len(rows):
        held_out = f", of which dataset.development holds out {task.held_out}" if task.held_out else ""
        raise InputError(f"shots={shots}: dataset {task.name!r} has only {len(rows)} training rows{held_out}")
    if task.sampling == "natural" or shots + task.held_out == len(rows):
        chosen = rows[:shots]
    else:
        chosen = _stratified(task, rows, shots)
    development = task.development
    if task.held_out:
        taken = set(map(id, chosen))
        development = [row for row in rows if id(row) not in taken][: task.held_out]
    if task.sampling == "stratified" and not task.draws:
        generator.shuffle(chosen)  # type: ignore[arg-type]
    return FewShotSet(seed, chosen, development)


def _stratified(task: TaskData, rows: Sequence[Example], shots: int) -> list[Example]:
    """The first rows of every class, in the order given; class sizes differ by one at most."""
    by_class: dict[int, list[int]] = {}
    for position, example in enumerate(rows):
        by_class.setdefault(example.label, []).append(position)
    share, rest = divmod(shots, len(by_class))
    chosen: list[int] = []
    for number, (label, positions) in enumerate(sorted(by_class.items())):
        wanted = share + (number < rest)
        if wanted > len(positions):
            raise InputError(
                f"shots={shots}: dataset {task.name!r} has only {len(positions)} rows of label {label}, and "
                f"dataset.sampling=stratified wants {wanted} of each"
            )
        chosen += positions[:wanted]
    return [rows[position] for position in sorted(chosen)]
