"""One line per variant: the percentiles of its latency, or its throughput."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from atb_export.bench.look import Spread, about, ink_of, marker_of, ms
from atb_export.bench.result import BenchResult, OfflineRow, Row
from atb_export.report import digits
from atb_export.report.axes import latency_axis, limit_line, log_note, name_limit
from atb_export.report.plot import Sheet
from atb_export.report.svg import Chart, colour


def lines(result: BenchResult, spreads: list[Spread], sheet: Sheet, *, large: str, limit: float | None = None) -> Chart:
    """From the median to the 99th percentile, with a mark at the percentile that `large` names."""
    chart = sheet.chart(46 + 40 * len(spreads))
    axes = chart.figure.add_subplot()
    finite = [ms for x in spreads for ms in (x.p50, x.p90, x.p99) if math.isfinite(ms)]
    latency_axis(axes, [*finite, *([limit] if limit else [])])
    edge = axes.get_xlim()[1]
    for i, x in enumerate(spreads):
        ink = colour(ink_of(result, x.row.who.name))
        axes.plot([min(x.p50, edge), min(x.p99, edge)], [-i, -i], color=ink, lw=2.0, alpha=0.55, zorder=2)
        for value in (x.p50, x.p99):
            if math.isfinite(value):
                axes.plot([value], [-i], "|", ms=12, mew=1.8, color=ink, zorder=3)
        headline = getattr(x, large)
        (mark,) = axes.plot(
            [min(headline, edge)],
            [-i],
            marker_of(result, x.row.who.name) if math.isfinite(headline) else ">",
            ms=6.5,
            color=ink,
            mec=colour("paper"),
            mew=0.9,
            zorder=4,
            clip_on=False,
        )
        chart.tip(mark, x.told)
        _name(axes, -i, x.row, result, f"{large} {ms(headline)}", wide=sheet.is_wide)
    _rows_only(axes, len(spreads))
    limit_line(axes, limit)
    axes.set_xlabel(f"latency in ms{log_note(axes)}: p50 to p99")
    name_limit(axes, limit)
    return chart


def per_s(row: OfflineRow) -> str:
    """Such as "1240 samples/s"."""
    return f"{digits.significant(row.report.samples_per_s)} samples/s"


def bars(result: BenchResult, sheet: Sheet) -> Chart:
    """Samples per second, and a thin line from the slowest to the fastest round."""
    rows = result.offline
    chart = sheet.chart(46 + 40 * len(rows))
    axes = chart.figure.add_subplot()
    for i, row in enumerate(rows):
        ink, rate = colour(ink_of(result, row.who.name)), row.report.samples_per_s
        (bar,) = axes.barh([-i], [rate], height=0.3, color=ink, alpha=0.9, zorder=2)
        axes.plot(row.report.range_per_s, [-i, -i], color=colour("ink"), lw=1.2, zorder=3)
        chart.tip(bar, f"{row.who.name}: {per_s(row)}")
        _name(axes, -i, row, result, per_s(row), wide=sheet.is_wide)
    _rows_only(axes, len(rows))
    axes.set_xlim(0, 1.06 * max(x.report.range_per_s[1] for x in rows))
    axes.xaxis.set_major_locator(MaxNLocator(6 if sheet.is_wide else 4, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: digits.whole(x)))
    axes.set_xlabel("samples per second")
    return chart


def _name(axes: Any, y: float, row: Row, result: BenchResult, number: str, *, wide: bool) -> None:
    """The variant above its line, at the left end, and its number at the right end."""
    name = digits.clean(row.who.name, 44 if wide else 22)
    apart = digits.clean(about(row.who, result), 60) if wide else ""
    common = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center", "fontsize": 9}
    words = axes.annotate(name, (0.0, y), xytext=(0, 13), color=colour("ink"), fontweight="bold", **common)
    if apart:
        axes.annotate(
            apart, (1.0, 0.5), xycoords=words, xytext=(6, 0), textcoords="offset points", va="center",
            color=colour("muted"), fontsize=8.5,
        )  # fmt: skip
    behind = {"facecolor": colour("paper"), "lw": 0, "pad": 1.0}
    axes.annotate(number, (1.0, y), xytext=(0, 13), ha="right", color=colour("ink"), bbox=behind, **common)


def _rows_only(axes: Any, count: int) -> None:
    axes.set_ylim(-count + 0.55, 0.75)
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", lw=0.7)
    axes.set_axisbelow(True)
