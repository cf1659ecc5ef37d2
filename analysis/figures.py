"""Draws the paper's Figures 2 and 3 from an experiment's records, beside the same plots of the published numbers.

A figure is a function from a summary to its two panels; `draw` makes a matplotlib figure of them, `write` saves it as
pdf and png, `inline_svg` embeds it in the report.
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

from analysis.appearance import FOREGROUND, MethodStyle, method_style
from analysis.labels import Label, place_labels
from analysis.published import PAPER, PRINTED_LABEL, published_table1, published_table4
from analysis.summary import Arm, Summary
from analysis.tables import short

BACKGROUND = "#fefefe"  # a colour of its own, like FOREGROUND, so that the report can replace it in dark mode
GREY = "#8a93a3"
DODGE = 13  # pixels at 100 dpi between markers that would overlap
MARKER_HEIGHT = 12  # pixels
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
class Point:
    """A marker with its label, and where known its interval and the scores of single seeds."""

    x: float
    y: float  # percent, as low, high and seeds
    label: str
    style: MethodStyle
    low: float | None = None
    high: float | None = None
    seeds: Sequence[float] = ()
    open_marker: bool = False  # not on the experiment's main model


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


# -- drawing ------------------------------------------------------------------------------------------------------


def shifted_x(axes: Axes, x: float, pixels: float) -> float:
    """The x value `pixels` (at 100 dpi) to the right of `x`."""
    shifted = axes.transData.transform((x, 50.0))[0] + pixels * axes.figure.dpi / 100
    return float(axes.transData.inverted().transform((shifted, 0.0))[0])


def dodge(axes: Axes, points: Sequence[Point]) -> list[Point]:
    """Shifts points whose markers or intervals would overlap horizontally, around their common mean."""
    scale = axes.figure.dpi / 100
    groups: list[list[Point]] = []
    for point in sorted(points, key=lambda p: p.x):
        x = axes.transData.transform((point.x, 50.0))[0]
        if (
            groups
            and x - axes.transData.transform((groups[-1][-1].x, 50.0))[0] < DODGE * scale
            and overlaps_vertically(axes, point, groups[-1])
        ):
            groups[-1].append(point)
        else:
            groups.append([point])
    moved = []
    for group in groups:
        middle = sum(axes.transData.transform((p.x, 50.0))[0] for p in group) / len(group)
        for rank, point in enumerate(group):
            shifted = middle + (rank - (len(group) - 1) / 2) * DODGE * scale
            x = float(axes.transData.inverted().transform((shifted, 0.0))[0])
            moved.append(point if len(group) == 1 else replace(point, x=x))
    return moved


def overlaps_vertically(axes: Axes, point: Point, group: Sequence[Point]) -> bool:
    """Whether the vertical extent of `point` overlaps that of any point of the group."""

    def extent(p: Point) -> tuple[float, float]:
        low, high = (p.y if p.low is None else p.low), (p.y if p.high is None else p.high)
        (_, bottom), (_, top) = axes.transData.transform([(p.x, low), (p.x, high)])
        return bottom - MARKER_HEIGHT / 2, top + MARKER_HEIGHT / 2

    low, high = extent(point)
    return any(low < other_high and other_low < high for other_low, other_high in map(extent, group))


def draw_points(axes: Axes, points: Sequence[Point]) -> None:
    for point in points:
        colour, marker = point.style.colour, point.style.marker
        if point.seeds:
            left = shifted_x(axes, point.x, -4)
            axes.scatter([left] * len(point.seeds), point.seeds, s=8, c=colour, alpha=0.4, linewidths=0, zorder=2)
        if point.low is not None and point.high is not None:
            axes.vlines(point.x, point.low, point.high, colors=colour, linewidth=1.4, alpha=0.8, zorder=3)
        axes.plot(
            [point.x],
            [point.y],
            marker=marker,
            markersize=7.5 * point.style.size,
            markerfacecolor=BACKGROUND if point.open_marker else colour,
            markeredgecolor=colour if point.open_marker else BACKGROUND,
            markeredgewidth=1.4 if point.open_marker else 0.7,
            linestyle="none",
            zorder=4,
        )


def add_labels(axes: Axes, points: Sequence[Point], lines: Sequence[Line]) -> list[Bbox]:
    """Labels points and lines, clear of markers, intervals and lines; returns the labels' boxes in pixels."""
    to_pixels, scale = axes.transData.transform, axes.figure.dpi / 100
    inside = axes.get_window_extent()
    labels, obstacles = [], []
    for line in lines:
        _, y = to_pixels((axes.get_xlim()[0], line.y))
        labels.append(Label(line.label, line.colour, inside.x1, y, of_line=True))
        obstacles.append(Bbox.from_extents(inside.x0, y - scale, inside.x1, y + scale))
    for point in points:
        x, y = to_pixels((point.x, point.y))
        labels.append(Label(point.label, point.style.colour, x, y))
        obstacles.append(Bbox.from_extents(x - 6 * scale, y - 6 * scale, x + 6 * scale, y + 6 * scale))
        if point.low is not None and point.high is not None:
            (_, bottom), (_, top) = to_pixels([(point.x, point.low), (point.x, point.high)])
            obstacles.append(Bbox.from_extents(x - 6 * scale, bottom, x + 2 * scale, top))
    return place_labels(axes, labels, obstacles, FOREGROUND)


