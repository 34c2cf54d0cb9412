"""Accuracy against latency: the finished models above, the candidates of the search below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.collections import LineCollection

from atb_export.report import digits
from atb_export.report.axes import (
    WIDE,
    Picture,
    Result,
    both,
    latency_axis,
    legend,
    limit_line,
    log_note,
    models,
    name_limit,
    role,
    score_axis,
)
from atb_export.report.candidates import Seen, scored
from atb_export.report.labels import Label, around, place
from atb_export.report.svg import Chart, colour

_MARKER = {"winner": ("D", 7.0), "teacher": ("o", 7.5), "baseline": ("s", 6.0)}


def front_chart(result: Result) -> Picture:
    """Test accuracy of the finished models above the candidates of the search; one latency axis."""
    return both(
        "front",
        "Accuracy against measured latency: finished models above, candidates of the search below",
        lambda key, width: _front(result, key, width),
    )


def _front(result: Result, key: str, width: float) -> Chart:
    wide, candidates = width == WIDE, scored(result)
    metric = result["task"]["metric"]
    limit = digits.number(result["constraint"].get("max_ms"))
    chart = Chart(key=key, width=width, height=430 if candidates else 260)
    grid = chart.figure.add_gridspec(2 if candidates else 1, 1, height_ratios=[1.25, 1] if candidates else [1])
    top = chart.figure.add_subplot(grid[0])
    panels = [top]
    _models(chart, top, result)
    if candidates:
        panels.append(chart.figure.add_subplot(grid[1], sharex=top))
        _candidates(chart, panels[1], result, candidates)
        top.tick_params(labelbottom=False)
    for axes, title in zip(
        panels, ("Finished models, test rows", "Candidates in the search, search-dev rows"), strict=False
    ):
        axes.set_title(title, loc="left", color=colour("ink"), fontweight="bold", pad=7)
        score_axis(axes, metric)
        limit_line(axes, limit)
    latencies = [m["latency_ms"] for m in models(result)] + [c.ms for c in candidates]
    latency_axis(panels[-1], [*latencies, *([limit] if limit else [])])
    panels[-1].set_xlabel(f"latency, p50 in ms{log_note(panels[-1])}")
    name_limit(panels[-1], limit)
    low, high = top.get_ylim()
    top.set_ylim(low - 0.04 * (high - low), high + 0.08 * (high - low))
    chart.settle()
    _name_models(top, result, wide=wide)
    return chart


def _models(chart: Chart, axes: Any, result: Result) -> None:
    teacher = result["teacher"]
    axes.axhline(teacher["accuracy"], color=colour("teacher"), lw=0.8, alpha=0.55, zorder=1)
    for model in models(result):
        kind = role(result, model)
        marker, size = _MARKER[kind]
        _error_bar(axes, model["latency_ms"], model["accuracy"], model, colour(kind))
        (line,) = axes.plot(
            [model["latency_ms"]],
            [model["accuracy"]],
            marker,
            ms=size,
            mec=colour("paper"),
            mew=1.0,
            color=colour(kind),
            zorder=4,
        )
        text = digits.score(model["accuracy"], result["task"]["metric"], model.get("accuracy_se"))
        chart.tip(line, f"{model['name']}: {text}, {digits.ms(model['latency_ms'])}")


def _error_bar(axes: Any, x: float, y: float, model: Mapping[str, Any], ink: str) -> None:
    se = digits.number(model.get("accuracy_se"))
    if se:
        axes.plot([x, x], [y - se, y + se], color=ink, lw=1.4, zorder=3)
    low, high = digits.bounds(model.get("latency_ci_ms"))
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], color=ink, lw=1.4, zorder=3)


def _name_models(axes: Any, result: Result, *, wide: bool) -> None:
    metric, labels = result["task"]["metric"], []
    marks = [around(axes, 1, result["teacher"]["accuracy"], x_range=axes.get_xlim())]
    limit = digits.number(result["constraint"].get("max_ms"))
    if limit is not None:
        marks.append(around(axes, limit, 0, y_range=axes.get_ylim()))
    for model in reversed(models(result)):
        x, y, se = model["latency_ms"], model["accuracy"], digits.number(model.get("accuracy_se"))
        marks.append(around(axes, x, y))
        if se:
            marks.append(around(axes, x, y, y_range=(y - se, y + se)))
        lines: tuple[str, ...] = (digits.clean(model["name"], 26 if wide else 16),)
        if wide:
            lines = (*lines, f"{digits.score(y, metric, se)}")
        kind = role(result, model)
        labels.append(Label(x=x, y=y, lines=lines, colour=colour(kind), bold=kind != "baseline"))
    place(axes, labels, marks=marks)


def _candidates(chart: Chart, axes: Any, result: Result, candidates: Sequence[Seen]) -> None:
    bars = [
        [(low, c.accuracy or 0.0), (high, c.accuracy or 0.0)] for c in candidates if c.ci_ms for low, high in [c.ci_ms]
    ]
    axes.add_collection(LineCollection(bars, colors=colour("candidate"), linewidths=0.9, alpha=0.6, zorder=2))
    steps = sorted((c.ms, c.accuracy or 0.0) for c in candidates if c.on_front)
    if steps:
        axes.step(*zip(*steps, strict=True), where="post", color=colour("front"), lw=1.4, zorder=3)
    chosen = result["winner"].get("subnet")
    for c in candidates:
        picked = chosen is not None and c.subnet == chosen
        ink = "winner" if picked else "front" if c.on_front else "candidate"
        (line,) = axes.plot(
            [c.ms],
            [c.accuracy],
            "D" if picked else "o",
            ms=7 if picked else 5 if c.on_front else 4.5,
            color=colour(ink),
            alpha=1.0 if ink != "candidate" else 0.75,
            mec=colour("paper"),
            mew=0.8,
            zorder=5 if picked else 4,
        )
        chart.tip(line, c.told(result["task"]["metric"]))
    legend(
        axes,
        [
            ("front", "o", "front"),
            ("candidate", "o", "other candidates"),
            ("winner", "D", "the winner's shape"),
        ],
    )
