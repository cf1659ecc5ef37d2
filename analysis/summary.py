"""Aggregates an experiment's runs into scores, intervals and comparisons; tables and figures only print them.

An *arm* is a row of the tables: a method on a model, and its setting where the experiment sweeps one. An arm's score is
the mean over datasets of the median over seeds, as in the paper.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from adaptbench.metrics import Metric, get
from analysis import statistics as stats
from analysis.appearance import ABLATION_ONLY, FAMILIES, MethodStyle, base_method, method_style, sort_key
from analysis.collect import MEASURES, NORMS, Experiment
from analysis.pretraining import ADAPTING, any_pretraining
from analysis.published import as_in_the_paper
from analysis.statistics import Array, ItemStatistics


@dataclass(frozen=True)
class DatasetScores:
    """The scores of an arm's runs on one dataset, sorted by seed."""

    seeds: tuple[int, ...]
    scores: Array  # (S,) the recorded scores, as shares of the metric's highest
    items: ItemStatistics  # (S, N); (S, 1) with the scores themselves where the items are unknown
    uids: pd.Index | None  # (N,)
    norms: Array  # (norms, S) scores under each length normalisation, nan where unknown
    expected: int
    shots: int

    @property
    def median(self) -> float:
        return float(stats.median_iqr(self.scores)[0])

    @property
    def iqr(self) -> float:
        return float(stats.median_iqr(self.scores)[1])

    @cached_property
    def interval(self) -> tuple[float, float]:
        return stats.hierarchical_bootstrap_ci([self.items])


@dataclass(frozen=True)
class Arm:
    """A method on a model (and a swept setting): its runs and its scores on every dataset."""

    method: str
    model: str
    variant: str
    family: str
    records: pd.DataFrame
    by_dataset: dict[str, DatasetScores]
    expected: dict[str, int]  # per dataset: how many seeds there should be
    failed: dict[str, int]  # per dataset: how many seeds failed and were not repeated
    finished: frozenset[str]  # datasets on which any arm has a run

    @property
    def key(self) -> tuple[str, str, str]:
        return self.method, self.model, self.variant

    @property
    def style(self) -> MethodStyle:
        return method_style(self.method)

    @property
    def name(self) -> str:
        return f"{self.style.label}, {self.variant}" if self.variant else self.style.label

    @property
    def covers_all(self) -> bool:
        """Whether it has a run on every dataset that any arm has one on: only such arms' averages compare."""
        return self.finished <= set(self.by_dataset)

    @property
    def score(self) -> float | None:
        return float(np.mean([dataset.median for dataset in self.by_dataset.values()])) if self.by_dataset else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        if not self.by_dataset:
            return None
        return stats.hierarchical_bootstrap_ci([dataset.items for dataset in self.by_dataset.values()])

    @property
    def by_seed(self) -> dict[int, float]:
        """The mean score over datasets by seed, for the seeds that ran on every dataset of this arm."""
        runs = [dict(zip(dataset.seeds, dataset.scores, strict=True)) for dataset in self.by_dataset.values()]
        shared = set.intersection(*(set(run) for run in runs)) if runs else set()
        return {seed: float(np.mean([run[seed] for run in runs])) for seed in sorted(shared)}

    def typical(self, measure: str, datasets: Iterable[str] | None = None) -> float | None:
        """The mean over datasets, all or some, of the median over seeds of a measure; None if it was never measured."""
        rows = self.records if datasets is None else self.records[self.records["dataset"].isin(list(datasets))]
        value = rows.groupby("dataset")[measure].median().mean() if len(rows) else np.nan
        return None if np.isnan(value) else float(value)

    def highest(self, measure: str) -> float | None:
        """The largest value of a measure over all runs: for memory, what a machine must provide."""
        value = self.records[measure].max() if len(self.records) else np.nan
        return None if np.isnan(value) else float(value)

    @property
    def pretraining_share(self) -> float | None:
        """FLOPs of pre-training in those of adapting; None where either was not counted."""
        whole, own = self.typical(ADAPTING), self.typical("flops.adapt.measured")
        return None if whole is None or own is None else whole - own

    @property
    def percent_updated(self) -> float | None:
        trainable, total = self.typical("params.trainable"), self.typical("params.total")
        return None if trainable is None or not total else 100 * trainable / total