def format_axes(axes: Axes, panel: Panel) -> None:
    """Sets titles, a logarithmic x axis, and limits that leave room for labels."""
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    heights = [y for p in panel.points for y in (p.y, p.low, p.high, *p.seeds) if y is not None]
    heights += [line.y for line in panel.lines]
    room = max(0.10 * (max(heights) - min(heights)), 1.5)
    axes.set_ylim(max(min(heights) - room, -2), min(max(heights) + room, 104))
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    if not panel.points:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "no run has a value on this axis", transform=axes.transAxes, ha="center", alpha=0.6)
        return
    low, high = min(p.x for p in panel.points), max(p.x for p in panel.points)
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
            boxes.append(add_labels(axes, points, panel.lines))
    return figure, boxes


# -- what is drawn ------------------------------------------------------------------------------------------------


def main_model(summary: Summary) -> str:
    """The model of most arms; points of other models are drawn with open markers."""
    return Counter(arm.model for arm in summary.arms).most_common(1)[0][0]


def best_known(summary: Summary) -> list[Arm]:
    """All arms; of many parameter-efficient methods only the best known, since on cost axes their points coincide."""
    peft = [arm for arm in summary.arms if arm.family == "peft"]
    return [a for a in summary.arms if len(peft) <= MAX_PEFT_METHODS or a.family != "peft" or a.method in BEST_KNOWN]


def measured_panel(
    summary: Summary, x_of: Callable[[Arm], float | None], x_label: str, arms: Sequence[Arm] | None = None
) -> Panel:
    """Every arm with a value on the x axis as a point, and two scores as lines: zero-shot and the best ICL without."""
    main = main_model(summary)
    points: list[Point] = []
    lines = [] if summary.mean_chance is None else [Line(100 * summary.mean_chance, "chance", GREY, ":")]
    levels: dict[str, Arm] = {}
    for arm in summary.arms if arms is None else arms:
        if arm.score is None or arm.interval is None:
            continue
        x, y = x_of(arm), 100 * arm.score
        if x is not None and x > 0:
            low, high = arm.interval
            seeds = [100 * score for score in arm.by_seed.values()]
            points.append(
                Point(x, y, point_label(arm, main), arm.style, 100 * low, 100 * high, seeds, arm.model != main)
            )
        if (arm.family == "zero_shot" and arm.model == main) or (arm.family != "zero_shot" and x == 0):
            best = levels.get(arm.family)
            if best is None or (arm.covers_all, arm.score) > (best.covers_all, best.score or 0):
                levels[arm.family] = arm
    for family, arm in levels.items():
        text = "" if x_of(arm) else point_label(arm, main)
        lines.append(Line(100 * (arm.score or 0), text, arm.style.colour, "--" if family == "zero_shot" else "-."))
    other_models = "; open markers: other models" if len(summary.models) > 1 else ""
    return Panel(f"Measured here: {main}{other_models}", x_label, points, lines, f"{summary.title_measure}, %")


def point_label(arm: Arm, main: str) -> str:
    """The arm's name, with its model if that is not the main one."""
    return arm.name if arm.model == main else f"{arm.name} · {arm.model.removeprefix('micro_')}"


def format_percent(value: float, _: object = None) -> str:
    """A tick label in percent, without powers of ten."""
    return f"{value:.6f}".rstrip("0").rstrip(".") + " %"


def figure2(summary: Summary) -> tuple[Panel, Panel]:
    """Plots scores against the share of parameters updated."""
    x_label = "Parameters updated, % of the model"
    left = measured_panel(summary, lambda arm: arm.percent_updated, x_label)
    points = [
        Point(row.percent_updated, row.score, method_style(row.method).label, method_style(row.method))
        for row in published_table4().itertuples()
    ]
    right = Panel(f"Published: T0-3B ({PAPER}, Table 4)", x_label, points, [], PRINTED_LABEL)
    return replace(left, x_text=format_percent), replace(right, x_text=format_percent)


def figure3(summary: Summary) -> tuple[Panel, Panel]:
    """Plots scores against FLOPs per prediction: counted ones, or the formula's where none were counted."""

    def flops(arm: Arm) -> float | None:
        return arm.typical("flops.predict.measured") or arm.typical("flops.predict.paper")

    left = measured_panel(summary, flops, "FLOPs per prediction, counted", best_known(summary))
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
