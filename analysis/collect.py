"""From the files of one experiment to data frames: the records, the failures, and who answered which item right.

Reads `records/*.json`, `failures/*.json` and `predictions/*.parquet`, or what analysis.archive has made of them, and
nothing else. A record is one finished run (method x model x dataset x seed) with dotted keys; its columns keep those
names.
"""

import argparse
import gzip
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from adaptbench.metrics import METRICS, Metric, total
from adaptbench.metrics.base import Array, mean, mean_by_item
from adaptbench.metrics.normalisation import LENGTHS, NORMS, first_ranked, normalised
from analysis.pretraining import with_pretraining

IDENTITY = ("run_id", "experiment", "method", "model", "dataset", "template", "metric")
COUNTS = ("schema", "seed", "shots", "n_eval")
SCORES = ("score", "chance")  # null where the evaluated rows have no labels, or guessing has no level
MEASURES = (  # null where nobody could measure it
    "params.trainable",
    "params.total",
    "flops.adapt.measured",
    "flops.adapt.paper",
    "flops.predict.measured",
    "flops.predict.paper",
    "memory.adapt.peak_bytes",
    "memory.predict.peak_bytes",
    "memory.kv_cache_bytes",
    "storage.bytes",
    "seconds.adapt",
    "seconds.predict",
)
EXTRAS = (  # measures that not every record has
    "flops.predict.merged",
    "forgetting.nats_per_token",
    "params.trained",
    "params.stored",
    "params.served",
    "params.head",
    "pretraining.flops",
    "pretraining.seconds",
)
CHOICE_COLUMNS = ("uid", "template", "label", "choice", "log_likelihood", "tokens", "characters", "bytes")
ANSWER_COLUMNS = ("uid", "template", "prediction", "reference", "classes")
ROUNDING = 1e-9  # by which share of a metric's ends a score may lie beyond them
ANSWERED = "answer"  # stands for a length normalisation where nothing is ranked
FAILURE_COLUMNS = ("run_id", "method", "model", "dataset", "seed", "error", "traceback", "time")


class ReportError(Exception):
    """What is wrong with the input and where, in one line."""


class Arguments(argparse.ArgumentParser):
    """The command line of a program; what is wrong with it is a ReportError."""

    def error(self, message: str) -> NoReturn:
        raise ReportError(f"{message} (see --help)")


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise ReportError(f"{path}: expected one JSON object, found {type(content).__name__}")
    return content


def read_all(folder: Path, kind: str) -> list[tuple[dict[str, Any], Path]]:
    """Every record or failure of an experiment with the file it stands in: one each, or all in an archive's one."""
    packed = folder / f"{kind}.jsonl.gz"
    if not packed.is_file():
        return [(read_json(path), path) for path in sorted((folder / kind).glob("*.json"))]
    try:
        with gzip.open(packed, "rt", encoding="utf-8") as lines:
            return [(json.loads(line), packed) for line in lines]
    except (OSError, ValueError, EOFError) as error:
        raise ReportError(f"{packed}: not readable as lines of JSON ({error})") from error


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def in_range(score: float, metric: Metric) -> bool:
    """Between the metric's lowest and highest score, up to rounding: sacrebleu's best BLEU is 100.00000000000004."""
    lowest, highest = (end * (1 + ROUNDING) for end in (metric.lowest, metric.highest))
    return lowest <= score <= highest


