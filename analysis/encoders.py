"""Runs of encoders with a trained head, in the parts that arXiv 2405.05493 and 2110.07577 report.

A *part* is a set of data sets, and a number of shots where it is the low-resource one; a *block* is what one model did
on a part. Scores are means over seeds with their standard deviation, as in these papers, beside the bootstrap interval
of that mean over seeds and items.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd

from adaptbench.metrics import get
from analysis import statistics as stats
from analysis.appearance import model_label
from analysis.collect import Experiment, name_variants
from analysis.summary import Arm, Summary, build_arms

GLUE = {
    "glue_cola": "CoLA",
    "glue_sst2": "SST-2",
    "glue_mrpc": "MRPC",
    "glue_stsb": "STS-B",
    "glue_qqp": "QQP",
    "glue_mnli": "MNLI",
    "glue_qnli": "QNLI",
    "glue_rte": "RTE",
}
COLUMNS_OF_2110_07577 = ("SST-2", "MRPC", "CoLA", "RTE", "QNLI", "STS-B", "MNLI", "QQP")
DOMAINS = {
    "domain_chemprot": "ChemProt",
    "domain_rct": "RCT",
    "domain_citation_intent": "ACL-ARC",
    "domain_sciie": "SciERC",
    "domain_hyperpartisan": "HyperPartisan",
    "domain_ag_news": "AGNews",
    "domain_helpfulness": "Helpfulness",
    "domain_imdb": "IMDB",
}
SQUAD = {"squad": "SQuAD1.1", "xquad_en": "XQuAD (English)"}
LOW_RESOURCE = (100, 500, 1000)  # shots


@dataclass(frozen=True, eq=False)  # there is one of each
class Part:
    """Data sets that are reported together."""

    name: str  # of tables and figures
    title: str
    labels: Mapping[str, str]  # data set -> what the papers call it, in the order of their columns
    shots: int | None = None  # None: whatever they were trained on that is not one of LOW_RESOURCE


def low_resource(shots: int) -> Part:
    by_label = {label: name for name, label in GLUE.items()}
    columns = {by_label[label]: label for label in COLUMNS_OF_2110_07577}
    return Part(f"glue_{shots}", f"GLUE, K = {shots}", columns, shots)


GLUE_PART, DOMAIN_PART, SQUAD_PART = (
    Part("glue", "GLUE", GLUE),
    Part("domains", "Domains", DOMAINS),
    Part("squad", "SQuAD", SQUAD),
)
LOW_RESOURCE_PARTS = tuple(map(low_resource, LOW_RESOURCE))
PARTS = (GLUE_PART, *LOW_RESOURCE_PARTS, DOMAIN_PART, SQUAD_PART)


@dataclass(frozen=True)
class Block:
    """The arms of a model on a part. A swept setting makes arms of its own only where it is swept in this block."""

    part: Part
    model: str
    arms: Sequence[Arm]

    @property
    def datasets(self) -> list[str]:
        """Those that any arm has a run on, in the part's order."""
        return [name for name in self.part.labels if any(name in arm.by_dataset for arm in self.arms)]

    @property
    def title(self) -> str:
        return f"{self.part.title}, {model_label(self.model)}"

    def arm(self, method: str, variant: str = "") -> Arm | None:
        found = (arm for arm in self.arms if (arm.method, arm.variant) == (method, variant) and arm.by_dataset)
        return next(found, None)


# -- from the records to blocks -----------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def blocks(summary: Summary) -> tuple[Block, ...]:
    """Part by part, and model by model as the summary lists them; none where no record is on such a data set."""
    experiment, found = summary.experiment, []
    records = experiment.records
    several = sum(bool(runs_of(part, records).any()) for part in PARTS if set(part.labels) == set(GLUE)) > 1
    for part in PARTS:
        own = records[runs_of(part, records)]
        for model in dict.fromkeys(arm.model for arm in summary.arms if arm.model in set(own["model"])):
            lost = experiment.failures
            lost = lost[lost["dataset"].isin(part.labels) & (lost["model"] == model)]
            if several and set(part.labels) == set(GLUE):
                lost = lost.iloc[:0]  # a failure report does not say how many shots there were
            found.append(Block(part, model, arms_of(experiment, own[own["model"] == model], lost)))
    return tuple(found)


