"""A cell (a method on a model and a dataset, for some seeds) before it runs: data read and checked, runs named."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from adaptbench.config import question, run_id
from adaptbench.data.example import TaskData, fingerprint, wording
from adaptbench.data.fewshot import FewShotSet, draw
from adaptbench.data.prompts import DRAWN, evaluation_prompts
from adaptbench.data.sources import EVALUATION, load_task
from adaptbench.data.templates import NotApplicable, Prompt
from adaptbench.errors import InputError
from adaptbench.pretraining.held_out import check_trained_on
from adaptbench.record import SCHEMA, RunStore
from adaptbench.schema import Config
from adaptbench.scoring.scores import check_metric


@dataclass(frozen=True)
class CellData:
    """What a cell evaluates and learns from; cells that differ in method or model only have it in common."""

    task: TaskData
    prompts: Sequence[Prompt]
    few_shot_sets: Sequence[FewShotSet]
    limit: int | None = None

    @cached_property
    def evaluation_sha256(self) -> str:
        """Of the rows that are evaluated and of the templates."""
        return fingerprint(self.task.evaluation[: self.limit]) + wording(self.task.templates)


@dataclass(frozen=True)
class PreparedCell:
    """A cell whose data have been read and checked: everything that can be wrong before a model is loaded."""

    config: Config
    task: TaskData
    prompts: Sequence[Prompt]
    few_shot_sets: Sequence[FewShotSet]
    run_ids: Sequence[str]

    @property
    def missing(self) -> int:
        """Runs without a record yet."""
        store = RunStore(Path(self.config.output))
        return sum(not store.path("records", run_id, ".json").is_file() for run_id in self.run_ids)

    @cached_property
    def prompts_id(self) -> str:
        """Names what was evaluated, word for word."""
        return hashlib.sha256(repr(list(self.prompts)).encode()).hexdigest()[:16]


def prepare_cell(config: Config, data: CellData | None = None) -> PreparedCell:
    """Read and check a cell's data, and name its runs.

    Args:
        data: what `read_data` returned for a configuration with the same data.

    Raises:
        InputError: whatever is wrong with the input.
    """
    data = data or read_data(config)
    _check_development(config, data)
    looked_at = data.few_shot_sets if config.method.trains else [replace(s, development=()) for s in data.few_shot_sets]
    check_trained_on(config.model.path, data.task, looked_at, data.limit)
    run_ids = [_run_id(config, data, few_shot) for few_shot in data.few_shot_sets]
    return PreparedCell(config, data.task, data.prompts, data.few_shot_sets, run_ids)


def read_data(config: Config) -> CellData:
    """Read a cell's rows, draw its few-shot sets, and render every prompt.

    Raises:
        InputError: whatever is wrong with the input.
    """
    task = replace(load_task(config.dataset), norm=config.norm)
    if config.dataset.development == EVALUATION:
        task = replace(task, development=task.evaluation[: config.limit])
    prompts = evaluation_prompts(task, config.template, config.limit)
    nothing_to_draw = not config.method.needs_shots and not task.train and not task.draws
    few_shot_sets = [FewShotSet(s, ()) if nothing_to_draw else draw(task, s, config.shots) for s in config.seeds]
    _check_few_shot(task, few_shot_sets, config.template)
    check_metric(task, prompts)
    return CellData(task, prompts, few_shot_sets, config.limit)


def _check_development(config: Config, data: CellData) -> None:
    """Nothing can be waited for without rows to look at."""
    waits = config.recipe.patience is not None and config.method.trains
    if waits and not any(few_shot.development for few_shot in data.few_shot_sets):
        raise InputError(
            f"recipe.patience={config.recipe.patience}: dataset {config.dataset.name!r} has no development rows "
            "(dataset.development: a number of training rows to hold out, or a split)"
        )


def _run_id(config: Config, data: CellData, few_shot: FewShotSet) -> str:
    seen = few_shot if config.method.needs_shots else FewShotSet(few_shot.seed, ())  # others never look at the shots
    rows = len(data.task.evaluation[: config.limit])
    asked = question(config, few_shot.seed, shots=len(seen.examples), rows=rows)
    chosen_on = few_shot.development_sha256 if config.method.trains else ""
    return run_id(asked, seen.sha256 + chosen_on + data.evaluation_sha256, SCHEMA)


def _check_few_shot(task: TaskData, few_shot_sets: Sequence[FewShotSet], policy: str) -> None:
    """Render every training and development row in every template: training must not be the first to see it."""
    templates = task.templates if policy in DRAWN else [task.template(policy)]
    shown = [example for few_shot in few_shot_sets for example in (*few_shot.examples, *few_shot.development)]
    for example in {id(example): example for example in shown}.values():  # seeds share most of them
        for template in templates:
            try:
                template.render(example.uid, example.fields, example.origin)
            except NotApplicable:
                if policy not in DRAWN:
                    raise
