"""Figures of encoders with a trained head: scores against what is trained, stored and spent, and against K."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from analysis import figures
from analysis.appearance import FOREGROUND, MethodStyle, method_style, model_label
from analysis.encoder_glue import PRINTED_AVERAGE
from analysis.encoders import (
    DOMAIN_PART,
    GLUE_PART,
    LOW_RESOURCE_PARTS,
    PARTS,
    SQUAD_PART,
    Block,
    Estimate,
    Part,
    amount,
    average,
    blocks,
)
from analysis.figures import Line, Panel
from analysis.labels import FONT_SIZE
from analysis.markers import BACKGROUND, Point
from analysis.pareto import flops_per_prediction
from analysis.pretraining import ADAPTING
from analysis.published import METHODS, SOURCES, UNIPELT, mark, printed_in
from analysis.summary import Arm, Summary
from analysis.typeset import significant


@dataclass(frozen=True)
class Kind:
    """A figure that every part can have: its axes, each a label and what an arm costs there."""

    title: str
    axes: Mapping[str, Callable[[Arm], float | None]]
    reading: str
    counts: bool = False  # parameters, not FLOPs


KINDS = {
    "parameters": Kind(
        "against parameters",
        {
            "Parameters trained, without the head": partial(amount, measure="params.trained"),
            "Parameters stored, without the head": partial(amount, measure="params.stored"),
        },
        "Up and to the left is better: a higher score for fewer parameters, left those that training updates, right "
        "those that are kept. A level is a method without any beside its head.",
        counts=True,
    ),
    "flops": Kind(
        "against FLOPs",
        {
            "FLOPs to adapt, counted, with its share of pre-training": partial(amount, measure=ADAPTING),
            "FLOPs per prediction, counted": flops_per_prediction,
        },
        "Up and to the left is better: a higher score for fewer FLOPs, spent once on the left and in every prediction "
        "on the right. Pre-training on a task's texts is shared out over the data sets that start from it.",
    ),
}
LINES = "glue_low_resource"
READING = {f"{part.name}_{name}": kind.reading for part in PARTS for name, kind in KINDS.items()} | {
    LINES: "Up is better, and a steeper line gains more from further examples; bars are 95 % intervals over seeds and "
    "items, or one standard deviation of what is published. Markers of the same K stand side by side to be told apart.",
}


def titles(summary: Summary) -> dict[str, str]:
    """Figure -> its caption, of those that these records have something for."""
    found = {LINES: "GLUE against the number of training examples"} if curves(summary) else {}
    for part in parts_drawn(summary):
        others = ", ".join(map(model_label, averages(summary, part)[2]))
        left_out = f" (not drawn, as they ran on other data sets: {others})" if others else ""
        found |= {
            f"{part.name}_{name}": f"{part.title}, scores {kind.title}{left_out}"
            for name, kind in KINDS.items()
            if any(panel.points for panel in panels(summary, part, name))
        }
    return found


def drawings(summary: Summary) -> dict[str, Figure]:
    """Every figure of `titles`."""
    return {name: draw(summary, name) for name in titles(summary)}


def draw(summary: Summary, name: str) -> Figure:
    if name == LINES:
        return draw_curves(curves(summary))
    part, kind = next((part, kind) for part in PARTS for kind in KINDS if f"{part.name}_{kind}" == name)
    return figures.draw([panel for panel in panels(summary, part, kind) if panel.points])[0]


def parts_drawn(summary: Summary) -> list[Part]:
    """Of the low-resource setting only the largest K; the curves show the others."""
    there = {block.part.name for block in blocks(summary)}
    largest = [part for part in LOW_RESOURCE_PARTS if part.name in there][-1:]
    return [part for part in (GLUE_PART, *largest, DOMAIN_PART, SQUAD_PART) if part.name in there]


# -- scores against costs -----------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def averages(summary: Summary, part: Part) -> tuple[list[tuple[Arm, Estimate]], list[str], list[str]]:
    """The arms of a part that have an average, the data sets it is over, and the models left out; the main model first.

    Left out are models that ran on other data sets than the one with most arms: their averages do not compare.
    """
    found = [block for block in blocks(summary) if block.part is part]
    main = max(found, key=lambda block: len(block.arms))
    datasets = main.datasets
    same = [main, *(block for block in found if block is not main and block.datasets == datasets)]
    others = [block.model for block in found if block.datasets != datasets]
    scored = [(arm, average(arm, datasets)) for block in same for arm in block.arms]
    return [(arm, estimate) for arm, estimate in scored if estimate is not None], datasets, others


def panels(summary: Summary, part: Part, kind: str) -> list[Panel]:
    """A panel for each axis: points, and levels for what costs nothing on a logarithmic axis."""
    scored, datasets, _ = averages(summary, part)
    models = list(dict.fromkeys(arm.model for arm, _ in scored))
    made = []
    for label, cost in KINDS[kind].axes.items():
        points, lines = [], []
        for arm, estimate in scored:
            spent = cost(arm)
            name = arm.name if arm.model == models[0] else f"{arm.name} · {model_label(arm.model)}"
            if spent == 0:
                lines.append(Line(100 * estimate.mean, name, arm.style.colour, "--"))
            elif spent is not None:
                low, high = (100 * end for end in estimate.interval) if estimate.interval else (None, None)
                points.append(
                    Point(spent, 100 * estimate.mean, name, arm.style, low, high, open_marker=arm.model != models[0])
                )
        text = short_count if KINDS[kind].counts else None
        made.append(Panel(panel_title(part, models), label, points, lines, score_label(part, datasets), x_text=text))
    return made


def panel_title(part: Part, models: Sequence[str]) -> str:
    others = "; open markers: other models" if len(models) > 1 else ""
    return f"{part.title}: {''.join(map(model_label, models[:1]))}{others}"


def score_label(part: Part, datasets: Sequence[str]) -> str:
    if len(datasets) == 1:
        return f"Score on {part.labels[datasets[0]]}, %"
    return f"Mean score on {len(datasets)} data sets, %"


def short_count(value: float, _: object = None) -> str:
    """11,083,376 as 11.1M."""
    for suffix, scale in (("M", 1e6), ("K", 1e3)):
        if value >= scale:
            return f"{significant(value / scale)}{suffix}"
    return significant(value)


# -- scores against K ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """One method's scores by number of training examples, in percent."""

    label: str
    style: MethodStyle
    by_shots: Mapping[int, tuple[float, float, float]]  # score, and the ends of its interval


