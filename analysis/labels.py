"""Finds every name in a plot a place of its own, so that readers never match colours against a legend.

Greedy and without randomness, hence the same on every run: the most crowded points choose first. A name takes the
nearest place inside the axes that touches no marker, no line and no earlier name, or else the one that touches least;
a thin leader ties it to its point where that is not next to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

FONT_SIZE = 8
DISTANCES = (9, 13, 18, 24, 34, 46, 60, 76, 94, 114)  # pixels at 100 dpi
LEADER = 20  # a name further away than this is tied to its point

Place = tuple[float, float, str, str]  # x, y in pixels, horizontal and vertical alignment


@dataclass(frozen=True)
class Name:
    text: str
    colour: str  # of the leader
    x: float  # in pixels
    y: float
    level: bool = False  # names a horizontal line, not a point


def around(x: float, y: float, scale: float) -> list[Place]:
    """Places for the name of a point at (x, y), the best first."""
    places: list[Place] = []
    for distance in DISTANCES:
        far, near = distance * scale, 0.7 * distance * scale
        places += [
            (x + far, y, "left", "center"),
            (x - far, y, "right", "center"),
            (x, y + far, "center", "bottom"),
            (x, y - far, "center", "top"),
            (x + near, y + near, "left", "bottom"),
            (x - near, y + near, "right", "bottom"),
            (x + near, y - near, "left", "top"),
            (x - near, y - near, "right", "top"),
        ]
    return places


def along(y: float, inside: Bbox, scale: float) -> list[Place]:
    """Places for the name of a horizontal line: just above or below it, from the right."""
    steps = [inside.x1 - fraction * inside.width for fraction in (0.005, 0.25, 0.5, 0.75)]
    return [(x, y + side * 3 * scale, "right", v) for x in steps for side, v in ((1, "bottom"), (-1, "top"))]


def overlap(one: Bbox, other: Bbox) -> float:
    """Shared area in square pixels."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)


def contains(outer: Bbox, inner: Bbox) -> bool:
    return bool(outer.x0 <= inner.x0 and inner.x1 <= outer.x1 and outer.y0 <= inner.y0 and inner.y1 <= outer.y1)


def box_at(width: float, height: float, place: Place) -> Bbox:
    x, y, horizontal, vertical = place
    left = x - {"left": 0.0, "center": width / 2, "right": width}[horizontal]
    bottom = y - {"bottom": 0.0, "center": height / 2, "top": height}[vertical]
    return Bbox.from_bounds(left, bottom, width, height)


def settle_all(axes: Axes, names: Sequence[Name], taken: Sequence[Bbox], ink: str) -> list[Bbox]:
    """Writes every name, clear of the boxes in `taken`; returns where they stand, in pixels."""
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    inside, scale = axes.get_window_extent(renderer), axes.figure.dpi / 100
    to_axes = axes.transAxes.inverted().transform  # places hold at any resolution only in the axes' own units
    blocked, boxes = list(taken), []

    def crowd(name: Name) -> tuple[bool, float]:
        return name.level, sum(1 / (1 + abs(name.x - n.x) + abs(name.y - n.y)) for n in names if not n.level)

    for name in sorted((name for name in names if name.text), key=crowd, reverse=True):
        probe = axes.text(0, 0, name.text, fontsize=FONT_SIZE, transform=None)
        extent = probe.get_window_extent(renderer)
        probe.remove()
        places = along(name.y, inside, scale) if name.level else around(name.x, name.y, scale)
        options = [(place, box_at(extent.width, extent.height, place)) for place in places]
        fitting = [option for option in options if contains(inside, option[1])] or options
        (x, y, horizontal, vertical), box = min(fitting, key=lambda o: sum(overlap(o[1], other) for other in blocked))
        at, start = to_axes((x, y)), to_axes((name.x, name.y))
        if not name.level and (x - name.x) ** 2 + (y - name.y) ** 2 > (LEADER * scale) ** 2:
            ends = [start[0], at[0]], [start[1], at[1]]
            axes.plot(*ends, transform=axes.transAxes, color=name.colour, linewidth=0.6, alpha=0.7, zorder=1.5)
        style = {"ha": horizontal, "va": vertical, "color": ink, "transform": axes.transAxes, "zorder": 5}
        axes.text(at[0], at[1], name.text, fontsize=FONT_SIZE, **style)
        blocked.append(box)
        boxes.append(box)
    return boxes
