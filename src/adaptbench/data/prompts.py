"""Rows as prompts: which template phrases a row, in training, in demonstrations and in evaluation."""

import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from adaptbench.data.example import Example, TaskData
from adaptbench.data.templates import NotApplicable, Prompt
from adaptbench.errors import InputError

DRAWN = ("random", "all")  # policies under which training and demonstrations draw a template for every row


def render(task: TaskData, example: Example, template: str, rng: np.random.Generator) -> Prompt:
    """A row as a prompt: by the named template, or by one drawn from `rng` where it is "random" (or "all").

    A drawn template that is not meant for the row gives way to another.
    """
    if template not in DRAWN:
        return task.template(template).render(example.uid, example.fields, example.origin)
    first = int(rng.integers(len(task.templates)))
    try:
        return task.templates[first].render(example.uid, example.fields, example.origin)
    except NotApplicable:
        others = rng.permutation([index for index in range(len(task.templates)) if index != first])
        return next(_applicable(task, example, others))


def evaluation_prompts(task: TaskData, template: str, limit: int | None = None) -> list[Prompt]:
    """The prompts to score: the same for every method and seed, so that comparisons are paired.

    With "all" every row is phrased by every template that is meant for it.
    """
    rows = task.evaluation[:limit]
    if template == "all":
        return [prompt for row in rows for prompt in _applicable(task, row, range(len(task.templates)))]
    rng = np.random.default_rng(zlib.crc32(task.name.encode()))
    return [render(task, example, template, rng) for example in rows]


def _applicable(task: TaskData, example: Example, order: Iterable[int]) -> Iterator[Prompt]:
    """The row in every template, in this order, that is meant for it."""
    none = True
    for index in order:
        try:
            yield task.templates[index].render(example.uid, example.fields, example.origin)
        except NotApplicable:
            continue
        none = False
    if none:
        raise InputError(f"dataset {task.name!r}, row {example.uid!r}: no template is meant for this row")
