"""The tables of a report, each one function from a summary to a `Table`: numbers for the CSV, words for the reader.

Seconds and peak memory depend on the machine and its load, so they live in `machine` alone: every other table is the
same wherever and whenever the same records were made.
"""

import numpy as np
import pandas as pd

from adaptbench.metrics import get
from analysis import ablations, encoder_tables, pareto, wording
from analysis import statistics as stats
from analysis.appearance import method_style
from analysis.collect import NORMS
from analysis.pretraining import ADAPTING, SECONDS, SHARED, any_pretraining
from analysis.published import PAPER, published_table1
from analysis.summary import Arm, Summary
from analysis.typeset import (
    ABSENT,
    Best,
    Panel,
    Table,
    count,
    interval,
    percent,
    power,
    seconds,
    signed,
    significant,
    size,
)


def short(method: str, model: str, others: list[str]) -> str:
    """A published row's name as the paper's figure has it."""
    return (
        method_style(method).label
        if others.count(method) == 1 and method != "zero_shot"
        else f"{method_style(method).label} {model}"
    )


def best_of(arms: list[Arm]) -> float:
    """The highest average among arms that ran on every dataset; they alone can be compared by it."""
    return max((arm.score or 0.0 for arm in arms if arm.covers_all), default=np.inf)


def average_text(arm: Arm) -> str:
    partial = f" ({len(arm.by_dataset)}/{len(arm.finished)} datasets)" if not arm.covers_all and arm.by_dataset else ""
    return percent(arm.score) + partial


def table1(summary: Summary) -> Table:
    """Method, inference FLOPs, training FLOPs, disk, score: the paper's Table 1, its own numbers if they compare."""
    best, rows, numbers = best_of(summary.arms), [], []
    for arm in summary.arms:
        spent = {
            "flops_inference_measured": arm.typical("flops.predict.measured"),
            "flops_inference_paper": arm.typical("flops.predict.paper"),
            "flops_training_measured": arm.typical(ADAPTING),
            "flops_training_paper": arm.typical("flops.adapt.paper"),
        }
        disk, text = arm.typical("storage.bytes"), average_text(arm)
        text = Best(text) if arm.covers_all and arm.score == best else text
        rows.append([arm.name, arm.model, *map(power, spent.values()), size(disk), text, interval(arm.interval)])
        low, high = arm.interval or (None, None)
        own = {"source": "measured here", "method": arm.method, "model": arm.model, "variant": arm.variant}
        quality = {"score": arm.score, "ci_low": low, "ci_high": high, "chance": summary.mean_chance}
        numbers.append({**own, **spent, "disk_bytes": disk, **quality, "datasets": len(arm.by_dataset)})
    theirs = []
    for row in published_table1().itertuples() if summary.as_in_the_paper else ():
        costs = [ABSENT, power(row.flops_inference), ABSENT, power(row.flops_training), size(row.disk)]
        theirs.append([method_style(row.method).label, row.model, *costs, f"{row.score:.1f}", ABSENT])
        own = {"source": PAPER, "method": row.method, "model": row.model, "variant": ""}
        spent = {"flops_inference_paper": row.flops_inference, "flops_training_paper": row.flops_training}
        numbers.append({**own, **spent, "disk_bytes": row.disk, "score": row.score / 100, "datasets": 11})
    names, measure = [("", "Method"), ("", "Model")], f"{summary.title_measure}, %"
    names += [("Inference FLOPs/example", kind) for kind in ("measured", "formula")]
    names += [("Training FLOPs", kind) for kind in ("measured", "formula")]
    names += [("", "Disk"), (measure, "average"), (measure, "95 % interval")]
    chance = ", ".join(f"{name} {percent(summary.chance.get(name))}" for name in summary.datasets)
    notes = [
        f"{summary.title_measure}: mean over {len(summary.metrics)} datasets of the median over seeds, with a "
        "hierarchical-bootstrap interval over seeds and items, conservative from three seeds on. "
        f"Chance: {percent(summary.mean_chance)} ({chance}).",
        "measured: counted on the real step; formula: the paper's arithmetic per token.",
        *([SHARED.format("Measured training FLOPs")] if summary.pretrained else []),
        *summary.substituted_splits,
    ]
    panels = [Panel("Measured here", rows)]
    panels += [Panel(f"Published, {PAPER}, Table 1 (11 datasets)", theirs)] if theirs else []
    return Table(
        "table1", f"Table 1. {summary.title_measure} and costs", names, panels, pd.DataFrame(numbers), 2, notes
    )