@dataclass(frozen=True)
class Comparison:
    """The difference first - second, on the datasets, seeds and items that both have."""

    first: Arm
    second: Arm
    datasets: int
    runs: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float = 1.0

    @property
    def significant(self) -> bool:
        """At 5 %, after Holm's adjustment."""
        return self.p_holm < 0.05

    @property
    def reversed(self) -> "Comparison":
        """The same comparison as second - first."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            difference=-self.difference,
            low=-self.high,
            high=-self.low,
        )


def adjusted(pairs: Iterable[Comparison]) -> list[Comparison]:
    """The comparisons with p-values adjusted (Holm) over them together."""
    pairs = list(pairs)
    return [
        replace(pair, p_holm=float(p)) for pair, p in zip(pairs, stats.holm([pair.p for pair in pairs]), strict=True)
    ]


@dataclass(eq=False)  # hashed by identity, so that what is costly to derive from it can be kept
class Summary:
    """Everything that the tables and figures of an experiment show."""

    experiment: Experiment
    arms: list[Arm]
    ablation_arms: list[Arm]  # methods that only ablations compare: not in the main tables
    datasets: list[str]
    chance: dict[str, float]  # of the datasets whose metric has a chance level
    metrics: dict[str, str]
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    substituted_splits: list[str] = field(
        default_factory=list
    )  # a sentence for each dataset evaluated on another split than the test set

    @property
    def models(self) -> list[str]:
        return sorted({arm.model for arm in self.arms})

    @cached_property
    def pretrained(self) -> bool:
        """Whether some run's model was pre-trained further before it was adapted."""
        return any_pretraining(self.experiment.records)

    @cached_property
    def as_in_the_paper(self) -> bool:
        """Whether some runs compare with the numbers of arXiv 2205.05638."""
        return as_in_the_paper(self.experiment.records)

    @property
    def mean_chance(self) -> float | None:
        return float(np.mean(list(self.chance.values()))) if len(self.chance) == len(self.datasets) else None

    @property
    def measure(self) -> str:
        """The name of the metric, or "score" where datasets have different metrics."""
        labels = {get(name).label for name in self.metrics.values()}
        return labels.pop() if len(labels) == 1 else "score"

    @property
    def title_measure(self) -> str:
        return self.measure[:1].upper() + self.measure[1:]

    def title(self, arm: Arm) -> str:
        """The arm's name, with its model where the experiment has several."""
        return f"{arm.name} · {arm.model}" if len(self.models) > 1 else arm.name

    def compare(self, first: Arm, second: Arm) -> Comparison | None:
        """The comparison first - second; None if the two share no run."""
        for pair in self.comparisons:
            if (pair.first.key, pair.second.key) == (first.key, second.key):
                return pair
            if (pair.first.key, pair.second.key) == (second.key, first.key):
                return pair.reversed
        return None


def family(method: str, records: pd.DataFrame) -> str:
    """The method's family: from its name if listed, else from the trained parameters and shots of its runs."""
    if base_method(method) or records.empty:
        return method_style(method).family
    if (records["params.trainable"] == 0).all():
        return "zero_shot" if (records["shots"] == 0).all() else "icl"
    return "full" if (records["params.trainable"] == records["params.total"]).all() else "peft"


def first_few(texts: Iterable[str]) -> str:
    """ "a, b, c, d and 5 more" """
    unique = list(dict.fromkeys(texts))
    rest = f" and {len(unique) - 4} more" if len(unique) > 4 else ""
    return ", ".join(unique[:4]) + rest


def dataset_scores(
    experiment: Experiment, rows: pd.DataFrame, expected: int, problems: dict[str, list[str]]
) -> DatasetScores:
    """Reads the runs `rows` of one arm on one dataset; runs whose items cannot be used are added to `problems`."""
    metric = get(str(rows["metric"].iloc[0]))
    scores = rows["score"].to_numpy(dtype=float) / metric.highest
    norms = np.full((len(NORMS), len(rows)), np.nan)
    found: list[pd.DataFrame] = []  # (N,) of (k,) statistics, by item
    for position, (run_id, config, score) in enumerate(
        zip(rows["run_id"], rows.get("provenance.config", [None] * len(rows)), scores, strict=True)
    ):
        judged = experiment.judged(run_id, metric)
        if judged is None:
            problems["missing"].append(run_id)
            continue
        used = config.get("norm", NORMS[0]) if isinstance(config, dict) else NORMS[0]
        for row, norm in enumerate(NORMS):
            if norm in judged.statistics:
                norms[row, position] = judged.score(norm) / metric.highest
        found.append(pd.DataFrame(judged.under(used), index=judged.uids))
        if abs(judged.score(used) / metric.highest - score) > 1e-6:
            problems["mismatch"].append(run_id)
    shots = int(rows["shots"].median())
    seeds = tuple(int(seed) for seed in rows["seed"])
    unknown = DatasetScores(seeds, scores, ItemStatistics.of(scores[:, None]), None, norms, expected, shots)
    if len(found) < len(rows):
        return unknown
    shared = found[0].index
    for other in found[1:]:
        shared = shared.intersection(other.index, sort=False)
    if any(len(statistics) != len(shared) for statistics in found):
        problems["items"].append(f"{rows['method'].iloc[0]} on {rows['dataset'].iloc[0]}")
    if shared.empty:
        return unknown
    stacked = np.stack([statistics.loc[shared].to_numpy() for statistics in found])  # (S, N, k)
    items = ItemStatistics(stacked, metric.aggregate if metric.highest == 1 else normalised_aggregate(metric))
    return DatasetScores(seeds, scores, items, shared, norms, expected, shots)


