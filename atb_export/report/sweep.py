"""Latency by batch and length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from atb_export.report import digits
from atb_export.report.axes import (
    WIDE,
    Picture,
    Result,
    both,
    latency_axis,
    legend,
)
from atb_export.report.svg import Chart, colour


def sweep_chart(result: Result) -> Picture | None:
    """Latency by length, one panel for each batch size (or by batch, when only one length was run)."""
    rows = [r for r in result["sweep"] if digits.number(r.get("p50_ms"))]
    if not rows:
        return None
    return both("sweep", "Latency by text length and batch size", lambda key, width: _sweep(result, rows, key, width))


def _sweep(result: Result, rows: Sequence[Mapping[str, Any]], key: str, width: float) -> Chart:
    by, along = ("batch", "length") if len({r["length"] for r in rows}) > 1 else ("length", "batch")
    panels = sorted({r[by] for r in rows})
    columns = min(len(panels), 3 if width == WIDE else 1 if len(panels) < 2 else 2)
    lines = math.ceil(len(panels) / columns)
    chart = Chart(key=key, width=width, height=40 + 200 * lines)
    grid = chart.figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    cells = [axes for line in grid for axes in line]
    chart.figure.get_layout_engine().set(wspace=0.05, hspace=0.05)
    names = sorted({r["model"] for r in rows}, key=lambda n: (n != "teacher", n != "winner", n))
    ticks = sorted({r[along] for r in rows})
    for axes, panel in zip(cells, panels, strict=False):
        here = [r for r in rows if r[by] == panel]
        for name in names:
            mine = sorted((r for r in here if r["model"] == name), key=lambda r: r[along])
            _curve(chart, axes, mine, along, name)
        axes.set_title(f"{by} {panel}", loc="left", color=colour("ink"), fontweight="bold")
        axes.grid(axis="y", lw=0.7)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
    for axes in cells[len(panels) :]:
        axes.set_visible(False)
    for axes in cells[max(0, len(panels) - columns) : len(panels)]:
        axes.tick_params(labelbottom=True)
    first = cells[0]
    latency_axis(first, [r[k] for r in rows for k in ("p50_ms", "p90_ms") if digits.number(r.get(k))], vertical=True)
    if len(ticks) > 1:
        first.set_xscale("log", base=2)
    first.xaxis.set_major_locator(FixedLocator(ticks if len(ticks) <= 6 else ticks[:: math.ceil(len(ticks) / 5)]))
    first.xaxis.set_minor_locator(NullLocator())
    first.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    chart.figure.supxlabel(
        "tokens per text" if along == "length" else "texts per batch", fontsize=9, color=colour("muted")
    )
    chart.figure.supylabel("latency in ms", fontsize=9, color=colour("muted"))
    inks = [(_ink(name), "o", digits.clean(name, 20)) for name in names]
    legend(first, inks, loc="upper left")
    return chart


def _ink(name: str) -> str:
    return name if name in ("winner", "teacher") else "baseline"


def _curve(chart: Chart, axes: Any, rows: Sequence[Mapping[str, Any]], along: str, name: str) -> None:
    if not rows:
        return
    xs, ink = [r[along] for r in rows], colour(_ink(name))
    if all(digits.number(r.get("p90_ms")) for r in rows):
        axes.fill_between(xs, [r["p50_ms"] for r in rows], [r["p90_ms"] for r in rows], color=ink, alpha=0.22, lw=0)
    (line,) = axes.plot(xs, [r["p50_ms"] for r in rows], "-o", ms=4.5, lw=1.6, color=ink, mec=colour("paper"), mew=0.8)
    chart.tip(line, f"{name}: " + ", ".join(f"{r[along]}: {digits.ms(r['p50_ms'])}" for r in rows))