def answered(records: pd.DataFrame) -> Table:
    """Runs on rows without labels: how many, and their bill (means over runs)."""
    rows, numbers = [], []
    for (method, model), runs in records.groupby(["method", "model"]):
        measured = {"flops.predict.measured": "flops.predict.measured", "flops.adapt.measured": ADAPTING}
        spent = {name: float(runs[column].mean()) for name, column in measured.items()}
        own = {"method": method, "model": model, "datasets": runs["dataset"].nunique(), "runs": len(runs)}
        disk = float(runs["storage.bytes"].mean())
        numbers.append({**own, "answers": int(runs["n_eval"].sum()), **spent, "disk_bytes": disk})
        counts = [count(own["datasets"]), count(own["runs"]), count(runs["n_eval"].sum())]
        rows.append([method_style(str(method)).label, str(model), *counts, *map(power, spent.values()), size(disk)])
    columns = ["Method", "Model", "Data sets", "Runs", "Answers", "FLOPs/example", "Training FLOPs", "Disk"]
    notes = [SHARED.format("Training FLOPs")] if any_pretraining(records) else []
    title, headings = "Answers without labels, and what they cost", [("", name) for name in columns]
    return Table("answered", title, headings, [Panel("", rows)], pd.DataFrame(numbers), 2, notes)


def cell_text(arm: Arm, dataset: str) -> str:
    """median (IQR), with how many of the expected seeds there are if not all."""
    cell, lost = arm.by_dataset.get(dataset), arm.failed.get(dataset, 0)
    done, expected = len(cell.seeds) if cell else 0, arm.expected[dataset]
    state = f"{done}/{expected} seeds" + (f", {lost} failed" if lost else "")
    if cell is None:
        return f"— {state}"
    text = f"{percent(cell.median)} ({percent(cell.iqr)})"
    return text if done >= expected and not lost else f"{text} {state}"


def scores(summary: Summary) -> Table:
    """Median (IQR) over seeds per method and dataset, their average, and chance."""
    rows, numbers = [], []
    tops = {
        name: max((arm.by_dataset[name].median for arm in summary.arms if name in arm.by_dataset), default=np.inf)
        for name in summary.datasets
    }
    best = best_of(summary.arms)
    for arm in summary.arms:
        row = [arm.name, arm.model]
        own = {"method": arm.method, "model": arm.model, "variant": arm.variant}
        for name in summary.datasets:
            cell, text = arm.by_dataset.get(name), cell_text(arm, name)
            row.append(Best(text) if cell and cell.median == tops[name] else text)
            state = {"seeds": len(cell.seeds) if cell else 0, "expected": arm.expected[name]}
            state["failed"] = arm.failed.get(name, 0)
            values = {}
            if cell:
                low, high = cell.interval
                spread = {
                    "median": cell.median,
                    "iqr": cell.iqr,
                    "mean": cell.scores.mean(),
                    "iqm": stats.iqm(cell.scores),
                }
                values = {**spread, "ci_low": low, "ci_high": high, "chance": summary.chance.get(name)}
            numbers.append({**own, "dataset": name, **state, **values})
        text = average_text(arm)
        rows.append([*row, Best(text) if arm.covers_all and arm.score == best else text])
    chance = [*(percent(summary.chance.get(name)) for name in summary.datasets), percent(summary.mean_chance)]
    different = summary.metrics if summary.measure == "score" else {}  # from data set to data set
    headings = [f"{n} [{get(different[n]).label}]" if n in different else n for n in summary.datasets]
    columns = [("", "Method"), ("", "Model"), *(("", name) for name in headings), ("", "Average")]
    panels = [Panel("", rows), Panel("", [["Chance", "", *chance]])]
    lost = sum(sum(arm.failed.values()) for arm in summary.arms)
    notes = ["Median (interquartile range) over seeds, in percent. Bold or starred: the highest of its column."]
    notes += summary.substituted_splits
    if lost:
        notes.append(f"{lost} runs failed and are not in the numbers; their cells say so.")
    return Table("scores", f"{summary.title_measure} per dataset", columns, panels, pd.DataFrame(numbers), 2, notes)