@cache
def normalised_aggregate(metric: Metric) -> Callable[[Array], Array]:
    """A metric's aggregate, divided by its highest score."""
    return lambda sums: metric.aggregate(sums) / metric.highest


def expected_seeds(experiment: Experiment) -> dict[str, set[int]]:
    """The seeds by dataset that any method with demonstrations or training was run on, failed runs included."""
    with_shots = experiment.records[experiment.records["shots"] > 0]
    tried = pd.concat([with_shots[["dataset", "seed"]], experiment.failures[["dataset", "seed"]]])
    return {str(name): set(group["seed"]) for name, group in tried.groupby("dataset")}


def build_arms(experiment: Experiment, datasets: list[str], problems: dict[str, list[str]]) -> list[Arm]:
    """All arms of an experiment in the order of the tables."""
    records, failures = experiment.records, experiment.failures
    seeds, finished = expected_seeds(experiment), frozenset(records["dataset"])
    keys = list(dict.fromkeys(zip(records["method"], records["model"], records["variant"], strict=True)))
    present = {key[:2] for key in keys}
    keys += [
        (*pair, "")
        for pair in dict.fromkeys(zip(failures["method"], failures["model"], strict=True))
        if pair not in present
    ]
    arms = []
    for method, model, variant in keys:
        own = records[(records["method"] == method) & (records["model"] == model) & (records["variant"] == variant)]
        lost = failures[(failures["method"] == method) & (failures["model"] == model)]
        # Failure reports do not name the swept setting, so these failures cannot be assigned to one row.
        failed = lost.groupby("dataset").size().to_dict() if not variant else {}
        groups = dict(list(own.groupby("dataset")))
        once = max((rows["seed"].nunique() for rows in groups.values()), default=0)
        no_draws = len(own) > 0 and (own["shots"] == 0).all()
        expected = {name: max(once, 1) if no_draws else max(len(seeds.get(name, ())), once, 1) for name in datasets}
        by_dataset = {}
        for name in datasets:
            if name in groups:
                rows = groups[name].drop_duplicates("seed", keep="last")
                problems["twice"] += list(groups[name]["run_id"][groups[name]["seed"].duplicated(keep="last")])
                by_dataset[name] = dataset_scores(experiment, rows, expected[name], problems)
        arms.append(Arm(method, model, variant, family(method, own), own, by_dataset, expected, failed, finished))
    return sorted(
        arms, key=lambda a: (FAMILIES.index(a.family), sort_key(a.method), a.model, natural_sort_key(a.variant))
    )


def natural_sort_key(text: str) -> list[tuple[int, float, str]]:
    """A sort key that puts shots=4 before shots=16."""
    parts = text.replace("=", " ").replace(",", " ").split()
    return [(0, float(part), "") if part.replace(".", "", 1).isdigit() else (1, 0.0, part) for part in parts]


def shared_runs(first: DatasetScores, second: DatasetScores) -> tuple[ItemStatistics, ItemStatistics] | None:
    """The statistics of both on the seeds and items they share, each (S, N); None if they share none.

    A single zero-shot run does not depend on the draw, so it is paired with every seed of the other.
    """
    a, b = first.items, second.items
    everything = slice(None)
    if (first.uids is None) != (second.uids is None):  # items are known on one side only: compare scores
        a, b = ItemStatistics.of(first.scores[:, None]), ItemStatistics.of(second.scores[:, None])
    elif first.uids is not None and second.uids is not None and not first.uids.equals(second.uids):
        both = first.uids.intersection(second.uids, sort=False)
        a, b = a.select(everything, first.uids.get_indexer(both)), b.select(everything, second.uids.get_indexer(both))
    if a.statistics.shape[1] == 0:
        return None
    if first.shots == 0 and len(first.seeds) == 1:
        return a.repeat(len(b.statistics)), b
    if second.shots == 0 and len(second.seeds) == 1:
        return a, b.repeat(len(a.statistics))
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    if not seeds:
        return None
    own, others = ([scores.seeds.index(seed) for seed in seeds] for scores in (first, second))
    return a.select(own, everything), b.select(others, everything)


