"""Lines over batch, length or threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from atb_export.bench.look import ink_of, legend_height, legend_on_top, marker_of, panels
from atb_export.bench.result import BenchResult, Measured, Row
from atb_export.report.axes import latency_axis
from atb_export.report.plot import Sheet
from atb_export.report.svg import Chart, colour

_AXES: dict[str, tuple[str, Callable[[Measured], int]]] = {
    "length": ("tokens per text", lambda x: x.target.shape.length),
    "batch": ("texts per batch", lambda x: x.target.shape.batch),
    "threads": ("threads", lambda x: x.target.threads),
}


def sweep(
    result: BenchResult,
    rows: Sequence[Row],
    value: Callable[[Any], tuple[float, float, str]],
    ylabel: str,
    sheet: Sheet,
) -> Chart:
    """`value` gives what a line goes through, where its shade ends, and its words; one panel for each of the rest."""
    varying = {key: sorted({of(x.who) for x in rows}) for key, (_, of) in _AXES.items()}
    along = next((key for key in _AXES if len(varying[key]) > 1), "length")
    rest = [key for key in _AXES if key != along]
    wanted = sorted({tuple(_AXES[key][1](x.who) for key in rest) for x in rows})
    columns = (2 if len(wanted) in (2, 4) else min(len(wanted), 3)) if sheet.is_wide else 1
    lines = math.ceil(len(wanted) / columns)
    names = [name for name in result.names if any(x.who.name == name for x in rows)]
    spaced = [y for x in rows for y in value(x)[:2]]
    note = " (log.)" if max(spaced) > 2.5 * min(spaced) > 0 else ""
    chart = sheet.chart((230 if lines == 1 else 185) * lines + 20 + legend_height(names, wide=sheet.is_wide))
    cells = panels(chart, len(wanted), columns=columns, xlabel=_AXES[along][0], ylabel=f"{ylabel}{note}")
    legend_on_top(chart, result, names, wide=sheet.is_wide)
    for axes, panel in zip(cells, wanted, strict=True):
        for name in names:
            here = [x for x in rows if x.who.name == name and tuple(_AXES[key][1](x.who) for key in rest) == panel]
            _curve(chart, axes, sorted(here, key=lambda x: _AXES[along][1](x.who)), along, value, result)
        words = [f"{key} {number}" for key, number in zip(rest, panel, strict=True) if len(varying[key]) > 1]
        axes.set_title(", ".join(words), loc="left", color=colour("ink"), fontweight="bold")
    first, ticks = cells[0], varying[along]
    latency_axis(first, spaced, vertical=True)
    if len(ticks) > 1:
        first.set_xscale("log", base=2)
    first.xaxis.set_major_locator(FixedLocator(ticks if len(ticks) <= 6 else ticks[:: math.ceil(len(ticks) / 5)]))
    first.xaxis.set_minor_locator(NullLocator())
    first.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    return chart


def _curve(
    chart: Chart,
    axes: Any,
    rows: Sequence[Row],
    along: str,
    value: Callable[[Any], tuple[float, float, str]],
    result: BenchResult,
) -> None:
    if not rows:
        return
    name = rows[0].who.name
    xs, ink = [_AXES[along][1](x.who) for x in rows], colour(ink_of(result, name))
    lows, highs = [value(x)[0] for x in rows], [value(x)[1] for x in rows]
    if lows != highs:
        axes.fill_between(xs, lows, highs, color=ink, alpha=0.2, lw=0)
    marker = marker_of(result, name)
    (line,) = axes.plot(xs, lows, f"-{marker}", ms=4.8, lw=1.6, color=ink, mec=colour("paper"), mew=0.7)
    chart.tip(line, "; ".join(value(x)[2] for x in rows))
