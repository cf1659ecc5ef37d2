"""The paper's Figures 2 and 3 from our records, beside the same plot of the published numbers.

A figure is one function from a summary to its two panels; `draw` makes a matplotlib figure of them, `write` saves it
as pdf and png, `inline_svg` for the report.
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

from analysis.appearance import INK, Look, look
from analysis.labels import Name, settle_all
from analysis.published import PAPER, PRINTED_LABEL, published_table1, published_table4
from analysis.summary import Arm, Summary
from analysis.tables import short

PAGE = "#fefefe"  # the background; like INK a colour of its own, so that the report can swap it in dark mode
GREY = "#8a93a3"
CROWD = 8  # parameter-efficient methods that a cost axis has room for
BEST_KNOWN = ("t_few", "ia3", "lora", "adapter", "prefix", "bitfit", "prompt_10")
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": PAGE,
    "figure.facecolor": PAGE,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
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
    x: float
    y: float  # percent, as low, high and seeds
    label: str
    look: Look
    low: float | None = None
    high: float | None = None
    seeds: Sequence[float] = ()
    hollow: bool = False  # not on the experiment's main model


@dataclass(frozen=True)
class Line:
    """A level without a place on the x axis; an empty label if a point already names it."""

    y: float
    label: str
    colour: str
    dashes: str


@dataclass(frozen=True)
class Panel:
    title: str
    x_label: str
    points: Sequence[Point]
    lines: Sequence[Line]
    y_label: str = "Score, %"
    x_text: Callable[[float, object], str] | None = None


# -- drawing ------------------------------------------------------------------------------------------------------


def shift(axes: Axes, x: float, pixels: float) -> float:
    """The x value so many pixels (at 100 dpi) to the right."""
    place = axes.transData.transform((x, 50.0))[0] + pixels * axes.figure.dpi / 100
    return float(axes.transData.inverted().transform((place, 0.0))[0])


def side_by_side(axes: Axes, points: Sequence[Point], gap: float = 13) -> list[Point]:
    """Points whose markers or intervals would hide each other, moved apart sideways around where they belong."""
    scale = axes.figure.dpi / 100
    groups: list[list[Point]] = []
    for point in sorted(points, key=lambda p: p.x):
        x = axes.transData.transform((point.x, 50.0))[0]
        if (
            groups
            and x - axes.transData.transform((groups[-1][-1].x, 50.0))[0] < gap * scale
            and touches(axes, point, groups[-1])
        ):
            groups[-1].append(point)
        else:
            groups.append([point])
    moved = []
    for group in groups:
        middle = sum(axes.transData.transform((p.x, 50.0))[0] for p in group) / len(group)
        for rank, point in enumerate(group):
            place = middle + (rank - (len(group) - 1) / 2) * gap * scale
            x = float(axes.transData.inverted().transform((place, 0.0))[0])
            moved.append(point if len(group) == 1 else replace(point, x=x))
    return moved


def touches(axes: Axes, point: Point, group: Sequence[Point], height: float = 12) -> bool:
    """Whether the vertical extent of `point` meets that of any point of the group."""

    def extent(p: Point) -> tuple[float, float]:
        low, high = (p.y if p.low is None else p.low), (p.y if p.high is None else p.high)
        (_, bottom), (_, top) = axes.transData.transform([(p.x, low), (p.x, high)])
        return bottom - height / 2, top + height / 2

    low, high = extent(point)
    return any(low < other_high and other_low < high for other_low, other_high in map(extent, group))


def draw_points(axes: Axes, points: Sequence[Point]) -> None:
    for point in points:
        colour, marker = point.look.colour, point.look.marker
        if point.seeds:
            left = shift(axes, point.x, -4)
            axes.scatter([left] * len(point.seeds), point.seeds, s=8, c=colour, alpha=0.4, linewidths=0, zorder=2)
        if point.low is not None and point.high is not None:
            axes.vlines(point.x, point.low, point.high, colors=colour, linewidth=1.4, alpha=0.8, zorder=3)
        axes.plot(
            [point.x],
            [point.y],
            marker=marker,
            markersize=7.5 * point.look.size,
            markerfacecolor=PAGE if point.hollow else colour,
            markeredgecolor=colour if point.hollow else PAGE,
            markeredgewidth=1.4 if point.hollow else 0.7,
            linestyle="none",
            zorder=4,
        )


def name_all(axes: Axes, points: Sequence[Point], lines: Sequence[Line]) -> list[Bbox]:
    """Labels for points and lines, clear of markers, intervals and lines; their boxes in pixels."""
    to_pixels, scale = axes.transData.transform, axes.figure.dpi / 100
    inside = axes.get_window_extent()
    names, taken = [], []
    for line in lines:
        _, y = to_pixels((axes.get_xlim()[0], line.y))
        names.append(Name(line.label, line.colour, inside.x1, y, level=True))
        taken.append(Bbox.from_extents(inside.x0, y - scale, inside.x1, y + scale))
    for point in points:
        x, y = to_pixels((point.x, point.y))
        names.append(Name(point.label, point.look.colour, x, y))
        taken.append(Bbox.from_extents(x - 6 * scale, y - 6 * scale, x + 6 * scale, y + 6 * scale))
        if point.low is not None and point.high is not None:
            (_, bottom), (_, top) = to_pixels([(point.x, point.low), (point.x, point.high)])
            taken.append(Bbox.from_extents(x - 6 * scale, bottom, x + 2 * scale, top))
    return settle_all(axes, names, taken, INK)


def set_axes(axes: Axes, panel: Panel) -> None:
    """Titles, a log axis, limits with room for names."""
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    heights = [y for p in panel.points for y in (p.y, p.low, p.high, *p.seeds) if y is not None]
    heights += [line.y for line in panel.lines]
    room = max(0.10 * (max(heights) - min(heights)), 1.5)
    axes.set_ylim(max(min(heights) - room, -2), min(max(heights) + room, 104))
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    if not panel.points:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "no run has a place on this axis", transform=axes.transAxes, ha="center", alpha=0.6)
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
    """Panels side by side, and for each the boxes of its labels."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 4.4), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)  # measures the labels
        both = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(both, panels, strict=True):
            set_axes(axes, panel)
        figure.canvas.draw()  # pixels mean something only after the layout
        figure.set_layout_engine("none")
        boxes = []
        for axes, panel in zip(both, panels, strict=True):
            for line in panel.lines:
                axes.axhline(line.y, color=line.colour, linestyle=line.dashes, linewidth=1.2, zorder=1)
            points = side_by_side(axes, panel.points)
            draw_points(axes, points)
            boxes.append(name_all(axes, points, panel.lines))
    return figure, boxes


