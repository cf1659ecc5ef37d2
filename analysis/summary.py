"""What the runs of an experiment add up to: arms, cells, intervals and comparisons. Tables and figures only print it.

An *arm* is a row of the tables: a method on a model, and its setting where the experiment sweeps one. A *cell* is an
arm on a dataset. An arm's score is the mean over datasets of the median over seeds, as in the paper.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from adaptbench.metrics import Metric, get
from analysis import statistics as stats
from analysis.appearance import ABLATION_ONLY, FAMILIES, Look, known, look, place
from analysis.collect import MEASURES, NORMS, Experiment
from analysis.statistics import Array, Items


@dataclass(frozen=True)
class Cell:
    """An arm's runs on one dataset, sorted by seed."""

    seeds: tuple[int, ...]
    scores: Array  # (S,) as recorded, as shares of the metric's highest
    items: Items  # of (S, N); of (S, 1) holding the scores where items cannot be told
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
    method: str
    model: str
    variant: str
    family: str
    records: pd.DataFrame
    cells: dict[str, Cell]
    expected: dict[str, int]  # per dataset: how many seeds there should be
    failed: dict[str, int]  # per dataset: how many seeds failed and were not repeated
    finished: frozenset[str]  # datasets on which any arm has a run

    @property
    def key(self) -> tuple[str, str, str]:
        return self.method, self.model, self.variant

    @property
    def look(self) -> Look:
        return look(self.method)

    @property
    def name(self) -> str:
        return f"{self.look.label}, {self.variant}" if self.variant else self.look.label

    @property
    def covers_all(self) -> bool:
        """Comparable to the others: at least one run on every dataset that has any."""
        return self.finished <= set(self.cells)

    @property
    def score(self) -> float | None:
        return float(np.mean([cell.median for cell in self.cells.values()])) if self.cells else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        if not self.cells:
            return None
        return stats.hierarchical_bootstrap_ci([cell.items for cell in self.cells.values()])

    @property
    def by_seed(self) -> dict[int, float]:
        """Seed -> mean over datasets, for the seeds that ran on every dataset of this arm."""
        runs = [dict(zip(cell.seeds, cell.scores, strict=True)) for cell in self.cells.values()]
        shared = set.intersection(*(set(run) for run in runs)) if runs else set()
        return {seed: float(np.mean([run[seed] for run in runs])) for seed in sorted(shared)}

    def typical(self, measure: str) -> float | None:
        """Mean over datasets of the median over seeds; None if it was never measured."""
        value = self.records.groupby("dataset")[measure].median().mean() if len(self.records) else np.nan
        return None if np.isnan(value) else float(value)

    def highest(self, measure: str) -> float | None:
        """The largest over all runs: what a machine must be able to hold."""
        value = self.records[measure].max() if len(self.records) else np.nan
        return None if np.isnan(value) else float(value)

    @property
    def percent_updated(self) -> float | None:
        trainable, total = self.typical("params.trainable"), self.typical("params.total")
        return None if trainable is None or not total else 100 * trainable / total


@dataclass(frozen=True)
class Comparison:
    """first - second on the runs both have: same dataset, same seed, same item."""

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
    def told_apart(self) -> bool:
        return self.p_holm < 0.05