def compare_all(arms: list[Arm], datasets: list[str]) -> list[Comparison]:
    """Compares every pair of arms that share runs, the higher score first; p-values are adjusted over all pairs."""
    found = []
    for pair in combinations(arms, 2):
        first, second = sorted(pair, key=lambda arm: arm.score or 0, reverse=True)
        both = [name for name in datasets if name in first.by_dataset and name in second.by_dataset]
        shared = [shared_runs(first.by_dataset[name], second.by_dataset[name]) for name in both]
        runs = [items for items in shared if items is not None]
        if runs:
            result = stats.paired_difference([a for a, _ in runs], [b for _, b in runs])
            found.append(Comparison(first, second, len(runs), sum(len(a.statistics) for a, _ in runs), *result))
    return adjusted(found)


def caveats(summary: Summary, problems: dict[str, list[str]]) -> list[str]:
    """Sentences on what is missing or unusual in the runs."""
    records, unscored, notes = summary.experiment.records, summary.experiment.unscored, []
    if len(unscored):
        notes.append(
            f"{len(unscored)} runs predicted rows without labels ({first_few(unscored['dataset'])}) "
            "and are in no table."
        )
    if summary.experiment.outdated:
        notes.append(f"{summary.experiment.outdated} records were made by an older version and are excluded.")
    shown = records.get("provenance.demonstrations", pd.Series(np.nan, index=records.index)).astype(float)
    if len(fewer := records[shown < records["shots"]]):
        who = first_few(
            f"{method_style(m).label} on {d}" for m, d in zip(fewer["method"], fewer["dataset"], strict=True)
        )
        least = int(fewer["provenance.demonstrations"].min())
        notes.append(
            f"{len(fewer)} runs used fewer demonstrations than shots, because they did not fit or by configuration: "
            f"{who}; minimum {least}."
        )
    if "n_truncated" in records and len(cut := records[records["n_truncated"] > 0]):
        who = first_few(f"{method_style(m).label} on {d}" for m, d in zip(cut["method"], cut["dataset"], strict=True))
        notes.append(f"In {len(cut)} runs some prompts exceeded the maximum length and were truncated: {who}.")
    for measure in MEASURES:
        absent = records[records[measure].isna()]
        if len(absent):
            who = first_few(
                f"{method_style(m).label} on {model}"
                for m, model in zip(absent["method"], absent["model"], strict=True)
            )
            notes.append(
                f"{measure} could not be measured in {len(absent)} of {len(records)} runs: {who}. Shown as n/a."
            )
    if runs := problems["missing"]:
        notes.append(
            f"{len(runs)} runs have no stored predictions ({first_few(runs)}): "
            "their intervals reflect variation over seeds only."
        )
    if runs := problems["mismatch"]:
        notes.append(
            f"In {len(runs)} runs the recorded score does not match the stored predictions: {first_few(runs)}."
        )
    if affected := problems["items"]:
        notes.append(
            f"The evaluation items differ between seeds for {first_few(affected)}; intervals use the shared items."
        )
    if runs := problems["twice"]:
        notes.append(
            f"{len(runs)} runs repeat the dataset and seed of another run of the same row and are excluded: "
            f"{first_few(runs)}."
        )
    return notes


def substituted_splits(records: pd.DataFrame) -> list[str]:
    """A sentence for each dataset that was evaluated on another split because its test set was not available."""
    if "evaluation_split" not in records:
        return []
    splits = records[["dataset", "evaluation_split"]].dropna().drop_duplicates().sort_values("dataset")
    return [
        f"{dataset} was evaluated on {split}, which was not available."
        for dataset, split in splits.itertuples(index=False)
        if " in place of " in split
    ]


def summarise(experiment: Experiment) -> Summary:
    """All scores, intervals and comparisons of an experiment."""
    records = experiment.records
    datasets = sorted({*records["dataset"], *experiment.failures["dataset"]})
    problems: dict[str, list[str]] = {key: [] for key in ("missing", "mismatch", "items", "twice")}
    all_arms = build_arms(experiment, datasets, problems)
    arms = [arm for arm in all_arms if arm.method not in ABLATION_ONLY]
    with_chance = records.dropna(subset="chance").groupby("dataset")
    chance = {
        str(n): float(rows["chance"].median()) / get(str(rows["metric"].iloc[0])).highest for n, rows in with_chance
    }
    metrics = {str(name): str(rows.iloc[0]) for name, rows in records.groupby("dataset")["metric"]}
    ablation_arms = [arm for arm in all_arms if arm.method in ABLATION_ONLY]
    summary = Summary(experiment, arms, ablation_arms, datasets, chance, metrics)
    summary.comparisons = compare_all(arms, datasets)
    summary.substituted_splits = substituted_splits(records)
    summary.notes = summary.substituted_splits + caveats(summary, problems)
    return summary
