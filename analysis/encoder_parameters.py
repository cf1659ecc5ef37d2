"""What encoders train, store and serve: three counts that are easily taken for one another."""

from collections.abc import Iterator

import pandas as pd

from analysis.appearance import model_label
from analysis.encoders import Block, blocks
from analysis.published import METHODS, PT_UNIPELT, SOURCES, UNIPELT, as_printed, footnotes, mark, printed_in
from analysis.summary import Arm, Summary
from analysis.typeset import ABSENT, Panel, Row, Table, count, significant, span

COUNTS = {"trained": "Trained", "stored": "Stored", "served": "Served"}
# (our model, the source, where it prints counts, which of the three they are, our method -> its row)
PRINTED_COUNTS = (
    (
        "roberta_base",
        PT_UNIPELT,
        "params",
        "trained",
        {
            "unipelt_paper": "unipelt",
            "unipelt_paper_pt": "pt_unipelt",
            "unipelt_ia3": "ia3+prefix+seqbn",
            "unipelt_stack3": "unipelt_stack3",
        },
    ),
    (
        "bert_base",
        UNIPELT,
        "table4",
        "stored",
        {
            "full_ft": "full_finetuning",
            "bitfit": "bitfit",
            "lora": "lora",
            "adapter": "adapter",
            "unipelt_paper": "unipelt_apl",
        },
    ),
)
PREFIX = {"tokens": 10, "width": 768, "hidden": 512, "layers": 12}  # of UniPELT on a base model


def parameters(summary: Summary) -> Table | None:
    """A row for each method on a model, as numbers and as shares of the model, printed counts beside ours."""
    found = blocks(summary)
    if not found or not any(f"params.{name}" in summary.experiment.records for name in COUNTS):
        return None
    rows: list[Row] = []
    numbers, seen = [], set()
    for arm, values in counted(found):
        printed = {name: printed_count(arm.method, arm.model, name) for name in COUNTS}
        seen |= {(arm.method, arm.model)}
        row = [arm.name, model_label(arm.model)]
        for name in COUNTS:
            row += [count(values[name]), percent_of(values[name], values["total"])]
            row += [ABSENT if printed[name] is None else as_printed(printed[name])] * (name != "served")
        rows.append([*row, values["head"]])
        shares = {f"{name}_share": share(values[name], values["total"]) for name in COUNTS}
        theirs = {f"{name}_printed": None if row is None else row["number"] for name, row in printed.items()}
        second_hand = any(row is not None and row["second_hand"] for row in printed.values())
        own = {"source": "measured here", "method": arm.method, "model": arm.model, "variant": arm.variant}
        numbers.append({**own, **values, **shares, **theirs, "mark": "second-hand (printed)" if second_hand else ""})
    panels, frames = [Panel("Measured here", rows)], [printed_in(PT_UNIPELT, "params"), printed_in(UNIPELT, "table4")]
    for model, source, place, kind, methods in PRINTED_COUNTS:
        others = [name for method, name in methods.items() if (method, model) not in seen]
        if others:
            theirs_only = theirs_alone(source, place, kind, others)
            panels.append(Panel(f"Published, not run here: {SOURCES[source]}", theirs_only))
        frame = printed_in(source, place)
        frame = frame[(frame["metric"] == "trainable_params") & frame["method"].isin(others)]
        for _, row in frame.iterrows():
            own = {"source": SOURCES[source], "method": row["method"], "model": row["model"]}
            said = "second-hand (printed)" if row["second_hand"] else ""
            numbers.append({**own, f"{kind}_printed": row["number"], "mark": said, "read_in": row["source"]})
    columns = [("", "Method"), ("", "Model")]
    for name, label in COUNTS.items():
        columns += [(label, "number"), (label, "of model"), *[(label, "printed")] * (name != "served")]
    columns.append(("", "Head"))
    notes = [
        "Trained: updated while training. Stored: kept for the task. Served: what a prediction has beside the model, 0 "
        "where it merges into the weights. All without the head, which has a column of its own.",
        denominators(found),
        what_percentages_count(),
        *footnotes(frames),
    ]
    title = "Parameters: trained, stored and served"
    return Table("encoder_parameters", title, columns, panels, pd.DataFrame(numbers), 2, notes)


