"""What pre-training reads from data sets of conf/dataset: multitask prompted mixtures, which T0 was trained on and
T-Few's (IA)^3 vectors are (paper, section 3.4), and rows without labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from hydra import compose
from omegaconf import DictConfig

from adaptbench.config import resolve
from adaptbench.data.example import TaskData
from adaptbench.data.prompts import render
from adaptbench.data.sources import load_task
from adaptbench.data.templates import Prompt
from adaptbench.errors import InputError
from adaptbench.pretraining.corpora import Cells, corpus_names
from adaptbench.schema import Config
from experiments.commandline import program_arguments

CAP = 500_000  # rows from which on a data set counts as having CAP / (number of templates) of them (Sanh et al. 2022)


@dataclass(frozen=True)
class Mixture:
    """Tasks, and the share of the rows that each contributes."""

    tasks: Sequence[TaskData]

    @property
    def shares(self) -> np.ndarray:
        """(tasks,) T0's rule: a data set in one of its templates weighs as many rows as it has, up to the cap."""
        weights = np.array([_weight(len(task.train), len(task.templates)) for task in self.tasks])
        return weights / weights.sum()

    def batch(self, seed: int, index: int, size: int) -> list[Prompt]:
        """Batch `index`, a function of (seed, index) alone: rows in random templates, with the right answer only."""
        rng = np.random.default_rng((seed, index))
        return [self._one(int(task), rng) for task in rng.choice(len(self.tasks), size, p=self.shares)]

    def _one(self, task: int, rng: np.random.Generator) -> Prompt:
        rows = self.tasks[task].train
        prompt = render(self.tasks[task], rows[int(rng.integers(len(rows)))], "random", rng)
        return replace(prompt, choices=(prompt.target,), label=0)


def _weight(rows: int, templates: int) -> float:
    return templates * (rows if rows <= CAP else CAP / templates)


def composed(recipe: DictConfig) -> tuple[Config, Mixture]:
    """The model and the mixture that a recipe names, as `experiments.run` would understand them.

    Raises:
        InputError: an unknown name, an empty mixture, data that are not there, or a data set without a training split.
    """
    if not recipe.mixture:
        raise InputError("recipes.ia3.mixture=[]: expected names of data sets (conf/dataset), such as [boolq,rte,sst2]")
    cells = [cell(recipe, f"dataset={dataset}", "dataset.draws=null") for dataset in recipe.mixture]
    tasks = [load_task(cell.dataset) for cell in cells]
    for task in tasks:
        if not task.train:
            raise InputError(f"dataset {task.name!r}: no training split to pre-train on")
    return cells[0], Mixture(tasks)


def composed_corpus(recipe: DictConfig) -> Cells:
    """The model that a recipe continues from, and a cell for each data set that it reads or leaves out.

    Raises:
        InputError: no such model or data set.
    """
    read, left_out = (
        [cell(recipe, f"dataset={dataset}") for dataset in corpus_names(names)]
        for names in (recipe.corpus, recipe.leave_out)
    )
    return Cells(read[0] if read else cell(recipe), read, left_out)


def cell(recipe: DictConfig, *chosen: str) -> Config:
    """A cell with the model that a recipe starts from."""
    given = [f"model={recipe.start}", "method=ia3", *chosen, "model.overlong=truncate"]
    return resolve(compose("config", overrides=[*given, *program_arguments(list(recipe.overrides))]))
