"""Draws the paper's Figures 2 and 3 from an experiment's records, beside the same plots of the published numbers.

A figure is a function from a summary to its panels, the published one only where it compares; `draw` makes a matplotlib
figure of them, `write` saves it as pdf and png, `inline_svg` embeds it in the report.
"""

import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, MaxNLocator
from matplotlib.transforms import Bbox

from analysis.appearance import FOREGROUND, method_style
from analysis.labels import Label, place_labels
from analysis.markers import BACKGROUND, RING_RADIUS, Point, dodge, draw_front, draw_points
from analysis.pareto import AXES, Member, fronts, probability_text
from analysis.published import PAPER, PRINTED_LABEL, published_table1, published_table4
from analysis.summary import Arm, Summary
from analysis.tables import short

GREY = "#8a93a3"
MAX_PEFT_METHODS = 8  # as many fit on a cost axis
BEST_KNOWN = ("t_few", "ia3", "lora", "adapter", "prefix", "bitfit", "prompt_10")
RC_PARAMS = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FOREGROUND,
    "axes.labelcolor": FOREGROUND,
    "axes.titlecolor": FOREGROUND,
    "axes.facecolor": BACKGROUND,
    "figure.facecolor": BACKGROUND,
    "text.color": FOREGROUND,
    "xtick.color": FOREGROUND,
    "ytick.color": FOREGROUND,
    "axes.grid": True,
    "grid.color": GREY,
    "grid.alpha": 0.22,
    "grid.linewidth": 0.6,
    "svg.hashsalt": "adaptbench",  # the same figure has the same bytes
    "pdf.fonttype": 42,
}
METADATA: dict[str, dict[str, str | None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}


@dataclass(frozen=True)
class Line:
    """A horizontal line, for a score without a value on the x axis; no label if a point has the same one."""

    y: float
    label: str
    colour: str
    linestyle: str


@dataclass(frozen=True)
class Panel:
    """One pair of axes: its points, its horizontal lines and their descriptions."""

    title: str
    x_label: str
    points: Sequence[Point]
    lines: Sequence[Line]
    y_label: str = "Score, %"
    x_text: Callable[[float, object], str] | None = None
    front_level: float | None = None  # the best score, in percent, that costs nothing: left of a logarithmic axis
    logarithmic: bool = True


# -- drawing ------------------------------------------------------------------------------------------------------


def add_labels(
    axes: Axes, points: Sequence[Point], lines: Sequence[Line], steps: Sequence[Bbox] = (), below: Sequence[Bbox] = ()
) -> list[Bbox]:
    """Labels points and lines, clear of markers, intervals, lines and the front's `steps`; returns the labels' boxes.

    The front's probabilities come first and stand above and left of it, where nothing else is: not `below`.
    """
    to_pixels, scale = axes.transData.transform, axes.figure.dpi / 100
    inside = axes.get_window_extent()
    labels, probabilities, obstacles = [], [], list(steps)
    for line in lines:
        _, y = to_pixels((axes.get_xlim()[0], line.y))
        labels.append(Label(line.label, line.colour, inside.x1, y, of_line=True))
        obstacles.append(Bbox.from_extents(inside.x0, y - scale, inside.x1, y + scale))
    for point in points:
        x, y = to_pixels((point.x, point.y))
        labels.append(Label(point.label, point.style.colour, x, y))
        probabilities.append(Label(point.front, FOREGROUND, x, y))
        radius = (RING_RADIUS if point.front else 6) * scale
        obstacles.append(Bbox.from_extents(x - radius, y - radius, x + radius, y + radius))
        if point.low is not None and point.high is not None:
            (_, bottom), (_, top) = to_pixels([(point.x, point.low), (point.x, point.high)])
            obstacles.append(Bbox.from_extents(x - 6 * scale, bottom, x + 2 * scale, top))
    boxes = place_labels(axes, probabilities, [*obstacles, *below], FOREGROUND)
    return boxes + place_labels(axes, labels, [*obstacles, *boxes], FOREGROUND)


def format_axes(axes: Axes, panel: Panel) -> None:
    """Sets titles, the x axis, and limits that leave room for labels."""
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    heights = [y for p in panel.points for y in (p.y, p.low, p.high, *p.seeds) if y is not None]
    heights += [line.y for line in panel.lines]
    room = max(0.10 * (max(heights) - min(heights)), 1.5)
    above = 2 * room if any(point.front for point in panel.points) else room  # nothing but names is above a front
    axes.set_ylim(max(min(heights) - room, -2), min(max(heights) + above, 104))
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    if not panel.points:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "no run has a value on this axis", transform=axes.transAxes, ha="center", alpha=0.6)
        return
    low, high = min(p.x for p in panel.points), max(p.x for p in panel.points)
    if not panel.logarithmic:
        room = 0.14 * (high - low) or 1.0
        axes.set_xlim(low - room, high + room)
        return
    axes.set_xscale("log")
    room = max((high / low) ** 0.14, 2.0)
    axes.set_xlim(low / room, high * room)
    narrow = high / low * room**2 < 300
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=12))
    axes.xaxis.set_major_formatter(
        FuncFormatter(panel.x_text) if panel.x_text else LogFormatterSciNotation(minor_thresholds=(9, 9))
    )
    axes.minorticks_off()


