"""Where the time of the search went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.patches import Rectangle

from atb_export.report import digits
from atb_export.report.axes import Result
from atb_export.report.palette import PARTS
from atb_export.report.plot import Plot, Sheet
from atb_export.report.svg import Chart, colour

_STEPS = ("graph", "compile", "verify", "measure", "accuracy")
_REST = "waiting, other"
_BAR, _GAP, _ROW = 30.0, 18.0, 34.0  # points


@dataclass(frozen=True, kw_only=True)
class Part:
    """One share of the time."""

    name: str
    seconds: float
    ink: str


def time_chart(result: Result) -> Plot | None:
    """One bar of all candidates' seconds by what they were for; None where their seconds are not known."""
    found, wall = parts(result), _wall(result)
    if not any(x.name in _STEPS for x in found):
        return None
    whole = math.fsum(x.seconds for x in found)
    count = len(result["candidates"])
    words = f"{digits.duration(whole)} for {count} candidates, {digits.duration(whole / count)} each."
    if wall and whole > 1.005 * wall:
        words += f" Several were at work at once: by the clock it was {digits.duration(wall)}."
    return Plot(
        name="time",
        title="Where the time of the search went",
        says="The seconds of all candidates, failed ones too, by what they were for; "
        "grey is what the search took beside them.",
        caption=words,
        draw=lambda sheet: _draw(found, whole, sheet),
    )


def parts(result: Result) -> list[Part]:
    """The steps of a candidate, then the rest: other steps, and the search's wall time that no candidate claims."""
    spent = dict.fromkeys(_STEPS, 0.0)
    other = 0.0
    for candidate in result["candidates"]:
        for name, value in (candidate.get("seconds") or {}).items():
            seconds = max(0.0, digits.number(value) or 0.0)
            if name in spent:
                spent[name] += seconds
            else:
                other += seconds
    unclaimed = (_wall(result) or 0.0) - math.fsum(spent.values()) - other
    spent[_REST] = other + max(0.0, unclaimed)
    return [
        Part(name=name, seconds=seconds, ink=ink)
        for (name, seconds), ink in zip(spent.items(), PARTS, strict=True)
        if seconds > 0
    ]


def _wall(result: Result) -> float | None:
    return digits.number((result.get("search") or {}).get("seconds"))


def _draw(found: Sequence[Part], whole: float, sheet: Sheet) -> Chart:
    columns = 3 if sheet.is_wide else 2
    height = _BAR + _GAP + _ROW * math.ceil(len(found) / columns)
    chart = sheet.chart(height)
    chart.figure.set_layout_engine("none")
    axes = chart.figure.add_axes(chart.area)
    axes.set_axis_off()
    axes.set_xlim(0, sheet.width)
    axes.set_ylim(-height, 0)
    at = 0.0
    for i, part in enumerate(found):
        width = part.seconds / whole * sheet.width
        told = f"{digits.duration(part.seconds)} · {digits.percent(part.seconds / whole, 0)}"
        bar = Rectangle((at, -_BAR), width, _BAR, fc=colour(part.ink), ec=colour("paper"), lw=0.8)
        axes.add_patch(bar)
        chart.tip(bar, f"{part.name}: {told}")
        at += width
        x, y = (i % columns) * sheet.width / columns, -_BAR - _GAP - _ROW * (i // columns)
        axes.add_patch(Rectangle((x, y - 9), 9, 9, fc=colour(part.ink), lw=0))
        axes.text(x + 15, y - 4.5, part.name, va="center", fontsize=9, fontweight="bold", color=colour("ink"))
        axes.text(x + 15, y - 16.5, told, va="center", fontsize=9, color=colour("muted"))
    return chart
