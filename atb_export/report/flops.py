"""Operations against measured milliseconds: how well FLOPs rank engines, over all and near the constraint."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from atb_export.report import digits
from atb_export.report.axes import (
    Result,
    latency_axis,
    legend_above,
    limit_line,
    log_note,
    name_limit,
    panel_rows,
    panels,
    say,
)
from atb_export.report.candidates import Seen, Target, measured, targets
from atb_export.report.labels import Label, around, place, taken_by
from atb_export.report.plot import Plot, Sheet
from atb_export.report.svg import Chart, colour
from search.statistics import Band, band, spearman

_MARKERS = ("o", "^", "s", "v", "P")


def flops_chart(result: Result) -> Plot | None:
    """FLOPs against measured latency, the band around the constraint shaded; None with fewer than two candidates."""
    known = [(target, seen) for target in targets(result) if len(seen := _counted(result, target)) > 1]
    if not known:
        return None
    named = len(targets(result)) > 1
    return Plot(
        name="flops",
        title="FLOPs against measured latency",
        says="If operations told latency, the points would lie on one rising line. The shaded band is where the "
        "choice is made: 0.8 to 1.25 times the limit.",
        caption=" ".join(
            f"{f'{target.label}: r' if named else 'R'}ank correlation {_caption(seen, target)}"
            for target, seen in known
        ),
        draw=lambda sheet: _draw(result, known, sheet),
    )


def _counted(result: Result, target: Target) -> list[Seen]:
    return [c for c in measured(result, target.index) if c.flops]


def _band(seen: Sequence[Seen], target: Target) -> Band | None:
    if target.limit_ms is None:
        return None
    return band([c.flops or 0.0 for c in seen], [c.ms for c in seen], constraint_ms=target.limit_ms)


def _caption(seen: Sequence[Seen], target: Target) -> str:
    rank = spearman([c.flops or 0.0 for c in seen], [c.ms for c in seen])
    words = f"{digits.rank(rank)} over all {len(seen)} engines"
    inside = _band(seen, target)
    if inside is None:
        return f"{words}."
    edges = digits.ms_range(inside.band_ms)
    return f"{words}, {digits.rank(inside.correlation)} among the {inside.engines} inside the band of {edges}."


def _draw(result: Result, known: Sequence[tuple[Target, Sequence[Seen]]], sheet: Sheet) -> Chart:
    height = 320 if len(known) == 1 else 270 * panel_rows(len(known), wide=sheet.is_wide)
    chart = sheet.chart(height)
    cells = panels(chart, [target for target, _ in known], wide=sheet.is_wide, room=24.0)
    for axes, (target, seen) in zip(cells, known, strict=True):
        _points(chart, axes, result, target, seen)
    chart.settle()
    for axes, (target, seen) in zip(cells, known, strict=True):
        _name(axes, result, target, seen, font_size=9.0 if sheet.is_wide else 8.5)
    return chart


def _points(chart: Chart, axes: Any, result: Result, target: Target, seen: Sequence[Seen]) -> None:
    inside = _band(seen, target)
    if inside is not None:
        axes.axhspan(*inside.band_ms, color=colour("band"), lw=0, zorder=0.6)
    limit_line(axes, target.limit_ms, vertical=False)
    precisions = sorted({c.precision for c in seen})
    markers = dict(zip(precisions, cycle(_MARKERS), strict=False))
    for c in seen:
        (line,) = axes.plot(
            [(c.flops or 0.0) / 1e9],
            [c.ms],
            markers[c.precision],
            ms=4.8,
            color=colour("candidate"),
            mec=colour("paper"),
            mew=0.7,
            zorder=3,
        )
        chart.tip(line, f"{c.told(result['task']['metric'])}, {digits.count(c.flops)}FLOP")
    if len(precisions) > 1:
        for name, marker in markers.items():
            axes.plot([], [], marker, ms=4.8, color=colour("candidate"), label=digits.clean(name, 12))
        legend_above(axes, "compiled in")
    for at, ink, marker, _ in _marked(result, target, seen):
        axes.plot([at[0]], [at[1]], marker, ms=7, color=colour(ink), mec=colour("paper"), mew=1, zorder=5)
    latency_axis(axes, [c.ms for c in seen], vertical=True)
    latency_axis(axes, [(c.flops or 0.0) / 1e9 for c in seen])
    axes.set_xlabel(f"operations in GFLOP{log_note(axes)}")
    axes.set_ylabel("measured p50, ms")


def _marked(result: Result, target: Target, seen: Sequence[Seen]) -> list[tuple[tuple[float, float], str, str, str]]:
    """(GFLOP, ms), colour, marker and name of the winner's shape and of what a search on FLOPs would have picked."""
    choice = result.get("flops_choice") or {}
    wanted = [("winner", "D", "winner", result["winner"])]
    if target.index == 0:
        wanted.append(("baseline", "s", "FLOPs' choice", choice))
    found = []
    for ink, marker, name, model in wanted:
        match = next((c for c in seen if model.get("subnet") is not None and c.subnet == model["subnet"]), None)
        flops = match.flops if match else digits.number(model.get("flops"))
        ms = match.ms if match else digits.number(model.get("latency_ms")) if target.index == 0 else None
        if flops and ms:
            found.append(((flops / 1e9, ms), ink, marker, name))
    return found


def _name(axes: Any, result: Result, target: Target, seen: Sequence[Seen], *, font_size: float) -> None:
    marks = [around(axes, (c.flops or 0.0) / 1e9, c.ms, half=3) for c in seen]
    if target.limit_ms is not None:
        marks.append(around(axes, 1, target.limit_ms, x_range=axes.get_xlim()))
    said = [name_limit(axes, target.limit_ms, vertical=False)]
    inside = _band(seen, target)
    if inside is not None:
        words = f"in the band: {digits.rank(inside.correlation)}"
        said.append(say(axes, words, (1, inside.band_ms[0]), ("axes fraction", "data"), ink="limit", size=font_size))
    rank = spearman([c.flops or 0.0 for c in seen], [c.ms for c in seen])
    said.append(say(axes, f"Spearman {digits.rank(rank)}", (0, 1), "axes fraction", ink="ink", size=font_size))
    marks += [taken_by(axes, text) for text in said if text is not None]
    labels = [
        Label(x=at[0], y=at[1], lines=(name,), colour=colour(ink), bold=True)
        for at, ink, _, name in _marked(result, target, seen)
    ]
    place(axes, labels, marks=marks, font_size=font_size)