@dataclass(frozen=True)
class Curves:
    title: str
    y_label: str
    curves: Sequence[Curve]


def curves(summary: Summary) -> list[Curves]:
    """A panel for each model with more than one K, and UniPELT's own; none without such a model."""
    found = [block for block in blocks(summary) if block.part in LOW_RESOURCE_PARTS]
    by_model: dict[str, list[Block]] = {}
    for block in found:
        by_model.setdefault(block.model, []).append(block)
    measured = [panel for own in by_model.values() if len(own) > 1 and (panel := measured_curves(own)) is not None]
    return [*measured, published_curves()] if measured else []


def measured_curves(own: Sequence[Block]) -> Curves | None:
    """Over the data sets that are there for every K; methods that have each of them, for at least two K."""
    part = own[0].part
    datasets = [name for name in part.labels if all(name in block.datasets for block in own)]
    lines = []
    for method, variant in dict.fromkeys((arm.method, arm.variant) for block in own for arm in block.arms):
        arms = {block.part.shots or 0: block.arm(method, variant) for block in own}
        scored = {shots: average(arm, datasets) for shots, arm in arms.items() if arm is not None}
        places = {
            shots: (100 * e.mean, *(100 * end for end in e.interval or (e.mean, e.mean)))
            for shots, e in scored.items()
            if e is not None
        }
        if len(places) > 1:
            name = method_style(method).label + (f", {variant}" if variant else "")
            lines.append(Curve(name, method_style(method), places))
    return Curves(f"Measured here: {model_label(own[0].model)}", score_label(part, datasets), lines) if lines else None


