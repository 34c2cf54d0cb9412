"""The 99th percentile over the rate at which queries arrive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import FuncFormatter

from atb_export.bench.look import ink_of, legend_height, legend_on_top, marker_of, ms, panels
from atb_export.bench.result import BenchResult, Row, ServerRow
from atb_export.report import digits
from atb_export.report.axes import latency_axis, limit_line, name_limit
from atb_export.report.plot import Sheet
from atb_export.report.svg import Chart, colour


def points(row: ServerRow) -> list[tuple[float, float]]:
    """(rate per second, p99 in ms) of the probes and of what is reported."""
    own = [] if row.report is None else [(row.report.rate_per_s, row.report.p99_ms)]
    return [*row.probes, *own]


def by_rate(result: BenchResult, sheet: Sheet, limit: float | None) -> Chart:
    """One line per variant, one panel for each cell where there are several."""
    rows = result.server
    names = list(dict.fromkeys(x.who.name for x in rows))
    wanted: list[tuple[int, ...]] = sorted({_key(x) for x in rows}) if _varies(rows) else [()]
    columns = min(len(wanted), 2 if sheet.is_wide else 1)
    lines = math.ceil(len(wanted) / columns)
    every = [point for x in rows for point in points(x)]
    heights = [p99 for _, p99 in every if math.isfinite(p99)] + ([limit] if limit else [])
    spread = [rate for rate, _ in every]
    note = " (log.)" if max(spread) > 2.5 * min(spread) else ""
    chart = sheet.chart((260 if lines == 1 else 205) * lines + 20 + legend_height(names, wide=sheet.is_wide))
    cells = panels(chart, len(wanted), columns=columns, xlabel=f"queries per second{note}", ylabel="p99 latency in ms")
    legend_on_top(chart, result, names, wide=sheet.is_wide)
    latency_axis(cells[0], heights or [1.0], vertical=True)
    latency_axis(cells[0], spread)
    cells[0].xaxis.set_major_formatter(FuncFormatter(lambda x, _: digits.whole(x)))
    top = cells[0].get_ylim()[1]
    for axes, cell in zip(cells, wanted, strict=True):
        limit_line(axes, limit, vertical=False)
        for name in names:
            _rates(chart, axes, [x for x in rows if x.who.name == name and cell in ((), _key(x))], top, result)
        name_limit(axes, limit, vertical=False)
        if cell:
            title = f"batch {cell[0]}, length {cell[1]}, threads {cell[2]}"
            axes.set_title(title, loc="left", color=colour("ink"), fontweight="bold")
    return chart


def _rates(chart: Chart, axes: Any, rows: Sequence[ServerRow], top: float, result: BenchResult) -> None:
    if not rows:
        return
    name = rows[0].who.name
    ink, marker = colour(ink_of(result, name)), marker_of(result, name)
    every = [point for x in rows for point in points(x)]
    answered = sorted((rate, p99) for rate, p99 in every if math.isfinite(p99))
    if answered:
        axes.plot(*zip(*answered, strict=True), marker, ls="", ms=3.4, color=ink, alpha=0.65, zorder=3)
    if never := sorted({rate for rate, p99 in every if not math.isfinite(p99)}):
        axes.plot(never, [top] * len(never), "x", ls="", ms=5, mew=1.2, color=ink, clip_on=False, zorder=3)
    told = sorted((x.report.rate_per_s, x.report.p99_ms) for x in rows if x.report is not None)
    if told := [point for point in told if math.isfinite(point[1])]:
        axes.plot(*zip(*told, strict=True), "-", lw=1.4, color=ink, alpha=0.7, zorder=2)
    for x in rows:
        if x.report is None or not math.isfinite(x.report.p99_ms):
            continue
        at = [x.report.rate_per_s], [x.report.p99_ms]
        (mark,) = axes.plot(*at, marker, ms=8, color=ink, mec=colour("paper"), mew=1.0, zorder=5)
        chart.tip(mark, f"{name}: {x.report.rate_per_s:.4g} queries per second, p99 {ms(x.report.p99_ms)}")


def _key(row: Row) -> tuple[int, ...]:
    target = row.who.target
    return target.shape.batch, target.shape.length, target.threads


def _varies(rows: Sequence[ServerRow]) -> bool:
    """Whether one variant was served in several cells."""
    return any(len({_key(x) for x in rows if x.who.name == name}) > 1 for name in {x.who.name for x in rows})
