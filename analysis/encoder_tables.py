"""Domains and SQuAD with a trained head: every metric that the papers print, and theirs beneath ours."""

import pandas as pd

from adaptbench.metrics import get
from analysis.appearance import model_label
from analysis.encoder_cells import (
    SPREAD,
    chosen_on,
    failed,
    number_row,
    printed_row,
    rows_of,
    text,
    with_state,
)
from analysis.encoder_glue import glue, low_resource
from analysis.encoder_parameters import parameters
from analysis.encoders import DOMAIN_PART, DOMAINS, SQUAD, SQUAD_PART, Block, blocks, estimate, estimate_by
from analysis.published import DONT_STOP, FAIRSEQ, METHODS, PT_UNIPELT, SOURCES, as_printed, footnotes, printed_in
from analysis.summary import Arm, Summary
from analysis.typeset import ABSENT, Panel, Row, Table, interval

OWN_METRIC = (
    "The interval is of the data set's own metric, named beside it: what another counts of the items is not kept."
)

# -- domains ------------------------------------------------------------------------------------------------------

F1_KINDS = {"f1_micro": "micro-F1", "f1_macro": "macro-F1"}
UNSTATED = "F1 (kind unstated)"
SOURCES_OF_DOMAINS = ((DONT_STOP, "table5"), (DONT_STOP, "table3"), (PT_UNIPELT, "domain"))


def domains(summary: Summary) -> Table | None:
    """Data set by data set both kinds of F1, and what the papers print under the kind that it is."""
    present = [block for block in blocks(summary) if block.part is DOMAIN_PART]
    panels, numbers, frames = [], [], []
    for name, label in DOMAINS.items():
        arms = [arm for block in present for arm in block.arms if name in arm.by_dataset]
        if not arms:
            continue
        judged_by = headline_metric(arms[0], name)
        numbers += [
            number_row(arm, name, metric, estimate_by(arm, name, metric))
            for arm in arms
            for metric in dict.fromkeys((*F1_KINDS, judged_by))
        ]
        theirs = pd.concat([printed_in(source, place, dataset=label) for source, place in SOURCES_OF_DOMAINS])
        theirs = theirs[theirs["metric"].isin([*F1_KINDS.values(), UNSTATED])]
        numbers += [printed_row(row) for _, row in theirs.iterrows()]
        frames.append(theirs)
        rows = [measured_f1(arm, name) for arm in arms] + [printed_f1(row) for _, row in theirs.iterrows()]
        panels.append(Panel(f"{label} (interval: {get(judged_by).label})", rows))
    if not panels:
        return None
    columns = [("", "Method"), ("", "Model"), ("", "Source"), *(("F1, %", kind) for kind in F1_KINDS.values())]
    columns += [("F1, %", "kind not stated"), ("", "95 % interval")]
    notes = [
        SPREAD,
        OWN_METRIC,
        f"{SOURCES[DONT_STOP]} prints micro-F1 of ChemProt and RCT and macro-F1 of the others. {SOURCES[PT_UNIPELT]} "
        "does not say which kind its F1 is, as far as could be read; the kinds differ where classes are uneven, so its "
        "numbers compare with neither column.",
        same_baselines(),
        rows_of(present),
        chosen_on(present),
        failed(summary, [DOMAIN_PART]),
    ]
    title, notes = "Domains, encoders with a trained head", [*filter(None, notes), *footnotes(frames)]
    return Table("domains", title, columns, panels, pd.DataFrame(numbers), 3, notes)


def headline_metric(arm: Arm, dataset: str) -> str:
    return str(arm.records.loc[arm.records["dataset"] == dataset, "metric"].iloc[0])


def measured_f1(arm: Arm, dataset: str) -> Row:
    micro, macro = (text(estimate_by(arm, dataset, kind)) for kind in F1_KINDS)
    own = estimate(arm, dataset)
    cells = [with_state(arm, dataset, micro), macro, ABSENT, interval(own.interval if own else None)]
    return [arm.name, model_label(arm.model), "measured here", *cells]


def printed_f1(row: pd.Series) -> Row:
    """A printed score in the column of its kind."""
    cells = [as_printed(row) if row["metric"] == kind else ABSENT for kind in (*F1_KINDS.values(), UNSTATED)]
    return [METHODS[row["method"]], row["model"], f"{SOURCES[row['paper']]}, {row['place']}", *cells, ABSENT]


