"""Places text labels beside points and lines, so that a figure needs no legend.

Greedy and deterministic: the labels in the most crowded regions are placed first. A label takes the nearest candidate
position inside the axes that overlaps no marker, no line and no earlier label, or else the one that overlaps least; a
leader line connects it to its point where the two are apart.

adjustText was compared on the figures of docs/results/embedded_full (150 labels): it left 2 to 5 pairs of labels and 47
to 101 labels and markers or lines overlapping, with 6 to 19 labels partly outside the axes, and took 6 to 8 times as
long. The method here left none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

FONT_SIZE = 8
DISTANCES = (9, 13, 18, 24, 34, 46, 60, 76, 94, 114)  # pixels at 100 dpi
LEADER_DISTANCE = 20  # a label further away than this has a leader line

Position = tuple[float, float, str, str]  # x, y in pixels, horizontal and vertical alignment


@dataclass(frozen=True)
class Label:
    """A text and the point or horizontal line that it belongs to."""

    text: str
    colour: str  # of the leader line
    x: float  # in pixels
    y: float
    of_line: bool = False  # of a horizontal line, not of a point


def positions_around(x: float, y: float, scale: float) -> list[Position]:
    """Candidate positions for the label of a point at (x, y), the preferred ones first."""
    positions: list[Position] = []
    for distance in DISTANCES:
        straight, diagonal = distance * scale, 0.7 * distance * scale
        positions += [
            (x + straight, y, "left", "center"),
            (x - straight, y, "right", "center"),
            (x, y + straight, "center", "bottom"),
            (x, y - straight, "center", "top"),
            (x + diagonal, y + diagonal, "left", "bottom"),
            (x - diagonal, y + diagonal, "right", "bottom"),
            (x + diagonal, y - diagonal, "left", "top"),
            (x - diagonal, y - diagonal, "right", "top"),
        ]
    return positions


def positions_along(y: float, inside: Bbox, scale: float) -> list[Position]:
    """Candidate positions for the label of a horizontal line: just above or below it, from right to left."""
    steps = [inside.x1 - fraction * inside.width for fraction in (0.005, 0.25, 0.5, 0.75)]
    return [(x, y + side * 3 * scale, "right", v) for x in steps for side, v in ((1, "bottom"), (-1, "top"))]


def overlap(first: Bbox, second: Bbox) -> float:
    """Shared area in square pixels."""
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    return max(width, 0.0) * max(height, 0.0)


def contains(outer: Bbox, inner: Bbox) -> bool:
    return bool(outer.x0 <= inner.x0 and inner.x1 <= outer.x1 and outer.y0 <= inner.y0 and inner.y1 <= outer.y1)


def bounding_box(width: float, height: float, position: Position) -> Bbox:
    x, y, horizontal, vertical = position
    left = x - {"left": 0.0, "center": width / 2, "right": width}[horizontal]
    bottom = y - {"bottom": 0.0, "center": height / 2, "top": height}[vertical]
    return Bbox.from_bounds(left, bottom, width, height)


def place_labels(axes: Axes, labels: Sequence[Label], obstacles: Sequence[Bbox], colour: str) -> list[Bbox]:
    """Draws every label, clear of the boxes in `obstacles` where possible; returns the labels' boxes in pixels."""
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    inside, scale = axes.get_window_extent(renderer), axes.figure.dpi / 100
    to_axes = axes.transAxes.inverted().transform  # positions hold at any resolution only in axes coordinates
    occupied, boxes = list(obstacles), []

    def crowding(label: Label) -> tuple[bool, float]:
        return label.of_line, sum(
            1 / (1 + abs(label.x - other.x) + abs(label.y - other.y)) for other in labels if not other.of_line
        )

    for label in sorted((label for label in labels if label.text), key=crowding, reverse=True):
        probe = axes.text(0, 0, label.text, fontsize=FONT_SIZE, transform=None)
        extent = probe.get_window_extent(renderer)
        probe.remove()
        around, along = positions_around(label.x, label.y, scale), positions_along(label.y, inside, scale)
        candidates = [
            (at, bounding_box(extent.width, extent.height, at)) for at in (along if label.of_line else around)
        ]
        fitting = [candidate for candidate in candidates if contains(inside, candidate[1])] or candidates
        (x, y, horizontal, vertical), box = min(fitting, key=lambda c: sum(overlap(c[1], other) for other in occupied))
        end, start = to_axes((x, y)), to_axes((label.x, label.y))
        if not label.of_line and (x - label.x) ** 2 + (y - label.y) ** 2 > (LEADER_DISTANCE * scale) ** 2:
            ends = [start[0], end[0]], [start[1], end[1]]
            axes.plot(*ends, transform=axes.transAxes, color=label.colour, linewidth=0.6, alpha=0.7, zorder=1.5)
        style = {"ha": horizontal, "va": vertical, "color": colour, "transform": axes.transAxes, "zorder": 5}
        axes.text(end[0], end[1], label.text, fontsize=FONT_SIZE, **style)
        occupied.append(box)
        boxes.append(box)
    return boxes