def costs(summary: Summary) -> Table:
    """What each method trains, computes and stores: counted, so the same on every machine."""
    measures = {
        "trainable": "params.trainable",
        "flops_adapt_measured": ADAPTING,
        "flops_adapt_paper": "flops.adapt.paper",
        "flops_predict_measured": "flops.predict.measured",
        "flops_predict_paper": "flops.predict.paper",
    }
    if "flops.predict.merged" in summary.experiment.records:
        measures["flops_predict_merged"] = "flops.predict.merged"
    rows, numbers = [], []
    for arm in summary.arms:
        values: dict[str, float | None] = {name: arm.typical(measure) for name, measure in measures.items()}
        values["percent_updated"] = arm.percent_updated
        values["kv_cache_bytes"] = arm.highest("memory.kv_cache_bytes")
        values["storage_bytes"] = arm.typical("storage.bytes")
        updated = arm.percent_updated
        row = [
            arm.name,
            arm.model,
            count(values["trainable"]),
            ABSENT if updated is None else f"{significant(updated)} %",
        ]
        row += [power(values[name]) for name in list(measures)[1:]]
        if summary.pretrained:
            values["flops_adapt_pretraining"] = arm.pretraining_share
            row.insert(5, power(arm.pretraining_share))
        rows.append([*row, size(values["kv_cache_bytes"]), size(values["storage_bytes"])])
        numbers.append({"method": arm.method, "model": arm.model, "variant": arm.variant, **values})
    columns = [("", "Method"), ("", "Model"), ("Parameters updated", "number"), ("Parameters updated", "of model")]
    columns += [("FLOPs to adapt", "measured"), *[("FLOPs to adapt", "of them pre-training")] * summary.pretrained]
    columns += [("FLOPs to adapt", "formula")]
    columns += [("FLOPs per prediction", "measured"), ("FLOPs per prediction", "formula")]
    notes = ["Mean over datasets of the median over seeds; the key/value cache is the largest of any run."]
    if "flops_predict_merged" in measures:
        columns.append(("FLOPs per prediction", "merged"))
        notes.append("merged: with what was learned folded into the weights, where a method can be.")
    if summary.pretrained:
        notes.append(SHARED.format("Measured FLOPs to adapt") + " The formula has none of it.")
    columns += [("", "KV cache"), ("", "Storage")]
    return Table("costs", "Costs, counted", columns, [Panel("", rows)], pd.DataFrame(numbers), 2, notes)


def machine(summary: Summary) -> Table:
    """Peak memory, counted, and time, true of the machine the runs were made on."""
    rows, numbers = [], []
    for arm in summary.arms:
        peaks = {f"peak_bytes_{phase}": arm.highest(f"memory.{phase}.peak_bytes") for phase in ("adapt", "predict")}
        times = {"seconds_adapt": arm.typical(SECONDS), "seconds_predict": arm.typical("seconds.predict")}
        rows.append([arm.name, arm.model, *map(size, peaks.values()), *map(seconds, times.values())])
        numbers.append({"method": arm.method, "model": arm.model, "variant": arm.variant, **peaks, **times})
    columns = [("", "Method"), ("", "Model")]
    columns += [(group, phase) for group in ("Peak memory to", "Time to") for phase in ("adapt", "predict")]
    notes = [
        "Memory: the largest peak of tensors in any run. Time: mean over datasets of the median over seeds, per run."
    ]
    if summary.pretrained:
        notes.append(SHARED.format("Times to adapt") + " It was measured where the pre-training ran.")
    title = "Memory, counted, and time on this machine"
    return Table("machine", title, columns, [Panel("", rows)], pd.DataFrame(numbers), 2, notes)


