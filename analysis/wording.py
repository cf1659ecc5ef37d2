"""What the wording of a prompt is worth, where every item was scored in every template (`template=all`).

Two tables: scores template by template, and the median over templates and draws beside the usual median over draws.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis import statistics as stats
from analysis.summary import Arm, Summary
from analysis.typeset import ABSENT, Panel, Table, count, percent


def by_template(runs: pd.DataFrame) -> pd.DataFrame:
    """(runs) x (templates): the score of every run in every template, nan where a run has none."""
    rows = [{name: quality["score"] for name, quality in scores.items()} for scores in runs["score_by_template"]]
    return pd.DataFrame(rows, dtype=float)


def scored_in_all(arm: Arm) -> Iterator[tuple[str, pd.DataFrame]]:
    """(dataset, runs) where an arm's items were scored in every template."""
    if "score_by_template" in arm.records:
        scored = arm.records[arm.records["template"] == "all"].dropna(subset="score_by_template")
        for dataset, runs in scored.groupby("dataset"):
            yield str(dataset), runs


def wording(summary: Summary) -> Table | None:
    """Per arm and dataset the lowest, the median and the highest template."""
    rows, numbers = [], []
    for arm in summary.arms:
        for dataset, runs in scored_in_all(arm):
            scores = by_template(runs).median()  # over seeds, by template
            low, high = str(scores.idxmin()), str(scores.idxmax())
            spread = [percent(scores[low]), percent(float(scores.median())), percent(scores[high])]
            points = f"{100 * (scores[high] - scores[low]):.1f}"
            rows.append([arm.name, arm.model, dataset, count(len(scores)), *spread, points, low, high])
            own = {"method": arm.method, "model": arm.model, "variant": arm.variant, "dataset": dataset}
            numbers += [{**own, "template": name, "score": value} for name, value in scores.items()]
    if not rows:
        return None
    columns = [("", name) for name in ("Method", "Model", "Data set", "Templates")]
    columns += [(f"{summary.title_measure} by template, %", name) for name in ("lowest", "median", "highest", "spread")]
    columns += [("", "Lowest"), ("", "Highest")]
    notes = ["Every item in every template; a template's score is the median over seeds."]
    return Table(
        "wording", f"{summary.title_measure} by template", columns, [Panel("", rows)], pd.DataFrame(numbers), 3, notes
    )


POLICIES = {"": "Over templates and draws", "_over_draws": "Over draws, templates averaged, as in every other table"}


def templates_and_draws(summary: Summary) -> Table | None:
    """Median (IQR) over all pairs of a template and a draw, and over draws alone with templates averaged."""
    numbers = []
    for arm in summary.arms:
        for dataset, runs in scored_in_all(arm):
            scores = by_template(runs)
            own = {"method": arm.method, "model": arm.model, "variant": arm.variant, "dataset": dataset}
            own |= {"name": arm.name, "templates": scores.shape[1], "draws": len(runs)}
            pairs = scores.to_numpy().ravel()
            for suffix, values in (("", pairs[~np.isnan(pairs)]), ("_over_draws", runs["score"])):
                median, iqr = stats.median_iqr(values)
                own |= {f"median{suffix}": float(median), f"iqr{suffix}": float(iqr)}
            numbers.append(own)
    if not numbers:
        return None
    frame = pd.DataFrame(numbers)
    datasets = sorted(set(frame["dataset"]))
    panels = []
    for suffix, title in POLICIES.items():
        rows = []
        for (name, model), runs in frame.groupby(["name", "model"], sort=False):
            medians, iqrs = (runs.set_index("dataset")[f"{kind}{suffix}"] for kind in ("median", "iqr"))
            texts = [f"{percent(medians[d])} ({percent(iqrs[d])})" if d in medians else ABSENT for d in datasets]
            rows.append([name, model, *texts, percent(float(medians.mean()))])
        panels.append(Panel(title, rows))
    columns = [("", "Method"), ("", "Model"), *(("", name) for name in datasets), ("", "Average")]
    notes = [
        "Median (interquartile range), in percent. Over templates and draws: of the score in every template on "
        "every draw, as the paper's text describes. Over draws: an item counts by its share of templates answered "
        "right. The paper's printed values fit one random template per item, which is template=random here."
    ]
    title = "Median over templates and draws"
    return Table("templates", title, columns, panels, frame.drop(columns="name"), 2, notes)
