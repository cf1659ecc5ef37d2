"""From answers to scores, by every metric that judges their kind.

An item is an evaluated row, in however many templates it was phrased: its statistics are the mean over them.
"""

from collections.abc import Sequence
from typing import Any

from adaptbench.data.example import TaskData
from adaptbench.data.templates import Prompt
from adaptbench.metrics import Metric, get, metrics_for, total
from adaptbench.metrics.base import Array, mean_by_item
from adaptbench.tasks import Answer, TaskType


def headline(task: TaskData) -> Metric:
    """The metric that a data set's score is."""
    return get(task.metric) if task.metric is not None else metrics_for(task.type.answers)[0]


def classes(task: TaskType, prompts: Sequence[Prompt]) -> int:
    """Between how many classes every prompt chooses; 0 where there are none.

    Choices are classes where a template offers all rows the same ones. Where they differ from row to row, the first
    choice of one row has nothing in common with the first of another.
    """
    if task.answers != "label":
        return 0
    numbers = {task.options(prompt) for prompt in prompts}
    offered = {(prompt.template, prompt.choices) for prompt in prompts}
    templates = {prompt.template for prompt in prompts}
    return max(numbers) if len(numbers) == 1 and len(offered) == len(templates) else 0


def check_metric(task: TaskData, prompts: Sequence[Prompt]) -> None:
    """Find fault with a data set's metric before anything is trained.

    Raises:
        InputError: it is not defined for what these prompts may be answered with.
    """
    headline(task).check(classes(task.type, prompts))


def scores(task: TaskType, answers: Sequence[Answer], norm: str) -> dict[str, float | None]:
    """Metric -> score, by all metrics that judge this kind of answer; None where a row's right answer is unknown."""
    number = classes(task, [answer.prompt for answer in answers])
    return {metric.name: score(metric, task, answers, norm, number) for metric in metrics_for(task.answers, number)}


def score(metric: Metric, task: TaskType, answers: Sequence[Answer], norm: str, number: int) -> float | None:
    """The score of some answers by one metric.

    Args:
        number: of classes, in all answers of the data set.
    """
    statistics = item_statistics(metric, task, answers, norm, number)
    return None if statistics is None else float(metric.aggregate(total(statistics)))


def item_statistics(metric: Metric, task: TaskType, answers: Sequence[Answer], norm: str, number: int) -> Array | None:
    """(N items, k), in order of first appearance."""
    references = [task.reference(answer.prompt) for answer in answers]
    if any(reference is None for reference in references):
        return None
    predictions = [task.prediction(answer, norm) for answer in answers]
    statistics = metric.per_item(predictions, references, number)
    return mean_by_item([answer.prompt.uid for answer in answers], statistics)


def by_template(
    metric: Metric, task: TaskType, answers: Sequence[Answer], norm: str
) -> dict[str, dict[str, float | int | None]]:
    """Template -> its score and number of items, in order of first use: how much the wording matters."""
    number = classes(task, [answer.prompt for answer in answers])
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.prompt.template, []).append(answer)
    return {
        name: {"score": score(metric, task, group, norm, number), "n": len(group)} for name, group in groups.items()
    }


def items(answers: Sequence[Answer]) -> int:
    """Evaluated rows, however many templates each was phrased by."""
    return len({answer.prompt.uid for answer in answers})


def chance(metric: Metric, task: TaskType, prompts: Sequence[Prompt]) -> float | None:
    """Expected score of guessing uniformly; None where a metric has no such level."""
    return None if metric.chance is None else metric.chance([task.options(prompt) for prompt in prompts])


def signatures(task: TaskType, answers: Sequence[Any]) -> dict[str, str]:
    """How libraries compute the metrics of this kind of answer, for the record."""
    references = [task.reference(answer.prompt) for answer in answers]
    return {m.name: m.signature(references) for m in metrics_for(task.answers) if m.signature is not None}