def same_baselines() -> str | None:
    """Whether the baselines whose kind is not stated are another paper's macro-F1."""
    own = printed_in(PT_UNIPELT, "domain", method="baseline_roberta").set_index("dataset")["number"]
    theirs = printed_in(DONT_STOP, "table5", method="roberta", metric="macro-F1").set_index("dataset")["number"]
    if not own.equals(theirs.reindex(own.index)):
        return None
    return f"The baselines of {SOURCES[PT_UNIPELT]} are the macro-F1 of {SOURCES[DONT_STOP]} to the last digit."


# -- SQuAD --------------------------------------------------------------------------------------------------------

ANSWER_METRICS = {"exact_match": "EM", "token_f1": "F1"}  # what the sources call them
SOURCES_OF_SQUAD = ((PT_UNIPELT, "squad"), (FAIRSEQ, "squad1.1_dev"))


def squad(summary: Summary) -> Table | None:
    """Exact match and token F1."""
    present = [block for block in blocks(summary) if block.part is SQUAD_PART]
    if not present:
        return None
    datasets = [name for name in SQUAD if name == "squad" or any(name in block.datasets for block in present)]
    panels = [measured_answers(block, datasets) for block in present]
    numbers = [
        number_row(arm, name, metric, estimate_by(arm, name, metric))
        for block in present
        for arm in block.arms
        for name in arm.by_dataset
        for metric in ANSWER_METRICS
    ]
    frames = [printed_in(source, place) for source, place in SOURCES_OF_SQUAD]
    panels += [printed_answers(frame, len(datasets)) for frame in frames]
    numbers += [printed_row(row) for frame in frames for _, row in frame.iterrows()]
    arms = [arm for block in present for arm in block.arms]
    columns = [("", "Method"), ("", "Model")]
    for name in datasets:
        judged = {get(headline_metric(arm, name)).label for arm in arms if name in arm.by_dataset}
        names = [
            *(get(metric).label for metric in ANSWER_METRICS),
            f"95 % interval {', '.join(sorted(judged))}".strip(),
        ]
        columns += [(f"{SQUAD[name]}, %", column) for column in names]
    notes = [SPREAD, OWN_METRIC, rows_of(present), chosen_on(present), failed(summary, [SQUAD_PART])]
    remarks = filter(None, [*notes, larger_baseline()])
    title, notes = "SQuAD, encoders with a trained head", [*remarks, *footnotes(frames)]
    return Table("squad", title, columns, panels, pd.DataFrame(numbers), 2, notes)


def measured_answers(block: Block, datasets: list[str]) -> Panel:
    rows = []
    for arm in block.arms:
        row = [arm.name, model_label(arm.model)]
        for name in datasets:
            exact, token = (text(estimate_by(arm, name, metric)) for metric in ANSWER_METRICS)
            own = estimate(arm, name)
            row += [with_state(arm, name, exact), token, interval(own.interval if own else None)]
        rows.append(row)
    return Panel(f"Measured here: {block.title}", rows)


def printed_answers(frame: pd.DataFrame, datasets: int) -> Panel:
    """In the columns of SQuAD 1.1, which is the first."""
    rows = []
    for (method, model), cells in frame.groupby(["method", "model"], sort=False):
        found = {row["metric"]: as_printed(row) for _, row in cells.iterrows()}
        scores = [found.get(metric, ABSENT) for metric in ANSWER_METRICS.values()]
        rows.append([METHODS[str(method)], str(model), *scores, *[ABSENT] * (3 * datasets - len(scores))])
    return Panel(f"Published: {SOURCES[frame['paper'].iloc[0]]}", rows)


def larger_baseline() -> str | None:
    """Whether a baseline printed of a base model is what another source prints of the large one."""
    own = printed_in(PT_UNIPELT, "squad", method="full_finetuning").set_index("metric")
    large = printed_in(FAIRSEQ, "squad1.1_dev", model="roberta.large").set_index("metric")["number"]
    if not own["number"].equals(large.reindex(own.index)):
        return None
    cells = " and ".join(f"{as_printed(row)} {metric}" for metric, row in own.iterrows())
    return (
        f"Full fine-tuning's {cells} in {SOURCES[PT_UNIPELT]} are what {SOURCES[FAIRSEQ]} prints of RoBERTa-large: no "
        "baseline for a base model."
    )


TABLES = (glue, low_resource, domains, squad, parameters)
NAMES = ("glue", "glue_low_resource", "domains", "squad", "encoder_parameters")  # in the order of the page