@dataclass
class Summary:
    experiment: Experiment
    arms: list[Arm]
    ablation_arms: list[Arm]  # settings of ablations alone: not in the main tables
    datasets: list[str]
    chance: dict[str, float]  # of the data sets whose metric has such a level
    metrics: dict[str, str]
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stand_ins: list[str] = field(default_factory=list)  # data sets evaluated on another split than they should be

    @property
    def models(self) -> list[str]:
        return sorted({arm.model for arm in self.arms})

    @property
    def mean_chance(self) -> float | None:
        return float(np.mean(list(self.chance.values()))) if len(self.chance) == len(self.datasets) else None

    @property
    def measure(self) -> str:
        """What the scores are: the metric of all data sets, or just scores where they have different ones."""
        labels = {get(name).label for name in self.metrics.values()}
        return labels.pop() if len(labels) == 1 else "score"

    @property
    def title_measure(self) -> str:
        return self.measure[:1].upper() + self.measure[1:]

    def title(self, arm: Arm) -> str:
        """The arm's name, with the model where that is needed to tell arms apart."""
        return f"{arm.name} · {arm.model}" if len(self.models) > 1 else arm.name

    def compare(self, first: Arm, second: Arm) -> Comparison | None:
        for pair in self.comparisons:
            if (pair.first.key, pair.second.key) == (first.key, second.key):
                return pair
            if (pair.first.key, pair.second.key) == (second.key, first.key):
                return Comparison(
                    first,
                    second,
                    pair.datasets,
                    pair.runs,
                    -pair.difference,
                    -pair.high,
                    -pair.low,
                    pair.p,
                    pair.p_holm,
                )
        return None


def family(method: str, records: pd.DataFrame) -> str:
    """peft, full, zero_shot or icl: by name if listed, else by what the runs trained and were shown."""
    if known(method) or records.empty:
        return look(method).family
    if (records["params.trainable"] == 0).all():
        return "zero_shot" if (records["shots"] == 0).all() else "icl"
    return "full" if (records["params.trainable"] == records["params.total"]).all() else "peft"


def listed(things: Iterable[str], most: int = 4) -> str:
    """ "a, b, c and 5 more" """
    unique = list(dict.fromkeys(things))
    tail = f" and {len(unique) - most} more" if len(unique) > most else ""
    return ", ".join(unique[:most]) + tail


def build_cell(experiment: Experiment, rows: pd.DataFrame, expected: int, doubts: dict[str, list[str]]) -> Cell:
    """The runs `rows` of one arm on one dataset; whatever keeps items from being used goes to `doubts`."""
    metric = get(str(rows["metric"].iloc[0]))
    scores = rows["score"].to_numpy(dtype=float) / metric.highest
    norms = np.full((len(NORMS), len(rows)), np.nan)
    found: list[pd.DataFrame] = []  # (N,) of (k,) statistics, by item
    for position, (run_id, config, score) in enumerate(
        zip(rows["run_id"], rows.get("provenance.config", [None] * len(rows)), scores, strict=True)
    ):
        judged = experiment.judged(run_id, metric)
        if judged is None:
            doubts["missing"].append(run_id)
            continue
        used = config.get("norm", NORMS[0]) if isinstance(config, dict) else NORMS[0]
        for row, norm in enumerate(NORMS):
            if norm in judged.statistics:
                norms[row, position] = judged.score(norm) / metric.highest
        found.append(pd.DataFrame(judged.under(used), index=judged.uids))
        if abs(judged.score(used) / metric.highest - score) > 1e-6:
            doubts["mismatch"].append(run_id)
    shots = int(rows["shots"].median())
    seeds = tuple(int(seed) for seed in rows["seed"])
    unknown = Cell(seeds, scores, Items.of(scores[:, None]), None, norms, expected, shots)
    if len(found) < len(rows):
        return unknown
    shared = found[0].index
    for other in found[1:]:
        shared = shared.intersection(other.index, sort=False)
    if any(len(one) != len(shared) for one in found):
        doubts["items"].append(f"{rows['method'].iloc[0]} on {rows['dataset'].iloc[0]}")
    if shared.empty:
        return unknown
    statistics = np.stack([one.loc[shared].to_numpy() for one in found])  # (S, N, k)
    items = Items(statistics, metric.aggregate if metric.highest == 1 else share_of(metric))
    return Cell(seeds, scores, items, shared, norms, expected, shots)


@cache
def share_of(metric: Metric) -> Callable[[Array], Array]:
    """A metric's aggregate as a share of its highest score."""
    return lambda sums: metric.aggregate(sums) / metric.highest