# -- what is drawn ------------------------------------------------------------------------------------------------


def main_model(summary: Summary) -> str:
    return Counter(arm.model for arm in summary.arms).most_common(1)[0][0]


def best_known(summary: Summary) -> list[Arm]:
    """All arms, or where many parameter-efficient methods ran, of these the best known: on cost axes they coincide."""
    peft = [arm for arm in summary.arms if arm.family == "peft"]
    return [a for a in summary.arms if len(peft) <= CROWD or a.family != "peft" or a.method in BEST_KNOWN]


def ours(
    summary: Summary, x_of: Callable[[Arm], float | None], x_label: str, arms: Sequence[Arm] | None = None
) -> Panel:
    """Every arm: a point where it has a place on the x axis, else a level: the main model's zero-shot, the best ICL."""
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
            points.append(Point(x, y, label(arm, main), arm.look, 100 * low, 100 * high, seeds, arm.model != main))
        if (arm.family == "zero_shot" and arm.model == main) or (arm.family != "zero_shot" and x == 0):
            best = levels.get(arm.family)
            if best is None or (arm.covers_all, arm.score) > (best.covers_all, best.score or 0):
                levels[arm.family] = arm
    for family, arm in levels.items():
        text = "" if x_of(arm) else label(arm, main)
        lines.append(Line(100 * (arm.score or 0), text, arm.look.colour, "--" if family == "zero_shot" else "-."))
    hollow = "; hollow: other models" if len(summary.models) > 1 else ""
    return Panel(f"Measured here: {main}{hollow}", x_label, points, lines, f"{summary.title_measure}, %")


def label(arm: Arm, main: str) -> str:
    return arm.name if arm.model == main else f"{arm.name} · {arm.model.removeprefix('micro_')}"


def share_text(value: float, _: object = None) -> str:
    """A tick in percent without powers of ten."""
    return f"{value:.6f}".rstrip("0").rstrip(".") + " %"


def figure2(summary: Summary) -> tuple[Panel, Panel]:
    """Scores against the share of parameters updated."""
    x_label = "Parameters updated, % of the model"
    left = ours(summary, lambda arm: arm.percent_updated, x_label)
    points = [
        Point(row.percent_updated, row.score, look(row.method).label, look(row.method))
        for row in published_table4().itertuples()
    ]
    right = Panel(f"Published: T0-3B ({PAPER}, Table 4)", x_label, points, [], PRINTED_LABEL)
    return replace(left, x_text=share_text), replace(right, x_text=share_text)


def figure3(summary: Summary) -> tuple[Panel, Panel]:
    """Scores against FLOPs per prediction: counted ones, or the formula's where nobody could count."""

    def flops(arm: Arm) -> float | None:
        return arm.typical("flops.predict.measured") or arm.typical("flops.predict.paper")

    left = ours(summary, flops, "FLOPs per prediction, counted", best_known(summary))
    table = published_table1()
    methods = list(table["method"])
    points, lines = [], []
    for row in table.itertuples():
        style = look(row.method)
        points.append(Point(row.flops_inference, row.score, short(row.method, row.model, methods), style))
        if row.method == "zero_shot":
            lines.append(Line(row.score, "", style.colour, "--"))
    x_label = "FLOPs per prediction, by the paper's formula"
    right = Panel(f"Published ({PAPER}, Table 1)", x_label, points, lines, PRINTED_LABEL)
    return left, right


FIGURES = {"figure2": figure2, "figure3": figure3}


# -- files --------------------------------------------------------------------------------------------------------


def saved(figure: Figure, suffix: str) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format=suffix, dpi=200, metadata=METADATA[suffix])
    return buffer.getvalue()


def write(figure: Figure, name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("pdf", "png"):
        (folder / f"{name}.{suffix}").write_bytes(saved(figure, suffix))


def inline_svg(figure: Figure, name: str) -> str:
    """For a page: scales with it and takes on its text and background colours."""
    text = saved(figure, "svg").decode("utf-8")
    text = text[text.index("<svg") :].replace(INK, "currentColor").replace(PAGE, "var(--card)")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r'( id="|"#|\(#)', rf"\g<1>{name}-", text)  # ids must differ between the figures of a page
