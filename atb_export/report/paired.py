"""Differences between models on the same test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import FuncFormatter, NullLocator

from atb_export.report import digits
from atb_export.report.axes import (
    Picture,
    Result,
    both,
)
from atb_export.report.svg import Chart, colour


def paired_chart(result: Result) -> Picture | None:
    """Differences with their 95 % intervals, about zero; None where nothing was compared."""
    rows = [
        r for r in result["paired"] if digits.number(r.get("difference")) is not None and digits.number(r.get("se"))
    ]
    if not rows:
        return None
    return both(
        "paired",
        "Accuracy differences on the same test rows",
        lambda key, width: _paired(result, rows, key, width),
    )


def _paired(result: Result, rows: Sequence[Mapping[str, Any]], key: str, width: float) -> Chart:
    scale = 100 if result["task"]["metric"] == "accuracy" else 1
    chart = Chart(key=key, width=width, height=50 + 36 * len(rows))
    axes = chart.figure.add_subplot()
    axes.axvline(0, color=colour("muted"), lw=1.0, zorder=1)
    for i, r in enumerate(rows):
        y, middle, half = -i, scale * r["difference"], 1.96 * scale * r["se"]
        ink = colour("ink" if abs(middle) > half else "candidate")
        axes.plot([middle - half, middle + half], [y, y], color=ink, lw=2.2, zorder=2)
        axes.plot([middle], [y], "o", ms=7, color=ink, mec=colour("paper"), mew=1, zorder=3)
        text = f"{digits.clean(r['a'], 20)} − {digits.clean(r['b'], 20)}"
        axes.annotate(
            text,
            (0.0, y),
            xycoords=("axes fraction", "data"),
            xytext=(0, 10),
            textcoords="offset points",
            va="center",
            color=colour("ink"),
            fontsize=9,
            bbox={"facecolor": colour("paper"), "lw": 0, "pad": 1.5},
        )
    reach = max(abs(scale * r["difference"]) + 2.2 * scale * r["se"] for r in rows)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-len(rows) + 0.45, 0.65)
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", lw=0.7)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+g}".replace("-", "−") if x else "0"))
    axes.set_xlabel("difference in percentage points" if scale == 100 else f"difference in {result['task']['metric']}")
    return chart