def expected_seeds(experiment: Experiment) -> dict[str, set[int]]:
    """Per dataset the seeds that any method with demonstrations or training tried, failed ones included."""
    drawing = experiment.records[experiment.records["shots"] > 0]
    tried = pd.concat([drawing[["dataset", "seed"]], experiment.failures[["dataset", "seed"]]])
    return {str(name): set(group["seed"]) for name, group in tried.groupby("dataset")}


def build_arms(experiment: Experiment, datasets: list[str], doubts: dict[str, list[str]]) -> list[Arm]:
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
        # A swept setting is not in the failure report, so that its failures cannot be given to one row.
        failed = lost.groupby("dataset").size().to_dict() if not variant else {}
        by_dataset = dict(list(own.groupby("dataset")))
        once = max((rows["seed"].nunique() for rows in by_dataset.values()), default=0)
        no_draws = len(own) > 0 and (own["shots"] == 0).all()
        expected = {name: max(once, 1) if no_draws else max(len(seeds.get(name, ())), once, 1) for name in datasets}
        cells = {}
        for name in datasets:
            if name in by_dataset:
                rows = by_dataset[name].drop_duplicates("seed", keep="last")
                doubts["twice"] += list(by_dataset[name]["run_id"][by_dataset[name]["seed"].duplicated(keep="last")])
                cells[name] = build_cell(experiment, rows, expected[name], doubts)
        arms.append(Arm(method, model, variant, family(method, own), own, cells, expected, failed, finished))
    return sorted(arms, key=lambda a: (FAMILIES.index(a.family), place(a.method), a.model, natural(a.variant)))


def natural(text: str) -> list[tuple[int, float, str]]:
    """Sort key that puts shots=4 before shots=16."""
    parts = text.replace("=", " ").replace(",", " ").split()
    return [(0, float(part), "") if part.replace(".", "", 1).isdigit() else (1, 0.0, part) for part in parts]


def shared_runs(first: Cell, second: Cell) -> tuple[Items, Items] | None:
    """(S, N) twice: the items of both cells on the seeds and items they share.

    A single zero-shot run is the same on every draw, so it is set against each seed of the other.
    """
    a, b = first.items, second.items
    every = slice(None)
    if (first.uids is None) != (second.uids is None):  # items known on one side only: compare scores
        a, b = Items.of(first.scores[:, None]), Items.of(second.scores[:, None])
    elif first.uids is not None and second.uids is not None and not first.uids.equals(second.uids):
        both = first.uids.intersection(second.uids, sort=False)
        a, b = a.chosen(every, first.uids.get_indexer(both)), b.chosen(every, second.uids.get_indexer(both))
    if a.statistics.shape[1] == 0:
        return None
    if first.shots == 0 and len(first.seeds) == 1:
        return a.repeated(len(b.statistics)), b
    if second.shots == 0 and len(second.seeds) == 1:
        return a, b.repeated(len(a.statistics))
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    if not seeds:
        return None
    mine, theirs = ([cell.seeds.index(seed) for seed in seeds] for cell in (first, second))
    return a.chosen(mine, every), b.chosen(theirs, every)


def compare_all(arms: list[Arm], datasets: list[str]) -> list[Comparison]:
    """Every pair of arms that shares runs, the higher score first, p-values adjusted over all pairs."""
    found = []
    for one, other in combinations(arms, 2):
        first, second = (other, one) if (other.score or 0) > (one.score or 0) else (one, other)
        both = [name for name in datasets if name in first.cells and name in second.cells]
        pairs = [pair for name in both if (pair := shared_runs(first.cells[name], second.cells[name])) is not None]
        if pairs:
            result = stats.paired_difference([a for a, _ in pairs], [b for _, b in pairs])
            found.append(Comparison(first, second, len(pairs), sum(len(a.statistics) for a, _ in pairs), *result))
    adjusted = stats.holm([pair.p for pair in found])
    return [
        Comparison(c.first, c.second, c.datasets, c.runs, c.difference, c.low, c.high, c.p, float(p))
        for c, p in zip(found, adjusted, strict=True)
    ]