def draw(panels: Sequence[Panel]) -> tuple[Figure, list[list[Bbox]]]:
    """Draws panels side by side; returns the figure and the boxes of each panel's labels."""
    with mpl.rc_context(RC_PARAMS):
        figure = Figure(figsize=(10.4, 4.4), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)  # measures the labels
        all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(all_axes, panels, strict=True):
            format_axes(axes, panel)
        figure.canvas.draw()  # pixel positions are final only after the layout
        figure.set_layout_engine("none")
        boxes = []
        for axes, panel in zip(all_axes, panels, strict=True):
            for line in panel.lines:
                axes.axhline(line.y, color=line.colour, linestyle=line.linestyle, linewidth=1.2, zorder=1)
            points = dodge(axes, panel.points)
            draw_points(axes, points)
            front = draw_front(axes, points, panel.front_level)
            boxes.append(add_labels(axes, points, panel.lines, *front))
    return figure, boxes


# -- what is drawn ------------------------------------------------------------------------------------------------


def main_model(summary: Summary) -> str:
    """The model of most arms; points of other models are drawn with open markers."""
    return Counter(arm.model for arm in summary.arms).most_common(1)[0][0]


def best_known(summary: Summary, axis: str) -> list[Arm]:
    """All arms; of many parameter-efficient methods only the best known and those on the front of the axis.

    On cost axes their points coincide.
    """
    many = sum(arm.family == "peft" for arm in summary.arms) > MAX_PEFT_METHODS
    front = {key for key, member in on_axis(summary, axis).items() if member.on_front}
    return [a for a in summary.arms if not many or a.family != "peft" or a.method in BEST_KNOWN or a.key in front]


def comparable(arms: Sequence[Arm]) -> list[Arm]:
    """The arms with a run on every data set; all of them where none has."""
    return [arm for arm in arms if arm.covers_all] or list(arms)


def on_axis(summary: Summary, axis: str) -> dict[tuple[str, str, str], Member]:
    """Arm -> its place on an axis, of the arms that are compared there."""
    return {member.arm.key: member for member in fronts(summary).get(axis, ())}


