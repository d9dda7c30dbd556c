"""Names beside the points of a figure, where they cover neither a point nor another name."""

from collections.abc import Iterator, Sequence
from math import cos, radians, sin
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

DISTANCES = (7, 14, 22, 31)  # points from the point; a line leads to what is farther than the first
ANGLES = (0, 180, 45, 135, -45, -135, 80, 100, -80, -100)
MARK = 4.5  # half a point's width, in points


class Label(NamedTuple):
    """x, y: of the point it names, as the axes have them."""

    x: float
    y: float
    text: str
    color: str


def place(axes: Axes, labels: Sequence[Label], size: float = 7) -> int:
    """Write ``labels`` into ``axes``; returns how many found no room and were left out.

    The first free place counts, in the order of the labels: greedy, near places first (Christensen
    et al., 1995, ACM Transactions on Graphics 14, compares such methods). Limits and size of the
    figure must be final.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # or the layout is not yet what it will be
    scale = axes.figure.dpi / 72
    points = axes.transData.transform([(label.x, label.y) for label in labels])
    half = MARK * scale
    taken = [Bbox([(x - half, y - half), (x + half, y + half)]) for x, y in points]
    frame, left_out = axes.get_window_extent(), 0
    for label in labels:
        for text in _candidates(axes, label, size):
            text.get_window_extent()  # which sets its place, but counts its line too
            box = Text.get_window_extent(text)
            inside = frame.containsx(box.x0) and frame.containsx(box.x1)
            inside = inside and frame.containsy(box.y0) and frame.containsy(box.y1)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
        else:
            left_out += 1
    return left_out


def _candidates(axes: Axes, label: Label, size: float) -> Iterator[Annotation]:
    for distance in DISTANCES:
        for angle in ANGLES:
            x, y = distance * cos(radians(angle)), distance * sin(radians(angle))
            line = {"arrowstyle": "-", "color": label.color, "linewidth": 0.4, "shrinkB": 3}
            yield axes.annotate(
                label.text, (label.x, label.y), (x, y), textcoords="offset points",
                ha="left" if x > 0 else "right", va="center", fontsize=size, color=label.color,
                arrowprops=line | {"shrinkA": 0} if distance > DISTANCES[0] else None,
            )  # fmt: skip
