"""GLUE with a trained head, on as many examples as there are and in the low-resource setting of arXiv 2110.07577."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from adaptbench.metrics import get
from analysis.appearance import model_label
from analysis.encoder_cells import (
    SPREAD,
    chosen_on,
    development_rows,
    failed,
    number_row,
    printed_row,
    rows_of,
    text,
    with_state,
)
from analysis.encoders import GLUE_PART, LOW_RESOURCE_PARTS, Block, Part, average, blocks, complete, estimate
from analysis.published import FAIRSEQ, METHODS, PT_UNIPELT, SOURCES, UNIPELT, as_printed, footnotes, printed_in
from analysis.summary import Summary
from analysis.typeset import ABSENT, Best, Panel, Row, Table, interval

AVERAGE = "average"
PRINTED_AVERAGE = "GLUE-avg8"
AVERAGED = (
    "Average: over the data sets that any method ran on with this model, and only for methods that have every seed of "
    "every one of them; averages of different models compare only where they are over the same data sets."
)
Source = tuple[str, str, str]  # who prints, where, of which model
SOURCES_OF_GLUE: tuple[Source, ...] = (
    (PT_UNIPELT, "glue", "RoBERTa-base"),
    (FAIRSEQ, "glue_dev", "roberta.base"),
    (UNIPELT, "table3_full_data", "BERT-base"),
)


def glue(summary: Summary) -> Table | None:
    """GLUE, but for its low-resource setting."""
    remarks = [
        copied_baseline(),
        f"{SOURCES[UNIPELT]} prints the best of a run's scores on the split it reports, which is optimistic. What sets "
        f"{SOURCES[PT_UNIPELT]}'s “Paper” and “Adapter Lib” apart is not known, and its other cells could not be read.",
    ]
    sources = {GLUE_PART.name: SOURCES_OF_GLUE}
    return table_of(
        summary, [GLUE_PART], sources, "glue", "GLUE, encoders with a trained head", [*filter(None, remarks)]
    )


def low_resource(summary: Summary) -> Table | None:
    """UniPELT's Table 1: K training examples of every data set."""
    sources = {part.name: [(UNIPELT, f"table1_K{part.shots}", "BERT-base")] for part in LOW_RESOURCE_PARTS}
    title = f"GLUE with K training examples, in the layout of {SOURCES[UNIPELT]}, Table 1"
    return table_of(summary, LOW_RESOURCE_PARTS, sources, "glue_low_resource", title)


def table_of(
    summary: Summary,
    parts: Sequence[Part],  # of the same columns
    sources: Mapping[str, Sequence[Source]],  # by the part's name
    name: str,
    title: str,
    remarks: Sequence[str] = (),
) -> Table | None:
    """The blocks of every part, and beneath them what its sources print; None without a block."""
    panels: list[Panel] = []
    numbers, frames = [], []
    present = [block for block in blocks(summary) if block.part in parts]
    if not present:
        return None
    for part in parts:
        own = [block for block in present if block.part is part]
        found = [measured(block) for block in own]
        theirs = [printed(part, *source) for source in sources[part.name]] if own else []
        panels += [panel for panel, _ in (*found, *theirs)]
        numbers += [row for _, rows in found for row in rows]
        numbers += [printed_row(row, **shots(part)) for _, frame in theirs for _, row in frame.iterrows()]
        frames += [frame for _, frame in theirs]
    columns = [("", "Method"), ("", "Model"), *heading(parts[0], present), ("", "Average")]
    chosen = [chosen_on(present), development_rows(present) if parts[0].shots is not None else ""]
    notes = [SPREAD, AVERAGED, rows_of(present), *chosen, failed(summary, parts), *remarks]
    notes += dict.fromkeys(map(printed_metrics, frames))
    return Table(name, title, columns, panels, pd.DataFrame(numbers), 2, [*filter(None, notes), *footnotes(frames)])


def shots(part: Part) -> dict[str, int]:
    return {} if part.shots is None else {"shots": part.shots}


