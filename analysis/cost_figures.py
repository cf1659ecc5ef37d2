"""Figures about costs, from a summary: scores against what was spent, the break-even chart, and stacked bills."""

from collections.abc import Callable
from dataclasses import replace

from matplotlib.figure import Figure

from analysis.appearance import method_style
from analysis.charts import ITEMS, Bars, Stack, Tally, break_even, stacked
from analysis.figures import Line, Panel, Point, best_known, measured_panel
from analysis.pareto import AXES
from analysis.pretraining import ADAPTING
from analysis.published import PAPER, published_table1
from analysis.summary import Arm, Summary
from analysis.tables import short
from analysis.typeset import size
from analysis.verdicts import best

PREDICTIONS = 1000  # that a bar of the breakdown holds
SPENT = {"adapting": "#D55E00", "predicting": "#88AACC"}
BEFORE = {"pre-training": "#999933"}


def bytes_text(value: float, _: object = None) -> str:
    return size(value)


def theirs(summary: Summary, measure: str, x_label: str) -> tuple[Panel, ...]:
    """Table 1's rows, where they compare: a point where a method spends anything, a level where it spends nothing."""
    if not summary.as_in_the_paper:
        return ()
    table = published_table1()
    methods = list(table["method"])
    points, lines = [], []
    for row in table.itertuples():
        style, name = method_style(row.method), short(row.method, row.model, methods)
        if getattr(row, measure) > 0:
            points.append(Point(getattr(row, measure), row.score, name, style))
        else:
            lines.append(Line(row.score, name, style.colour, "--" if row.method == "zero_shot" else "-."))
    return (Panel(f"Published ({PAPER}, Table 1)", x_label, points, lines),)


def training_flops(summary: Summary) -> tuple[Panel, ...]:
    """Scores against the FLOPs of adapting, spent once."""
    with_share = ", with a share of pre-training" if summary.pretrained else ""
    x_label = f"FLOPs to adapt, counted{with_share} (levels: nothing is trained)"
    left = measured_panel(summary, "flops_adapt", x_label, best_known(summary, "flops_adapt"))
    return left, *theirs(summary, "flops_training", "FLOPs to adapt, by the paper's formula")


def memory(summary: Summary) -> tuple[Panel, ...]:
    """Scores against peak memory, to adapt and to predict."""

    def panel(phase: str) -> Panel:
        axis, x_label = f"memory_{phase}", f"Peak memory to {phase}, bytes of tensors"
        return replace(measured_panel(summary, axis, x_label, best_known(summary, axis)), x_text=bytes_text)

    return panel("adapt"), panel("predict")


def storage(summary: Summary) -> tuple[Panel, ...]:
    """Scores against what has to be stored for a task beside the model."""
    x_label = "Bytes to store for a task"
    left = measured_panel(summary, "storage", x_label, best_known(summary, "storage"))
    return tuple(replace(panel, x_text=bytes_text) for panel in (left, *theirs(summary, "disk", x_label)))


def forgetting(summary: Summary) -> tuple[Panel] | None:
    """Scores against what adapting has made the model forget; None where fewer than two arms have it."""
    if sum(AXES["forgetting"].cost(arm) is not None for arm in summary.arms) < 2:
        return None
    return (measured_panel(summary, "forgetting", AXES["forgetting"].label, logarithmic=False),)


def tallies(summary: Summary) -> list[Tally]:
    """The tuned methods worth a line (the best one of each family), every way of prompting, and zero-shot."""
    leaders = [arm for family in ("peft", "full", "zero_shot") if (arm := best(summary, family)) is not None]
    found = []
    for arm in [*leaders, *(arm for arm in summary.arms if arm.family == "icl")]:
        once, each = arm.typical(ADAPTING), arm.typical("flops.predict.measured")
        if each:
            found.append(Tally(summary.title(arm), arm.method, once or 0.0, each))
    return found