def validate(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """The record with NaN measures as None; a ReportError naming file, field and value if it is not a record."""
    required = (*IDENTITY, *COUNTS, *SCORES, *MEASURES)
    if missing := [key for key in required if key not in record]:
        raise ReportError(f"{path}: not a record, missing {', '.join(missing)}")
    for key in IDENTITY:
        if not isinstance(record[key], str):
            raise ReportError(f"{path}: {key} is {record[key]!r}, expected text")
    for key in COUNTS:
        if not is_number(record[key]) or record[key] != int(record[key]):
            raise ReportError(f"{path}: {key} is {record[key]!r}, expected a whole number")
    metric = METRICS.get(record["metric"])
    if metric is None:
        raise ReportError(f"{path}: metric is {record['metric']!r}, expected one of {', '.join(METRICS)}")
    for key in SCORES:
        if record[key] is None:
            continue
        if not is_number(record[key]) or not in_range(record[key], metric):
            between = f"from {metric.lowest:g} to {metric.highest:g}"
            raise ReportError(f"{path}: {key} is {record[key]!r}, expected a number {between}")
    for key in MEASURES:
        if record[key] is not None and not is_number(record[key]):
            raise ReportError(f"{path}: {key} is {record[key]!r}, expected a number or null")
        if record[key] is not None and not math.isfinite(record[key]):
            record[key] = None
    if path.suffix == ".json" and record["run_id"] != path.stem:
        raise ReportError(f"{path}: holds run_id {record['run_id']!r}, expected the file's own name")
    return record


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of a nested configuration as (dotted key, JSON text)."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, json.dumps(tree, sort_keys=True, default=str).strip('"')


def settings(record: dict[str, Any]) -> dict[str, str]:
    """What could tell two runs of one method on one model apart."""
    own = {key: str(record[key]) for key in ("shots", "template")}
    given = dict(leaves(record.get("provenance.config")))
    fields = {f"config.{key}": text for key, text in given.items() if key.split(".")[-1] not in own}
    return own | fields


def name_variants(records: list[dict[str, Any]]) -> None:
    """Sets `variant` in place: "" unless a (method, model) answers the same dataset and seed more than once.

    Then the experiment sweeps a setting (shots, a rank, a learning rate) and each of its values is a row of its own. A
    setting that some runs do not know, because their code did not have it yet, is swept only if others differ in it.
    """
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for record in records:
        record["variant"] = ""
        groups.setdefault((record["method"], record["model"]), []).append(record)
    for group in groups.values():
        swept: dict[str, None] = {}
        cells: dict[tuple, list[dict[str, str]]] = {}
        for record in group:
            cells.setdefault((record["dataset"], record["seed"]), []).append(settings(record))
        for cell in cells.values():
            for key in dict.fromkeys(key for given in cell for key in given):
                if key not in ("config.seed", "config.seeds") and len({g[key] for g in cell if key in g}) > 1:
                    swept[key] = None
        for record in group:
            given = settings(record)
            record["variant"] = ", ".join(f"{key.split('.')[-1]}={given.get(key, 'unset')}" for key in swept)


def load_records(folder: Path) -> tuple[pd.DataFrame, int]:
    """One row per finished run, sorted by what it is, so that file names and directory order do not matter.

    Two columns are added: what adapting took with its share of pre-training (`analysis.pretraining`).

    Records of an older schema answer questions that have since been asked anew: they are left out, and counted.
    """
    every = [validate(record, path) for record, path in read_all(folder, "records")]
    newest = max((record["schema"] for record in every), default=0)
    records = [record for record in every if record["schema"] == newest]
    name_variants(records)
    identity = ["method", "model", "variant", "dataset", "seed", "run_id"]
    frame = pd.DataFrame(records, columns=list(dict.fromkeys(key for r in records for key in r)) or identity)
    for key in (*SCORES, *MEASURES, *EXTRAS):
        if key in frame:
            frame[key] = frame[key].astype(float)
    return with_pretraining(frame.sort_values(identity, ignore_index=True)), len(every) - len(records)


def load_failures(folder: Path, finished: set[str]) -> pd.DataFrame:
    """One row per run that failed and has no record since."""
    rows = []
    for failure, path in read_all(folder, "failures"):
        if absent := [key for key in ("run_id", "method", "model", "dataset", "seed", "error") if key not in failure]:
            raise ReportError(f"{path}: not a failure report, missing {', '.join(absent)}")
        if failure["run_id"] not in finished:
            rows.append({key: failure.get(key) for key in FAILURE_COLUMNS})
    frame = pd.DataFrame(rows, columns=list(FAILURE_COLUMNS))
    return frame.sort_values(["method", "model", "dataset", "seed"], ignore_index=True)


def read_predictions(path: Path) -> pd.DataFrame | None:
    """One row per item and choice, or one per item; None where the run left no predictions."""
    if not path.is_file():
        return None
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: not readable as parquet ({str(error).splitlines()[0]})") from error
    wanted = CHOICE_COLUMNS if "choice" in frame else ANSWER_COLUMNS
    if missing := [name for name in wanted if name not in frame]:
        raise ReportError(f"{path}: missing column {', '.join(missing)}")
    return frame


@dataclass(frozen=True)
class Judged:
    """What a metric counts of every item that one run answered."""

    uids: pd.Index  # (N,) in the file's order
    statistics: dict[str, Array]  # length normalisation (ANSWERED where nothing is ranked) -> (N, k)
    metric: Metric

    def under(self, norm: str) -> Array:
        """(N, k) under a normalisation, or the only one there is."""
        return self.statistics[norm if norm in self.statistics else next(iter(self.statistics))]

    def score(self, norm: str) -> float:
        """Between the metric's lowest and highest score."""
        return float(self.metric.aggregate(total(self.under(norm))))


def judged(predictions: pd.DataFrame, metric: Metric) -> Judged:
    """Every item's statistics. An item that was put in several templates counts by their mean."""
    if "choice" in predictions:
        items = predictions.groupby(["uid", "template"], sort=False).ngroup().to_numpy()
        first = np.unique(items, return_index=True)[1]
        choice = predictions["choice"].to_numpy(dtype=int)
        columns = {name: predictions[name].to_numpy(dtype=float) for name in ("log_likelihood", *LENGTHS.values())}
        answers: dict[str, Any] = {norm: first_ranked(items, choice, normalised(columns, norm)) for norm in NORMS}
        asked, classes = predictions.iloc[first], int(choice.max()) + 1
        references: Any = asked["label"].to_numpy(dtype=int)
    else:
        asked, classes = predictions, int(predictions["classes"].max())
        answers, references = {ANSWERED: asked["prediction"].tolist()}, asked["reference"].tolist()
    uids = asked["uid"].astype(str).tolist()
    found = {
        norm: mean_by_item(uids, metric.per_item(answered, references, classes)) for norm, answered in answers.items()
    }
    return Judged(pd.Index(dict.fromkeys(uids), name="uid"), found, metric)


def packed(judged: Judged) -> pd.DataFrame:
    """As an archive keeps it: one column for each normalisation, or as many as a metric has statistics."""
    columns = {}
    for norm, statistics in judged.statistics.items():
        if is_mean(statistics, judged.metric):
            columns[norm] = statistics[:, 0]
        else:
            columns |= {f"{norm}.{index}": column for index, column in enumerate(statistics.T)}
    return pd.DataFrame(columns, index=judged.uids)


def unpacked(frame: pd.DataFrame, metric: Metric) -> Judged:
    """What `packed` has packed."""
    own = frame.dropna(axis=1, how="all")
    statistics = {}
    for norm in dict.fromkeys(str(column).split(".")[0] for column in own):
        if norm in own:
            statistics[norm] = np.stack([own[norm].to_numpy(dtype=float), np.ones(len(own))], axis=1)
        else:
            statistics[norm] = own[[c for c in own if str(c).startswith(f"{norm}.")]].to_numpy(dtype=float)
    return Judged(pd.Index(frame.index, name="uid"), statistics, metric)


def is_mean(statistics: Array, metric: Metric) -> bool:
    """Whether a score is the plain mean of the first statistic."""
    return metric.aggregate is mean and bool((statistics[..., 1] == 1).all())


@dataclass(frozen=True)
class Experiment:
    """The finished and the failed runs of one folder; predictions are read when first asked for.

    `records` are the scored runs; `unscored` those that answered rows without labels.
    """

    folder: Path
    records: pd.DataFrame
    failures: pd.DataFrame
    unscored: pd.DataFrame
    outdated: int = 0  # records of an older schema, left out
    _judged: dict[str, Judged | None] = field(default_factory=dict, repr=False)

    @cached_property
    def packed(self) -> dict[str, pd.DataFrame] | None:
        """Run -> its items' statistics, where the folder is an archive."""
        path = self.folder / "outcomes.parquet"
        if not path.is_file():
            return None
        frame = pd.read_parquet(path).astype({"run_id": str, "uid": str})
        groups = frame.set_index("uid").groupby("run_id", sort=False)
        return {str(run_id): group.drop(columns="run_id") for run_id, group in groups}

    @cached_property
    def name(self) -> str:
        return ", ".join(sorted({*self.records["experiment"], *self.unscored["experiment"]})) or self.folder.name

    def judged(self, run_id: str, metric: Metric) -> Judged | None:
        """What the metric counts of a run's items; None where the run left no predictions."""
        if run_id not in self._judged:
            self._judged[run_id] = self._judge(run_id, metric)
        return self._judged[run_id]

    def _judge(self, run_id: str, metric: Metric) -> Judged | None:
        if self.packed is not None:
            kept = self.packed.get(run_id)
            return None if kept is None else unpacked(kept, metric)
        found = read_predictions(self.folder / "predictions" / f"{run_id}.parquet")
        return None if found is None or found.empty else judged(found, metric)


def load(folder: Path) -> Experiment:
    """The experiment in `folder`; a ReportError if there is nothing to report on."""
    if not folder.is_dir():
        raise ReportError(f"{folder}: no such folder, expected outputs/<experiment> with records/*.json")
    records, outdated = load_records(folder)
    failures = load_failures(folder, set(records["run_id"]))
    if records.empty:
        failed = f" ({len(failures)} failed; the first: {failures['error'].iloc[0]})" if len(failures) else ""
        raise ReportError(f"{folder}: no finished run in records/*.json{failed}")
    unscored = records["score"].isna()
    return Experiment(folder, records[~unscored].reset_index(drop=True), failures, records[unscored], outdated)