def comparisons(summary: Summary) -> Table:
    """Every pair of arms on the runs both have."""
    rows, numbers = [], []
    for pair in summary.comparisons:
        verdict = "yes" if pair.significant else "no"
        p_values = [f"{pair.p:.4f}", f"{pair.p_holm:.4f}"]
        bounds = f"[{signed(pair.low)}, {signed(pair.high)}]"
        names = [summary.title(pair.first), summary.title(pair.second)]
        rows.append([*names, signed(pair.difference), bounds, *p_values, verdict, str(pair.runs)])
        ends = {
            f"{side}_{key}": value
            for side, arm in (("first", pair.first), ("second", pair.second))
            for key, value in zip(("method", "model", "variant"), arm.key, strict=True)
        }
        values = {"difference": pair.difference, "ci_low": pair.low, "ci_high": pair.high}
        scope = {"p": pair.p, "p_holm": pair.p_holm, "datasets": pair.datasets, "runs": pair.runs}
        numbers.append({**ends, **values, **scope})
    columns = [
        ("", "First"),
        ("", "Second"),
        ("First − second, points", "mean"),
        ("First − second, points", "95 % interval"),
    ]
    columns += [("p-value", "alone"), ("p-value", "Holm"), ("", "Significant"), ("", "Paired runs")]
    notes = [
        "Difference of mean scores on the same datasets, seeds and items; paired t-test with seeds and items as "
        "crossed random effects, conservative with two seeds. Significant: below 0.05 after Holm's adjustment over all "
        "pairs of this table."
    ]
    title = "Paired comparisons"
    return Table("comparisons", title, columns, [Panel("", rows)], pd.DataFrame(numbers), 2, notes)


def normalisation(summary: Summary) -> Table:
    """Average score had choices been ranked by log-likelihood per token, in all, per character, per byte."""
    rows, numbers = [], []
    for arm in summary.arms:
        medians = np.array([np.median(cell.norms, axis=1) for cell in arm.by_dataset.values()])  # (datasets, norms)
        values = (
            [None if np.isnan(v) else float(v) for v in medians.mean(axis=0)] if len(medians) else [None] * len(NORMS)
        )
        top = max((value for value in values if value is not None), default=None)
        cells = [percent(value) for value in values]
        marked = [Best(c) if v is not None and v == top else c for c, v in zip(cells, values, strict=True)]
        rows.append([arm.name, arm.model, *marked])
        own = {"method": arm.method, "model": arm.model, "variant": arm.variant}
        numbers.append({**own, **dict(zip(NORMS, values, strict=True))})
    columns = [("", "Method"), ("", "Model"), *(("Log-likelihood per", name) for name in NORMS)]
    notes = ["Recomputed from the stored scores of every choice; the highest of a row is bold or starred."]
    title = f"{summary.title_measure} under other length normalisations"
    return Table("normalisation", title, columns, [Panel("", rows)], pd.DataFrame(numbers), 2, notes)


def failures(summary: Summary) -> Table:
    """Runs that failed and have no record since."""
    lost = summary.experiment.failures
    rows = [
        [
            method_style(row.method).label,
            row.model,
            row.dataset,
            str(row.seed),
            str(row.error).splitlines()[0] if row.error else "",
        ]
        for row in lost.itertuples()
    ]
    columns = [("", name) for name in ("Method", "Model", "Dataset", "Seed", "Error")]
    frame = lost[["run_id", "method", "model", "dataset", "seed", "error"]]
    notes = () if rows else ("No run failed.",)
    return Table("failures", "Failed runs", columns, [Panel("", rows)], frame, 5, notes)


BUILDERS = (table1, scores, costs, machine, comparisons, normalisation, failures)
OPTIONAL = (  # None where the records have nothing for them
    pareto.pareto,
    wording.wording,
    wording.templates_and_draws,
    *encoder_tables.TABLES,
)


def build_all(summary: Summary) -> dict[str, Table]:
    built = {builder.__name__: builder(summary) for builder in BUILDERS}
    built |= {table.name: table for builder in OPTIONAL if (table := builder(summary)) is not None}
    return built | {result.ablation.name: ablations.table(result, summary) for result in ablations.results(summary)}
