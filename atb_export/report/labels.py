"""Names beside points, placed so that they cover neither each other nor a mark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_LETTER = 0.57  # mean width of a letter, as a share of the font size
_LINE = 1.3
# (horizontal, vertical) directions in order of liking.
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_DISTANCES = (7.0, 15.0, 27.0, 42.0, 60.0)


@dataclass(frozen=True, kw_only=True)
class Label:
    """`text` (lines) for the point (x, y) in data coordinates, painted in `colour`."""

    x: float
    y: float
    lines: tuple[str, ...]
    colour: str
    bold: bool = False


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle in points."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """Shared area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return width * height if width > 0 and height > 0 else 0.0

    @property
    def area(self) -> float:
        """Width times height."""
        return (self.right - self.left) * (self.top - self.bottom)


def place(axes: Any, labels: Sequence[Label], *, marks: Iterable[Box] = (), font_size: float = 9.0) -> None:
    """Writes the labels into `axes`, whose limits and layout are settled; far ones get a thin line.

    `marks` are boxes in points (see `around`) that labels should leave free.
    """
    taken = list(marks)
    frame = taken_by(axes, axes)
    for label in labels:
        x, y = _points(axes, label.x, label.y)
        width = _LETTER * font_size * max(len(line) for line in label.lines)
        height = _LINE * font_size * len(label.lines)
        choices = []
        for rank, distance in enumerate(_DISTANCES):
            for order, (dx, dy) in enumerate(_DIRECTIONS):
                box = _beside((x, y), (dx, dy), distance, width, height)
                outside = box.area - box.overlap(frame)
                covered = sum(box.overlap(other) for other in taken)
                choices.append((covered + 4 * outside + 25 * rank + 2 * order, rank, order, box))
        _, rank, order, box = min(choices, key=lambda choice: choice[:3])
        taken.append(box)
        _write(axes, label, _DIRECTIONS[order], _DISTANCES[rank], font_size)


def around(axes: Any, x: float, y: float, *, half: float = 5.0, x_range: Any = None, y_range: Any = None) -> Box:
    """The box of a mark at (x, y), with its error bars, in points."""
    left, bottom = _points(axes, x_range[0] if x_range else x, y_range[0] if y_range else y)
    right, top = _points(axes, x_range[1] if x_range else x, y_range[1] if y_range else y)
    if x_range or y_range:
        return Box(left=left - 2, bottom=bottom - 2, right=right + 2, top=top + 2)
    return Box(left=left - half, bottom=bottom - half, right=right + half, top=top + half)


def taken_by(axes: Any, artist: Any) -> Box:
    """The box of something that is drawn already, in points."""
    extent, scale = artist.get_window_extent(), 72 / axes.figure.dpi
    return Box(left=extent.x0 * scale, bottom=extent.y0 * scale, right=extent.x1 * scale, top=extent.y1 * scale)


def _points(axes: Any, x: float, y: float) -> tuple[float, float]:
    scale = 72 / axes.figure.dpi
    px, py = axes.transData.transform((x, y))
    return float(px) * scale, float(py) * scale


def _reach(direction: tuple[int, int], distance: float) -> float:
    """How far to go along each axis; less on a diagonal."""
    return distance if 0 in direction else distance * 0.75


def _beside(
    point: tuple[float, float], direction: tuple[int, int], distance: float, width: float, height: float
) -> Box:
    reach = _reach(direction, distance)
    cx = point[0] + direction[0] * (reach + width / 2)
    cy = point[1] + direction[1] * (reach + height / 2)
    return Box(left=cx - width / 2, bottom=cy - height / 2, right=cx + width / 2, top=cy + height / 2)


def _write(axes: Any, label: Label, direction: tuple[int, int], distance: float, font_size: float) -> None:
    dx, dy = direction
    reach = _reach(direction, distance)
    line_height = _LINE * font_size
    top = (len(label.lines) - 1) / 2 * line_height + dy * len(label.lines) * line_height / 2
    for i, line in enumerate(label.lines):
        axes.annotate(
            line,
            (label.x, label.y),
            xytext=(dx * reach, dy * reach + top - i * line_height),
            textcoords="offset points",
            ha={1: "left", 0: "center", -1: "right"}[dx],
            va="center",
            fontsize=font_size if i == 0 else font_size - 0.5,
            fontweight="bold" if label.bold and i == 0 else "normal",
            color=label.colour,
            annotation_clip=False,
        )
    if distance > 10:
        axes.annotate(
            "",
            (label.x, label.y),
            xytext=(dx * (reach - 1), dy * (reach - 1)),
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": label.colour, "shrinkA": 0, "shrinkB": 5},
        )
