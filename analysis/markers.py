"""The points of a figure: markers that do not hide each other, their intervals and seeds, and the Pareto front."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from analysis.appearance import FOREGROUND, MethodStyle

BACKGROUND = "#fefefe"  # a colour of its own, like FOREGROUND, so that the report can replace it in dark mode
DODGE = 13  # pixels at 100 dpi between markers that would overlap
MARKER_HEIGHT = 12  # pixels
INTERVAL_WIDTH = 4  # pixels
RING = 12  # points across
RING_RADIUS = 9  # pixels at 100 dpi, with the line


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
    front: str = ""  # where no other method has its score at no more than its cost: how surely


@dataclass(frozen=True)
class Mark:
    """Where the marker of a point and its interval are drawn, in pixels."""

    point: Point
    x: float
    y: float
    width: float
    height: float
    bottom: float
    top: float

    def hides(self, other: "Mark") -> bool:
        """Whether marker lies on marker, or interval on interval."""
        apart = abs(self.x - other.x)
        markers = abs(self.y - other.y) < (self.height + other.height) / 2
        intervals = self.bottom < other.top and other.bottom < self.top
        touching = (self.width + other.width) / 2 - 1e-6
        return (markers and apart < touching) or (intervals and apart < min(INTERVAL_WIDTH, touching))


# -- markers side by side ----------------------------------------------------------------------------------------


def mark(axes: Axes, point: Point) -> Mark:
    heights = (point.y, *(point.y if end is None else end for end in (point.low, point.high)))
    (x, y), (_, bottom), (_, top) = axes.transData.transform([(point.x, height) for height in heights])
    width, height = (2 * RING_RADIUS, 2 * RING_RADIUS) if point.front else (DODGE, MARKER_HEIGHT)
    scale = axes.figure.dpi / 100
    return Mark(point, x, y, width * scale, height * scale, bottom, top)


def dodge(axes: Axes, points: Sequence[Point]) -> list[Point]:
    """Shifts points whose markers or intervals would overlap horizontally, around their common mean.

    Groups that overlap once they are spread become one, until none does.
    """
    inside = axes.get_window_extent()
    groups = [[mark(axes, point)] for point in sorted(points, key=lambda p: (p.x, p.y))]
    while True:
        placed = [side_by_side(group, inside) for group in groups]
        pairs = combinations(range(len(groups)), 2)
        clash = next(((a, b) for a, b in pairs if any_hides(placed[a], placed[b])), None)
        if clash is None:
            break
        first, second = clash
        groups[first] = sorted(groups[first] + groups.pop(second), key=lambda m: (m.point.x, m.point.y))
    to_data = axes.transData.inverted().transform
    return [
        group[0].point if len(group) == 1 else replace(m.point, x=float(to_data((m.x, 0.0))[0]))
        for group in placed
        for m in group
    ]


def any_hides(first: Sequence[Mark], second: Sequence[Mark]) -> bool:
    return any(a.hides(b) for a in first for b in second)


def side_by_side(group: Sequence[Mark], inside: Bbox) -> list[Mark]:
    """As close to each other as their widths allow, in this order, around the mean of their places; inside the axes."""
    closer = min(1.0, inside.width / sum(m.width for m in group)) if len(group) > 1 else 1.0
    places, end = [], 0.0
    for m in group:
        places.append(end + closer * m.width / 2)
        end += closer * m.width
    left = sum(m.x for m in group) / len(group) - sum(places) / len(places)
    left = min(max(left, inside.x0), inside.x1 - end)
    return [replace(m, x=left + place) for m, place in zip(group, places, strict=True)]


# -- drawing ------------------------------------------------------------------------------------------------------


def shifted_x(axes: Axes, x: float, pixels: float) -> float:
    """The x value `pixels` (at 100 dpi) to the right of `x`."""
    shifted = axes.transData.transform((x, 50.0))[0] + pixels * axes.figure.dpi / 100
    return float(axes.transData.inverted().transform((shifted, 0.0))[0])


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
        if point.front:
            ring = {"markerfacecolor": "none", "markeredgecolor": FOREGROUND, "markeredgewidth": 1.1}
            axes.plot([point.x], [point.y], "o", markersize=RING, zorder=4.5, **ring)


def front_steps(axes: Axes, points: Sequence[Point], level: float | None) -> tuple[list[float], list[float]]:
    """The corners of the stepped line through the front: the best score that is to be had for a cost, as drawn."""
    front = sorted((point for point in points if point.front), key=lambda point: (point.y, point.x))
    left, right = axes.get_xlim()
    x, y = ([], []) if level is None else ([left], [level])
    for point in front:
        at = max([point.x, *x])  # markers that stand side by side may have changed places
        x, y = [*x, at], [*y, point.y]
    return ([*x, right], [*y, y[-1]]) if y else ([], [])


def draw_front(axes: Axes, points: Sequence[Point], level: float | None) -> tuple[list[Bbox], list[Bbox]]:
    """Draws the stepped line; returns, as boxes in pixels, the parts of the line and what is below and right of it."""
    x, y = front_steps(axes, points, level)
    axes.plot(x, y, drawstyle="steps-post", color=FOREGROUND, linewidth=0.9, alpha=0.55, zorder=1.8)
    if not x:
        return [], []
    corners, width = axes.transData.transform(np.column_stack([x, y])), axes.figure.dpi / 100
    steps, below, bottom = [], [], axes.get_window_extent().y0
    for (x0, y0), (x1, y1) in pairwise(corners):
        steps.append(Bbox.from_extents(x0, y0 - width, x1, y0 + width))
        steps.append(Bbox.from_extents(x1 - width, min(y0, y1), x1 + width, max(y0, y1)))
        below.append(Bbox.from_extents(x0, bottom, x1, y0))
    return steps, below
