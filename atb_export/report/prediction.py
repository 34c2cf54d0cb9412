"""What the latency model had guessed before each measurement, against what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from atb_export.report import digits
from atb_export.report.axes import Result, latency_axis, limit_line, log_note, name_limit, panel_rows, panels, say
from atb_export.report.candidates import Seen, Target, measured, targets
from atb_export.report.plot import Plot, Sheet
from atb_export.report.svg import Chart, colour
from search.statistics import spearman

_TOLERANCE = 0.05


def prediction_chart(result: Result) -> Plot | None:
    """Predicted before the measurement against measured; None with fewer than two predictions on every target."""
    known = [(target, seen) for target in targets(result) if len(seen := _predicted(result, target)) > 1]
    if not known:
        return None
    named = len(targets(result)) > 1
    return Plot(
        name="prediction",
        title="Latency predicted against measured",
        says="On the line the latency model was right; the shaded band is ±5 %. Predictions only steer the search: "
        "every latency that is reported was measured.",
        caption=" ".join(
            (f"{target.label}: " if named else "") + f"{_numbers(seen)} over {len(seen)} engines predicted beforehand."
            for target, seen in known
        ),
        draw=lambda sheet: _draw(result, known, sheet),
    )


def mape(predicted: Sequence[float], measured_ms: Sequence[float]) -> float:
    """Mean absolute error as a share of what was measured."""
    return math.fsum(abs(p - m) / m for p, m in zip(predicted, measured_ms, strict=True)) / len(predicted)


def _predicted(result: Result, target: Target) -> list[Seen]:
    return [c for c in measured(result, target.index) if c.predicted_ms is not None and c.predicted_ms > 0]


def _numbers(seen: Sequence[Seen]) -> str:
    guesses, times = [c.predicted_ms or 0.0 for c in seen], [c.ms for c in seen]
    rank = spearman(guesses, times)
    return f"Spearman {digits.rank(rank)}, MAPE {digits.percent(mape(guesses, times))}"


def _draw(result: Result, known: Sequence[tuple[Target, Sequence[Seen]]], sheet: Sheet) -> Chart:
    height = 330 if len(known) == 1 else 270 * panel_rows(len(known), wide=sheet.is_wide)
    chart = sheet.chart(height)
    cells = panels(chart, [target for target, _ in known], wide=sheet.is_wide)
    for axes, (target, seen) in zip(cells, known, strict=True):
        _panel(chart, axes, result, target, seen)
    return chart


def _panel(chart: Chart, axes: Any, result: Result, target: Target, seen: Sequence[Seen]) -> None:
    every = [x for c in seen for x in (c.ms, c.predicted_ms or c.ms)]
    latency_axis(axes, every)
    latency_axis(axes, every, vertical=True)
    ends = list(axes.get_xlim())
    edges = [[(1 + sign * _TOLERANCE) * x for x in ends] for sign in (-1, 1)]
    axes.fill_between(ends, *edges, color=colour("grid"), alpha=0.65, lw=0, zorder=0.6)
    axes.plot(ends, ends, color=colour("muted"), lw=1.0, zorder=1)
    limit_line(axes, target.limit_ms, vertical=False)
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    name_limit(axes, target.limit_ms, vertical=False)
    for c in seen:
        (line,) = axes.plot(
            [c.predicted_ms], [c.ms], "o", ms=4.8, color=colour("front"), mec=colour("paper"), mew=0.7, zorder=3
        )
        if c.ci_ms is not None:
            axes.plot([c.predicted_ms] * 2, c.ci_ms, color=colour("front"), lw=0.8, alpha=0.6, zorder=2)
        chart.tip(line, f"{c.told(result['task']['metric'])}, predicted {digits.ms(c.predicted_ms)}")
    axes.set_xlabel(f"predicted before the measurement, ms{log_note(axes)}")
    axes.set_ylabel("measured p50, ms")
    say(axes, _numbers(seen).replace(", ", "\n"), (0, 1), "axes fraction", ink="ink")