def measured_panel(
    summary: Summary, axis: str, x_label: str, arms: Sequence[Arm] | None = None, logarithmic: bool = True
) -> Panel:
    """Every arm with a value on the axis as a point, and two scores as lines: zero-shot and the best ICL without.

    Arms without a run on some data set are left out where others have one on all: means over different data sets do
    not compare. What costs nothing is left of a logarithmic axis: the front starts at the best of it.
    """
    main, members = main_model(summary), on_axis(summary, axis)
    probabilities = {key: probability_text(m.probability) for key, m in members.items() if m.on_front}
    points: list[Point] = []
    lines = [] if summary.mean_chance is None else [Line(100 * summary.mean_chance, "chance", GREY, ":")]
    levels: dict[str, tuple[Arm, bool]] = {}
    for arm in comparable(summary.arms if arms is None else arms):
        if arm.score is None or arm.interval is None:
            continue
        x = members[arm.key].cost if arm.key in members else AXES[axis].cost(arm)
        drawn, free = x is not None and (x > 0 or not logarithmic), x == 0 and logarithmic
        if x is not None and drawn:
            low, high = (100 * end for end in arm.interval)
            seeds, surely = [100 * score for score in arm.by_seed.values()], probabilities.get(arm.key, "")
            text, others = point_label(arm, main), arm.model != main
            points.append(Point(x, 100 * arm.score, text, arm.style, low, high, seeds, others, surely))
        zero_shot = arm.family == "zero_shot" and (arm.model == main or (free and arm.key in probabilities))
        if zero_shot or (arm.family != "zero_shot" and free):
            best = levels[arm.family][0] if arm.family in levels else None
            if best is None or (arm.covers_all, arm.score) > (best.covers_all, best.score or 0):
                levels[arm.family] = arm, drawn
    for family, (arm, drawn) in levels.items():
        text = ": ".join(filter(None, (point_label(arm, main), probabilities.get(arm.key))))
        style = "--" if family == "zero_shot" else "-."
        lines.append(Line(100 * (arm.score or 0), "" if drawn else text, arm.style.colour, style))
    free_scores = [100 * (m.arm.score or 0) for m in members.values() if logarithmic and m.on_front and m.cost == 0]
    other_models = "; open markers: other models" if len(summary.models) > 1 else ""
    return Panel(
        f"Measured here: {main}{other_models}",
        x_label,
        points,
        lines,
        f"{summary.title_measure}, %",
        front_level=max(free_scores, default=None),
        logarithmic=logarithmic,
    )


def point_label(arm: Arm, main: str) -> str:
    """The arm's name, with its model if that is not the main one."""
    return arm.name if arm.model == main else f"{arm.name} · {arm.model.removeprefix('micro_')}"


def format_percent(value: float, _: object = None) -> str:
    """A tick label in percent, without powers of ten."""
    return f"{value:.6f}".rstrip("0").rstrip(".") + " %"


def figure2(summary: Summary) -> tuple[Panel, ...]:
    """Plots scores against the share of parameters updated."""
    x_label = "Parameters updated, % of the model"
    left = replace(measured_panel(summary, "parameters", x_label), x_text=format_percent)
    if not summary.as_in_the_paper:
        return (left,)
    points = [
        Point(row.percent_updated, row.score, method_style(row.method).label, method_style(row.method))
        for row in published_table4().itertuples()
    ]
    right = Panel(f"Published: T0-3B ({PAPER}, Table 4)", x_label, points, [], PRINTED_LABEL)
    return left, replace(right, x_text=format_percent)


def figure3(summary: Summary) -> tuple[Panel, ...]:
    """Plots scores against FLOPs per prediction: counted ones, or the formula's where none were counted."""
    axis = "flops_predict"
    left = measured_panel(summary, axis, "FLOPs per prediction, counted", best_known(summary, axis))
    if not summary.as_in_the_paper:
        return (left,)
    table = published_table1()
    methods = list(table["method"])
    points, lines = [], []
    for row in table.itertuples():
        style = method_style(row.method)
        points.append(Point(row.flops_inference, row.score, short(row.method, row.model, methods), style))
        if row.method == "zero_shot":
            lines.append(Line(row.score, "", style.colour, "--"))
    x_label = "FLOPs per prediction, by the paper's formula"
    right = Panel(f"Published ({PAPER}, Table 1)", x_label, points, lines, PRINTED_LABEL)
    return left, right


FIGURES = {"figure2": figure2, "figure3": figure3}


# -- files --------------------------------------------------------------------------------------------------------


def render(figure: Figure, suffix: str) -> bytes:
    """The figure as the content of a file of this type."""
    buffer = io.BytesIO()
    with mpl.rc_context(RC_PARAMS):
        figure.savefig(buffer, format=suffix, dpi=200, metadata=METADATA[suffix])
    return buffer.getvalue()


def write(figure: Figure, name: str, folder: Path) -> None:
    """Writes `<name>.pdf` and `<name>.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("pdf", "png"):
        (folder / f"{name}.{suffix}").write_bytes(render(figure, suffix))


def inline_svg(figure: Figure, name: str) -> str:
    """The figure as SVG for an HTML page, in the page's text and background colours."""
    text = render(figure, "svg").decode("utf-8")
    text = text[text.index("<svg") :].replace(FOREGROUND, "currentColor").replace(BACKGROUND, "var(--card)")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r'( id="|"#|\(#)', rf"\g<1>{name}-", text)  # ids must differ between the figures of a page