def runs_of(part: Part, records: pd.DataFrame) -> pd.Series:
    """Which records are of a part."""
    inside = records["dataset"].isin(part.labels)
    if part.shots is not None:
        return inside & (records["shots"] == part.shots)
    return inside & ~(records["dataset"].isin(GLUE) & records["shots"].isin(LOW_RESOURCE))


def arms_of(experiment: Experiment, records: pd.DataFrame, failures: pd.DataFrame) -> list[Arm]:
    """The arms of some records. What they do not differ in is in no arm's name."""
    rows = records.to_dict("records")
    name_variants(rows)
    own = records.assign(variant=[row["variant"] for row in rows]).reset_index(drop=True)
    datasets = sorted({*own["dataset"], *failures["dataset"]})
    problems: dict[str, list[str]] = {key: [] for key in ("missing", "mismatch", "items", "twice")}  # told elsewhere
    return build_arms(replace(experiment, records=own, failures=failures), datasets, problems)


# -- scores -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, as a share of the metric's highest score."""

    mean: float
    sd: float | None  # over seeds, with one less than their number in the denominator; None for one seed
    interval: tuple[float, float] | None  # None where it was not kept what this metric counts of the items
    seeds: int


def spread(scores: Sequence[float] | np.ndarray) -> float | None:
    return float(np.std(scores, ddof=1)) if len(scores) > 1 else None


def estimate(arm: Arm, dataset: str) -> Estimate | None:
    """By the metric that a data set's score is; None without a run."""
    cell = arm.by_dataset.get(dataset)
    if cell is None:
        return None
    interval = stats.hierarchical_bootstrap_ci([cell.items], over_seeds=stats.mean_over_seeds)
    return Estimate(float(cell.scores.mean()), spread(cell.scores), interval, len(cell.seeds))


def estimate_by(arm: Arm, dataset: str, metric: str) -> Estimate | None:
    """By another metric of the task; None where the records do not have it."""
    if dataset not in arm.by_dataset:
        return None
    runs = arm.records[arm.records["dataset"] == dataset].drop_duplicates("seed", keep="last")
    if (runs["metric"] == metric).all():
        return estimate(arm, dataset)
    scores = runs[f"scores.{metric}"].astype(float).dropna() if f"scores.{metric}" in runs else pd.Series(dtype=float)
    if len(scores) < len(runs):
        return None
    shares = scores.to_numpy() / get(metric).highest
    return Estimate(float(shares.mean()), spread(shares), None, len(shares))


def average(arm: Arm, datasets: Sequence[str]) -> Estimate | None:
    """The mean over data sets; None unless the arm has every seed of every one of them."""
    if not datasets or not complete(arm, datasets):
        return None
    cells = [arm.by_dataset[name] for name in datasets]
    runs = [dict(zip(cell.seeds, cell.scores, strict=True)) for cell in cells]
    shared = sorted(set.intersection(*map(set, runs)))
    by_seed = [float(np.mean([run[seed] for run in runs])) for seed in shared]
    interval = stats.hierarchical_bootstrap_ci([cell.items for cell in cells], over_seeds=stats.mean_over_seeds)
    mean = float(np.mean([cell.scores.mean() for cell in cells]))
    return Estimate(mean, spread(by_seed), interval, len(shared))


def amount(arm: Arm, measure: str) -> float | None:
    """The typical value of a measure that not every experiment has."""
    return arm.typical(measure) if measure in arm.records else None


def complete(arm: Arm, datasets: Iterable[str]) -> bool:
    """Whether every seed that any method of this model was run with is there, of each of these data sets."""
    return all(
        name in arm.by_dataset and len(arm.by_dataset[name].seeds) >= arm.expected[name] and not arm.failed.get(name)
        for name in datasets
    )