def remarks(summary: Summary, doubts: dict[str, list[str]]) -> list[str]:
    """What a reader must know before trusting the numbers."""
    records, unscored, notes = summary.experiment.records, summary.experiment.unscored, []
    if len(unscored):
        notes.append(
            f"{len(unscored)} runs answered rows without labels ({listed(unscored['dataset'])}) and are in no table."
        )
    if summary.experiment.outdated:
        notes.append(f"{summary.experiment.outdated} records were made by an older version and are left out.")
    shown = records.get("provenance.demonstrations", pd.Series(np.nan, index=records.index)).astype(float)
    if len(fewer := records[shown < records["shots"]]):
        who = listed(f"{look(m).label} on {d}" for m, d in zip(fewer["method"], fewer["dataset"], strict=True))
        least = int(fewer["provenance.demonstrations"].min())
        notes.append(
            f"{len(fewer)} runs showed fewer demonstrations than shots, for want of room or by choice: {who}; "
            f"the fewest {least}."
        )
    if "n_truncated" in records and len(cut := records[records["n_truncated"] > 0]):
        who = listed(f"{look(m).label} on {d}" for m, d in zip(cut["method"], cut["dataset"], strict=True))
        notes.append(f"In {len(cut)} runs some prompts were too long and lost a part: {who}.")
    for measure in MEASURES:
        absent = records[records[measure].isna()]
        if len(absent):
            who = listed(
                f"{look(m).label} on {model}" for m, model in zip(absent["method"], absent["model"], strict=True)
            )
            notes.append(
                f"{measure} could not be measured in {len(absent)} of {len(records)} runs: {who}. Shown as n/a."
            )
    if runs := doubts["missing"]:
        notes.append(
            f"{len(runs)} runs left no predictions ({listed(runs)}): intervals of their cells vary over seeds only."
        )
    if runs := doubts["mismatch"]:
        notes.append(f"In {len(runs)} runs the score does not follow from the stored predictions: {listed(runs)}.")
    if cells := doubts["items"]:
        notes.append(f"The evaluation items differ between seeds for {listed(cells)}; intervals use the shared ones.")
    if runs := doubts["twice"]:
        notes.append(
            f"{len(runs)} runs repeat the dataset and seed of another of their row and are left out: {listed(runs)}."
        )
    return notes


def stand_ins(records: pd.DataFrame) -> list[str]:
    """Where a development set was evaluated for want of the test set."""
    if "evaluation_split" not in records:
        return []
    splits = records[["dataset", "evaluation_split"]].dropna().drop_duplicates().sort_values("dataset")
    return [
        f"{dataset} was evaluated on {split}, which was not at hand."
        for dataset, split in splits.itertuples(index=False)
        if " in place of " in split
    ]


def summarise(experiment: Experiment) -> Summary:
    records = experiment.records
    datasets = sorted({*records["dataset"], *experiment.failures["dataset"]})
    doubts: dict[str, list[str]] = {key: [] for key in ("missing", "mismatch", "items", "twice")}
    every = build_arms(experiment, datasets, doubts)
    arms = [arm for arm in every if arm.method not in ABLATION_ONLY]
    guessing = records.dropna(subset="chance").groupby("dataset")
    chance = {str(n): float(rows["chance"].median()) / get(str(rows["metric"].iloc[0])).highest for n, rows in guessing}
    metrics = {str(name): str(rows.iloc[0]) for name, rows in records.groupby("dataset")["metric"]}
    studied = [arm for arm in every if arm.method in ABLATION_ONLY]
    summary = Summary(experiment, arms, studied, datasets, chance, metrics)
    summary.comparisons = compare_all(arms, datasets)
    summary.stand_ins = stand_ins(records)
    summary.notes = summary.stand_ins + remarks(summary, doubts)
    return summary