def published_tallies() -> list[Tally]:
    """Table 1's numbers: T-Few, and GPT-3 175B as printed and with its examples cached (41 times cheaper)."""
    table = published_table1().set_index(["method", "model"])
    tuned, prompted = table.loc[("t_few", "T0-11B")], table.loc[("icl", "GPT-3-175B")]
    return [
        Tally("T-Few, T0-11B", "t_few", tuned.flops_training, tuned.flops_inference),
        Tally("ICL, GPT-3 175B", "icl", 0.0, prompted.flops_inference),
        Tally("ICL, GPT-3 175B, cached", "icl_cached", prompted.flops_inference, prompted.flops_inference / 41),
    ]


def break_even_chart(summary: Summary) -> Figure:
    mine = tallies(summary)
    panels = [("Measured here", mine)] if mine or not summary.as_in_the_paper else []
    if summary.as_in_the_paper:
        panels.append((f"Published ({PAPER}, Table 1)", published_tallies()))
    return break_even(panels)


def breakdown(summary: Summary) -> Figure:
    """FLOPs of adapting (and pre-training) and of some predictions, and peak memory by what it holds."""
    names = {arm.key: summary.title(arm) for arm in summary.arms}
    spent = [
        Stack(
            names[arm.key],
            {
                "pre-training": arm.pretraining_share or 0.0,
                "adapting": arm.typical("flops.adapt.measured") or 0.0,
                "predicting": PREDICTIONS * (arm.typical("flops.predict.measured") or 0.0),
            },
        )
        for arm in summary.arms
    ]
    held = [Stack(names[arm.key], items) for arm in summary.arms if (items := memory_items(arm))]
    flops = Bars(f"FLOPs: adapting and {PREDICTIONS:,} predictions", "FLOPs, counted", spent, SPENT)
    if summary.pretrained:  # a third name in the legend leaves no room for a long title
        flops = Bars("FLOPs", f"FLOPs with {PREDICTIONS:,} predictions, counted", spent, BEFORE | SPENT)
    return stacked([flops, Bars("Peak memory (tuned: to adapt)", "bytes of tensors", held, ITEMS, "bytes")])


def memory_items(arm: Arm) -> dict[str, float]:
    """What the largest peak of an arm's runs held: of adapting where something is trained, else of predicting."""
    for phase in ("adapt", "predict"):
        column = f"memory.{phase}.items"
        if column in arm.records and any(isinstance(items, dict) for items in arm.records[column]):
            known = [items for items in arm.records[column] if isinstance(items, dict)]
            return dict(max(known, key=lambda items: sum(items.values())))
    return {}


PANELS: dict[str, Callable[[Summary], tuple[Panel, ...]]] = {
    "training_flops": training_flops,
    "memory": memory,
    "storage": storage,
}
OPTIONAL: dict[str, Callable[[Summary], tuple[Panel, ...] | None]] = {"forgetting": forgetting}
CHARTS: dict[str, Callable[[Summary], Figure]] = {"break_even": break_even_chart, "breakdown": breakdown}
READING = {
    "training_flops": "Up and to the left is better: a higher score for fewer FLOPs of training, spent once. "
    "A level is a method that trains nothing and pays in its predictions instead (Figure 3).",
    "memory": "Up and to the left is better: a point says how much a machine must hold for one run, tensors only. "
    "Adapting needs more than predicting: the optimizer's state and what is kept for the backward pass.",
    "storage": "Up and to the left is better: this is what a task adds beside the base model, for every task again. "
    "In-context learning stores its examples as token ids, tuning its parameters, zero-shot nothing.",
    "forgetting": "Up and to the left is better: a higher score for a smaller rise of the loss on other text. "
    "Left of zero a model has even gained there; methods that train nothing forget nothing.",
    "break_even": "A line starts at what is paid before the first prediction and rises by what each one costs. "
    "Dots give the predictions after which tuning has cost less in all than prompting; a cache moves them far right.",
    "breakdown": "Left: adapting once and a thousand predictions end to end; the proportions change with that number. "
    "Right: what the peak of memory holds; only full fine-tuning keeps gradients of every weight.",
}
