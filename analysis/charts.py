"""Charts of costs alone: when tuning has paid for itself, and what a bill is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, MaxNLocator
from matplotlib.transforms import Bbox

from analysis.appearance import FOREGROUND, method_style
from analysis.figures import BACKGROUND, RC_PARAMS
from analysis.labels import Label, place_labels
from analysis.typeset import significant, size

# What memory is spent on, from what is always there to what comes and goes.
ITEMS = {
    "weights": "#4477AA",
    "kv_cache": "#A0408F",
    "gradients": "#D55E00",
    "optimizer": "#E69F00",
    "activations": "#88CCAA",
}


@dataclass(frozen=True)
class Tally:
    """What a way of answering costs in all: `once`, and `each` prediction."""

    label: str
    method: str
    once: float
    each: float

    def total(self, predictions: np.ndarray) -> np.ndarray:
        return self.once + self.each * predictions


@dataclass(frozen=True)
class Stack:
    """A bar: its name and its parts in the order they are laid end to end."""

    label: str
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Bars:
    title: str
    x_label: str
    stacks: Sequence[Stack]
    colours: Mapping[str, str]
    x_text: str = "plain"  # or bytes


# -- the break-even chart -----------------------------------------------------------------------------------------


def crossing(first: Tally, second: Tally) -> float | None:
    """After how many predictions the two cost the same; None if one is always cheaper."""
    if first.each == second.each:
        return None
    predictions = (second.once - first.once) / (first.each - second.each)
    return predictions if predictions > 0 else None


def reach(tallies: Sequence[Tally]) -> float:
    """A power of ten well past the last crossing of a tuned and a prompted line."""
    found = [crossing(a, b) or 0.0 for a, b in combinations(tallies, 2) if is_icl(a) != is_icl(b)]
    return 10 ** (np.ceil(np.log10(max([1e3, *found]))) + 1)


def is_icl(tally: Tally) -> bool:
    return method_style(tally.method).family == "icl"


def break_even(panels: Sequence[tuple[str, Sequence[Tally]]]) -> Figure:
    """Total FLOPs against the number of predictions; a dot wherever a tuned line gets below a prompted one."""
    with mpl.rc_context(RC_PARAMS):
        figure = Figure(figsize=(5.2 * max(len(panels), 1) + (2 if len(panels) == 1 else 0), 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (title, tallies) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_lines(axes, title, tallies)
        figure.canvas.draw()
        figure.set_layout_engine("none")
        for axes, (_, tallies) in zip(figure.axes, panels, strict=True):
            _name_lines(axes, tallies)
    return figure


def _draw_lines(axes: Axes, title: str, tallies: Sequence[Tally]) -> None:
    axes.set(title=title, xlabel="Predictions made", ylabel="FLOPs in all")
    axes.set(xscale="log", yscale="log")
    x = np.geomspace(1, reach(tallies), 200)
    axes.set_xlim(x[0], x[-1])
    for tally in tallies:
        style = "--" if "cached" in tally.method else ":" if tally.once == 0 and not is_icl(tally) else "-"
        axes.plot(x, tally.total(x), color=method_style(tally.method).colour, linestyle=style, linewidth=1.8, zorder=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(numticks=9))
        axis.set_major_formatter(LogFormatterSciNotation())
    axes.minorticks_off()


def _name_lines(axes: Axes, tallies: Sequence[Tally]) -> list[Bbox]:
    """Each line's name near its right end, each crossing with its number, none on another."""
    x, scale = np.geomspace(*axes.get_xlim(), 40), axes.figure.dpi / 100
    taken = [
        Bbox.from_extents(*(point - 3 * scale), *(point + 3 * scale))
        for tally in tallies
        for point in axes.transData.transform(np.column_stack([x, tally.total(x)]))
    ]
    names = []
    for first, second in combinations(tallies, 2):
        met = crossing(first, second)
        tuned = second if is_icl(first) else first
        if met is None or met < 1 or is_icl(first) == is_icl(second) or tuned.once == 0:
            continue
        height = float(first.total(np.array(met)))
        axes.plot([met], [height], "o", color=FOREGROUND, markeredgecolor=BACKGROUND, markersize=6, zorder=5)
        names.append(Label(f"{met:,.0f}", FOREGROUND, *axes.transData.transform((met, height))))
    for rank, tally in enumerate(tallies):  # where lines are apart: tuned ones before they rise, the others after
        place = x[3 + 6 * (rank % 3)] if tally.once and not is_icl(tally) else x[-4 - 5 * (rank % 3)]
        point = axes.transData.transform((place, float(tally.total(np.array(place)))))
        names.append(Label(tally.label, method_style(tally.method).colour, *point))
    return place_labels(axes, names, taken, FOREGROUND)


# -- stacked bars -------------------------------------------------------------------------------------------------


def stacked(panels: Sequence[Bars]) -> Figure:
    """Horizontal bars of parts laid end to end, so that lengths add up (a log axis would hide that)."""
    rows = max((len(panel.stacks) for panel in panels), default=1)
    with mpl.rc_context(RC_PARAMS):
        figure = Figure(figsize=(10.4, max(2.4, 0.34 * rows + 1.4)), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_bars(axes, panel)
    return figure


def _draw_bars(axes: Axes, panel: Bars) -> None:
    axes.set(title=panel.title, xlabel=panel.x_label)
    if not panel.stacks:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "not recorded by these runs", transform=axes.transAxes, ha="center", alpha=0.6)
        return
    for row, stack in enumerate(panel.stacks):
        left = 0.0
        for part, colour in panel.colours.items():
            width = stack.parts.get(part, 0.0)
            axes.barh(row, width, left=left, color=colour, height=0.66, zorder=3)
            left += width
    axes.set_yticks(range(len(panel.stacks)), [stack.label for stack in panel.stacks])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    text = size if panel.x_text == "bytes" else _plain
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    used = [part for part in panel.colours if any(stack.parts.get(part) for stack in panel.stacks)]
    handles = [mpl.patches.Patch(color=panel.colours[part], label=part.replace("_", " ")) for part in used]
    above = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 3 if len(used) > 3 else len(used)}
    axes.legend(handles=handles, frameon=False, fontsize=7, borderaxespad=0.2, columnspacing=1.0, **above)


def _plain(value: float) -> str:
    """1.5e11 as 150 G."""
    for unit, scale in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= scale:
            return f"{significant(value / scale)} {unit}"
    return significant(value)