def heading(part: Part, present: Sequence[Block]) -> list[tuple[str, str]]:
    """A column for each data set, with the metrics of our runs on it."""
    columns = []
    for name, label in part.labels.items():
        arms = [arm for block in present for arm in block.arms if name in arm.by_dataset]
        metrics = {str(m) for arm in arms for m in arm.records.loc[arm.records["dataset"] == name, "metric"]}
        columns.append((label, ", ".join(sorted(get(metric).label for metric in metrics))))
    return columns


def measured(block: Block) -> tuple[Panel, list[dict[str, Any]]]:
    """Two lines for each arm: means with standard deviations, and the intervals of the means."""
    labels = block.part.labels
    found = [
        {**{name: estimate(arm, name) for name in labels}, AVERAGE: average(arm, block.datasets)} for arm in block.arms
    ]
    tops = {
        name: max((cells[name].mean for cells in found if cells[name] is not None), default=np.inf)
        for name in (*labels, AVERAGE)
    }
    rows: list[Row] = []
    numbers = []
    for arm, cells in zip(block.arms, found, strict=True):
        first, second = [arm.name, model_label(arm.model)], ["", "95 % interval"]
        for name, cell in cells.items():
            shown = text(cell)
            if name in block.datasets:
                shown = with_state(arm, name, shown)
            elif name == AVERAGE and cell is None:
                have = sum(complete(arm, [dataset]) for dataset in block.datasets)
                shown = f"{ABSENT} ({have}/{len(block.datasets)} complete)"
            first.append(Best(shown) if cell and cell.mean == tops[name] else shown)
            second.append(interval(cell.interval) if cell else "")
            metrics = arm.records.loc[arm.records["dataset"] == name, "metric"]
            if name == AVERAGE or len(metrics):
                metric = "mean of the data sets' scores" if name == AVERAGE else str(metrics.iloc[0])
                numbers.append(number_row(arm, name, metric, cell, **shots(block.part)))
        rows += [first, second]
    names = ", ".join(labels[name] for name in block.datasets)
    return Panel(f"Measured here: {block.title}; average of {len(block.datasets)}: {names}", rows), numbers


def printed(part: Part, source: str, place: str, model: str) -> tuple[Panel, pd.DataFrame]:
    """The rows of a source's table, in the same columns."""
    frame = printed_in(source, place, model=model)
    rows = []
    for method, cells in frame.groupby("method", sort=False):
        by_dataset = {row["dataset"]: as_printed(row) for _, row in cells.iterrows()}
        values = [by_dataset.get(label, ABSENT) for label in (*part.labels.values(), PRINTED_AVERAGE)]
        rows.append([METHODS[str(method)], model, *values])
    return Panel(f"Published: {SOURCES[source]}, {place.replace('_', ' ')}", rows), frame


def printed_metrics(frame: pd.DataFrame) -> str:
    """By which metric a source prints each data set, as far as its rows say so."""
    named = frame[frame["dataset"] != PRINTED_AVERAGE]
    by_metric = {
        str(metric): ", ".join(dict.fromkeys(rows["dataset"])) for metric, rows in named.groupby("metric", sort=False)
    }
    said = "; ".join(f"{metric} of {datasets}" for metric, datasets in by_metric.items())
    unknown = " (“score”: which one is not known)" if "score" in by_metric else ""
    return f"{SOURCES[frame['paper'].iloc[0]]} prints {said}{unknown}."


def copied_baseline() -> str | None:
    """Whether a baseline of arXiv 2405.05493 is another source's mean to the last digit."""
    own = printed_in(PT_UNIPELT, "glue", method="full_finetuning", dataset=PRINTED_AVERAGE).iloc[0]
    theirs = printed_in(FAIRSEQ, "glue_dev", model="roberta.base")["number"].mean()
    if abs(theirs - own["number"]) > 0.005:
        return None
    return (
        f"Full fine-tuning's average of {as_printed(own)} in {SOURCES[PT_UNIPELT]} is the mean of {SOURCES[FAIRSEQ]}'s "
        "row to the last digit, so it was likely taken over and not run."
    )
