"""Cells and CSV rows that the tables of encoders share: estimates of ours, and numbers as the papers print them."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from analysis.encoders import Block, Estimate, Part
from analysis.published import SOURCES
from analysis.summary import Arm, Summary
from analysis.typeset import ABSENT, percent, span

COVERED = {3: 80, 5: 88}  # seeds -> percent of simulated experiments, where nothing but the seeds varies
SPREAD = (
    "Mean (standard deviation) over seeds, in percent, as these papers print them; n/a for the deviation of one seed. "
    "In square brackets the 95 % bootstrap interval of that mean over seeds and items. It is too short where seeds "
    f"outweigh the items: in simulations in which nothing but the seeds varies it covers {COVERED[3]} % with three "
    f"seeds and {COVERED[5]} % with five."
)
DEVELOPMENT_ROWS = 1000  # of arXiv 2110.07577 in its low-resource setting


def text(found: Estimate | None) -> str:
    """71.2 (1.3)"""
    return ABSENT if found is None else f"{percent(found.mean)} ({percent(found.sd)})"


def with_state(arm: Arm, dataset: str, cell: str) -> str:
    """The cell, and how many of the expected seeds there are if not all."""
    done, lost = len(arm.by_dataset[dataset].seeds) if dataset in arm.by_dataset else 0, arm.failed.get(dataset, 0)
    expected = arm.expected.get(dataset, done)
    if done >= expected and not lost:
        return cell
    return f"{cell} {done}/{expected} seeds" + (f", {lost} failed" if lost else "")


def number_row(arm: Arm, dataset: str, metric: str, found: Estimate | None, **more: Any) -> dict[str, Any]:
    """A row of the CSV."""
    low, high = (found.interval if found else None) or (None, None)
    own = {"source": "measured here", "method": arm.method, "model": arm.model, "variant": arm.variant, **more}
    values = {"mean": found.mean, "sd": found.sd, "seeds": found.seeds} if found else {}
    return {**own, "dataset": dataset, "metric": metric, **values, "ci_low": low, "ci_high": high, "mark": ""}


def printed_row(row: pd.Series, **more: Any) -> dict[str, Any]:
    """A row of the CSV for a printed number, with where it was read."""
    own = {"source": SOURCES[row["paper"]], "method": row["method"], "model": row["model"], "variant": "", **more}
    sd = float(row["spread"]) / 100 if row["spread"] else None
    said = {"mark": "second-hand" if row["second_hand"] else "", "read_in": row["source"]}
    return {**own, "dataset": row["dataset"], "metric": row["metric"], "mean": row["number"] / 100, "sd": sd, **said}


def rows_of(present: Sequence[Block]) -> str:
    """How many rows were trained on and scored, and which those were: published rows may stand on other ones."""
    told = []
    for label, runs in by_label(present):
        trained, scored = span(runs.loc[runs["shots"] > 0, "shots"]), span(runs["n_eval"])
        splits = sorted(set(runs["evaluation_split"].dropna())) if "evaluation_split" in runs else []
        told.append(f"{label} {trained} and {scored}" + (f" ({', '.join(splits)})" if splits else ""))
    return f"Rows here, trained on and scored: {'; '.join(told)}. Published scores are of rows of their own."


def development_rows(present: Sequence[Block]) -> str:
    """Where the best state was chosen on another number of rows than in arXiv 2110.07577."""
    told = []
    for label, runs in by_label(present):
        if "development.rows" in runs:
            other = runs[runs["development.rows"].notna() & (runs["development.rows"] != DEVELOPMENT_ROWS)]
            if len(other):
                shots = ", ".join(str(k) for k in sorted(set(other["shots"])))
                told.append(f"{label} {span(other['development.rows'])} (K = {shots})")
    return f"Development rows, where they are not {DEVELOPMENT_ROWS:,}: {'; '.join(told)}." if told else ""


def by_label(present: Sequence[Block]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every data set's runs in any of these blocks, which have the same columns."""
    records = [arm.records for block in present for arm in block.arms]
    for name, label in present[0].part.labels.items():
        runs = [own[own["dataset"] == name] for own in records]
        if any(len(own) for own in runs):
            yield label, pd.concat([own for own in runs if len(own)])


def chosen_on(present: Sequence[Block]) -> str:
    """On which rows the best state of a training was chosen, by data set, where the records say so."""
    by_rows: dict[str, dict[str, None]] = {}
    for block in present:
        for arm in block.arms:
            if "development.split" in arm.records:
                for _, run in arm.records[["dataset", "development.split"]].dropna().iterrows():
                    by_rows.setdefault(run["development.split"], {})[block.part.labels[run["dataset"]]] = None
    told = "; ".join(f"{rows} ({', '.join(names)})" for rows, names in by_rows.items())
    return f"The best state of a training was chosen on {told}." if told else ""


def failed(summary: Summary, parts: Sequence[Part]) -> str:
    """How many runs on the parts' data sets failed; how many shots they had, a failure report does not say."""
    datasets = {name for part in parts for name in part.labels}
    lost = int(summary.experiment.failures["dataset"].isin(datasets).sum())
    runs = "1 run on these data sets has" if lost == 1 else f"{lost} runs on these data sets have"
    return f"{runs} failed and {'is' if lost == 1 else 'are'} in no number here." if lost else ""