def counted(found: tuple[Block, ...]) -> Iterator[tuple[Arm, dict]]:
    """Every method on every model once, or once for each count where settings differ in it."""
    seen = set()
    for model in dict.fromkeys(block.model for block in found):
        arms = [arm for block in found if block.model == model for arm in block.arms if arm.by_dataset]
        heads: dict[str, list[float]] = {}
        for arm in arms:
            heads.setdefault(arm.method, []).extend(known(arm, "head"))
        for arm in arms:
            values = {name: next(iter(known(arm, name)), None) for name in (*COUNTS, "total")}
            if (key := (arm.method, model, *values.values())) not in seen:
                seen.add(key)
                yield arm, {**values, "head": span(heads[arm.method])}  # differs with the number of classes


def known(arm: Arm, name: str) -> list[float]:
    """The distinct values of a count in an arm's records."""
    column = f"params.{name}"
    return sorted(set(arm.records[column].dropna())) if column in arm.records else []


def share(value: float | None, total: float | None) -> float | None:
    return None if value is None or not total else value / total


def percent_of(value: float | None, total: float | None) -> str:
    part = share(value, total)
    return ABSENT if part is None else f"{significant(100 * part)} %"


def printed_count(method: str, model: str, kind: str) -> pd.Series | None:
    """What a source prints for a method of ours on this model."""
    for own, source, place, which, methods in PRINTED_COUNTS:
        if (own, which) == (model, kind) and method in methods:
            return printed_in(source, place, method=methods[method], metric="trainable_params").iloc[0]
    return None


def theirs_alone(source: str, place: str, kind: str, methods: list[str]) -> list[Row]:
    """Printed counts and percentages in the columns of what they count."""
    rows: list[Row] = []
    for method in methods:
        frame = printed_in(source, place, method=method).set_index("metric")
        number, of_model = frame.loc["trainable_params"], frame.loc["trainable_percent"]
        shown = [ABSENT, f"{of_model['value']} %{mark(of_model['second_hand'])}", as_printed(number)]
        cells = shown + [ABSENT] * 3 if kind == "trained" else [ABSENT] * 3 + shown
        rows.append([METHODS[method], number["model"], *cells, ABSENT, ABSENT, ABSENT])
    return rows


def prefix_network(tokens: int, width: int, hidden: int, layers: int) -> tuple[int, int]:
    """How many parameters make a prefix in training (embeddings and two linear maps), and how many numbers it is."""
    keys_and_values = 2 * layers * width
    return tokens * width + (width + 1) * hidden + (hidden + 1) * keys_and_values, tokens * keys_and_values


def denominators(found: tuple[Block, ...]) -> str:
    """What "of model" divides by here, and what the printed percentages divide by."""
    totals: dict[str, None] = {}
    for block in found:
        for arm in block.arms:
            name = model_label(block.model).split(" + ")[0]  # more pre-training adds no parameters
            totals |= {f"{name} {count(total)}": None for total in known(arm, "total")}
    whole = printed_in(PT_UNIPELT, "params", method="full_model").iloc[0]
    other = printed_in(UNIPELT, "table4", method="full_finetuning", metric="trainable_params").iloc[0]
    return (
        "Of model: of the parameters loaded here, without the pooler (where a head has a map in its place, that is the "
        f"head's): {', '.join(totals) or ABSENT}. The percentages of {SOURCES[PT_UNIPELT]} are of {as_printed(whole)}, "
        f"{whole['model']} with its pooler, those of {SOURCES[UNIPELT]} of {as_printed(other)}."
    )


def what_percentages_count() -> str:
    """Why the percentages of the two papers do not compare."""
    made_by, made = prefix_network(**PREFIX)
    theirs = printed_in(PT_UNIPELT, "params", method="unipelt").set_index("metric")
    trained, of_model = theirs.loc["trainable_params"], theirs.loc["trainable_percent"]
    whole = printed_in(PT_UNIPELT, "params", method="full_model").iloc[0]
    kept = trained["number"] - made_by + made
    other = printed_in(UNIPELT, "table4", method="unipelt_apl").set_index("metric").loc["trainable_percent"]
    hand = mark(trained["second_hand"] or whole["second_hand"])
    return (
        f"The papers' percentages count different things. {SOURCES[PT_UNIPELT]}'s "
        f"{of_model['value']} %{mark(of_model['second_hand'])} is what UniPELT trains, {as_printed(trained)} of "
        f"{as_printed(whole)}: {100 * made_by / trained['number']:.0f} % of it{hand} is the network that makes the "
        f"prefix ({made_by:,}), thrown away after training but for the {made:,} numbers it has made. What is stored is "
        f"{kept:,.0f}{hand}, {100 * kept / whole['number']:.2f} %{hand}. {SOURCES[UNIPELT]}'s {other['value']} % is "
        "counted without that network."
    )