def published_curves() -> Curves:
    """Table 1 of arXiv 2110.07577: its averages, their bars one standard deviation."""
    places: dict[str, dict[int, tuple[float, float, float]]] = {}
    hands: dict[str, bool] = {}
    for part in LOW_RESOURCE_PARTS:
        rows = printed_in(UNIPELT, f"table1_K{part.shots}", dataset=PRINTED_AVERAGE)
        for _, row in rows.iterrows():
            sd = float(row["spread"])
            ends = row["number"], row["number"] - sd, row["number"] + sd
            places.setdefault(row["method"], {})[part.shots or 0] = ends
            hands[row["method"]] = hands.get(row["method"], False) or row["second_hand"]
    lines = [
        Curve(METHODS[method] + mark(hands[method]), method_style(OURS.get(method, method)), by_shots)
        for method, by_shots in places.items()
        if len(by_shots) > 1
    ]
    return Curves(f"Published: BERT-base ({SOURCES[UNIPELT]}), bars: 1 sd", "Mean score on 8 data sets, %", lines)


OURS = {  # printed method -> ours, for its colour
    "full_finetuning": "full_ft",
    "unipelt_apl": "unipelt_paper",
    "unipelt_ap": "unipelt",
    "prefix_tuning_L10": "prefix",
}


def draw_curves(found: Sequence[Curves]) -> Figure:
    """Lines over a logarithmic K, named at their right ends."""
    with mpl.rc_context(figures.RC_PARAMS):
        figure = Figure(figsize=(5.2 * len(found), 4.4), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)  # measures the labels
        all_axes = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, panel in zip(all_axes, found, strict=True):
            _draw_lines(axes, panel)
        figure.canvas.draw()
        figure.set_layout_engine("none")
        for axes, panel in zip(all_axes, found, strict=True):
            _name_lines(axes, panel)
    return figure


def _beside(panel: Curves, position: int, shots: int) -> float:
    """Where a method's marker stands at a K: a step of three percent beside its neighbours."""
    return shots * 1.03 ** (position - (len(panel.curves) - 1) / 2)


def _draw_lines(axes: Axes, panel: Curves) -> None:
    axes.set(title=panel.title, xlabel="Training examples per data set (K)", ylabel=panel.y_label, xscale="log")
    shots = sorted({k for curve in panel.curves for k in curve.by_shots})
    for position, curve in enumerate(panel.curves):
        x = [_beside(panel, position, k) for k in curve.by_shots]
        y, low, high = zip(*curve.by_shots.values(), strict=True)
        colour = curve.style.colour
        axes.vlines(x, low, high, colors=colour, linewidth=1.2, alpha=0.7, zorder=3)
        shape = {"marker": curve.style.marker, "markersize": 6 * curve.style.size, "markeredgecolor": BACKGROUND}
        axes.plot(x, y, color=colour, linewidth=1.6, zorder=4, **shape)
    axes.set_xticks(shots)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(shots[0] / 1.4, shots[-1] * 3.2)  # room for names


def _name_lines(axes: Axes, panel: Curves) -> None:
    """Names in a column right of all markers, in the order of the lines' ends, moved apart where these are close."""
    scale, inside = axes.figure.dpi / 100, axes.get_window_extent()
    ends = []
    for position, curve in enumerate(panel.curves):
        shots = max(curve.by_shots)
        place = (_beside(panel, position, shots), curve.by_shots[shots][0])
        ends.append((axes.transData.transform(place), curve))
    ends.sort(key=lambda end: end[0][1])
    heights = apart([float(end[0][1]) for end in ends], 12 * scale, inside.y0 + 6 * scale, inside.y1 - 6 * scale)
    column = max(float(end[0][0]) for end in ends) + 26 * scale
    to_axes = axes.transAxes.inverted().transform
    for (end, curve), height in zip(ends, heights, strict=True):
        (x0, y0), (x1, y1) = to_axes([(end[0] + 5 * scale, end[1]), (column - 3 * scale, height)])
        leader = {"transform": axes.transAxes, "linewidth": 0.6, "alpha": 0.7, "zorder": 2}
        axes.plot([x0, x1], [y0, y1], color=curve.style.colour, **leader)
        shape = {"transform": axes.transAxes, "fontsize": FONT_SIZE, "ha": "left", "va": "center"}
        axes.text(*to_axes((column, height)), curve.label, color=FOREGROUND, **shape)


def apart(places: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Sorted places, each at least so far above the one before, as near to where they were as both ends allow."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + distance) if found else max(place, low))
    limit = high
    for index in reversed(range(len(found))):
        found[index] = min(found[index], limit)
        limit = found[index] - distance
    return found
