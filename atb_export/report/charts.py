"""The pictures of the search: accuracy against latency, and operations against latency."""

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
    is_late,
    latency_axis,
    legend,
    log_note,
    measured,
    models,
    role,
    score_axis,
)
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
    wide, candidates = width == WIDE, measured(result)
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
        if limit is not None:
            axes.axvline(limit, color=colour("limit"), lw=1.1, ls=(0, (4, 3)), zorder=1)
    latencies = [m["latency_ms"] for m in models(result)] + [c["latency_ms"] for c in candidates]
    latency_axis(panels[-1], [*latencies, *([limit] if limit else [])])
    panels[-1].set_xlabel(f"latency, p50 in ms{log_note(panels[-1])}")
    if limit is not None:
        side = "right" if is_late(panels[-1], limit) else "left"
        panels[-1].annotate(
            f"limit {digits.ms(limit)}",
            (limit, 0),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if side == "right" else 4, 6),
            textcoords="offset points",
            ha=side,
            color=colour("limit"),
            fontsize=8.5,
        )
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


def _candidates(chart: Chart, axes: Any, result: Result, candidates: Sequence[Mapping[str, Any]]) -> None:
    metric = result["task"]["metric"]
    bars = [
        [(low, c["accuracy"]), (high, c["accuracy"])]
        for c in candidates
        for low, high in [digits.bounds(c.get("latency_ci_ms"))]
        if low is not None and high is not None
    ]
    axes.add_collection(LineCollection(bars, colors=colour("candidate"), linewidths=0.9, alpha=0.6, zorder=2))
    on_front = sorted((c for c in candidates if c.get("front")), key=lambda c: (c["latency_ms"], c["accuracy"]))
    steps = [(c["latency_ms"], c["accuracy"]) for c in on_front]
    if steps:
        axes.step(*zip(*steps, strict=True), where="post", color=colour("front"), lw=1.4, zorder=3)
    chosen = result["winner"].get("subnet")
    for c in candidates:
        picked = chosen is not None and c["subnet"] == chosen
        ink = "winner" if picked else "front" if c.get("front") else "candidate"
        (line,) = axes.plot(
            [c["latency_ms"]],
            [c["accuracy"]],
            "D" if picked else "o",
            ms=7 if picked else 5 if c.get("front") else 4.5,
            color=colour(ink),
            alpha=1.0 if ink != "candidate" else 0.75,
            mec=colour("paper"),
            mew=0.8,
            zorder=5 if picked else 4,
        )
        text = digits.score(c["accuracy"], metric)
        chart.tip(line, f"{digits.shape(c['subnet'])}: {text}, {digits.ms(c['latency_ms'])}")
    legend(
        axes,
        [
            ("front", "o", "front"),
            ("candidate", "o", "other candidates"),
            ("winner", "D", "the winner's shape"),
        ],
    )


def flops_chart(result: Result) -> Picture | None:
    """Operations against measured milliseconds, the band around the limit shaded; None without candidates."""
    points = [c for c in measured(result) if digits.number(c.get("flops"))]
    if len(points) < 2:
        return None
    return both(
        "flops",
        "Floating point operations of each candidate against its measured latency",
        lambda key, width: _flops(result, points, key, width),
    )


def _flops(result: Result, points: Sequence[Mapping[str, Any]], key: str, width: float) -> Chart:
    wide = width == WIDE
    chart = Chart(key=key, width=width, height=300)
    axes = chart.figure.add_subplot()
    axes.grid(lw=0.7)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    limit = digits.number(result["constraint"].get("max_ms"))
    low, high = digits.bounds((result.get("spearman_flops_latency") or {}).get("band_ms"))
    if low is not None and high is not None:
        axes.axhspan(low, high, color=colour("band"), lw=0, zorder=0)
    if limit is not None:
        axes.axhline(limit, color=colour("limit"), lw=1.1, ls=(0, (4, 3)), zorder=1)
    for c in points:
        (line,) = axes.plot(
            [c["flops"] / 1e9],
            [c["latency_ms"]],
            "o",
            ms=5,
            color=colour("candidate"),
            mec=colour("paper"),
            mew=0.8,
            zorder=3,
        )
        chart.tip(line, f"{digits.shape(c['subnet'])}: {digits.count(c['flops'])}FLOP, {digits.ms(c['latency_ms'])}")
    labels = []
    choice = result.get("flops_choice") or {}
    marked = [
        ("winner", "D", "winner", _match(points, result["winner"].get("subnet")) or result["winner"]),
        ("baseline", "s", "FLOPs' choice", choice),
    ]
    for ink, marker, name, at in marked:
        if digits.number(at.get("flops")) and digits.number(at.get("latency_ms")):
            axes.plot(
                [at["flops"] / 1e9],
                [at["latency_ms"]],
                marker,
                ms=7,
                color=colour(ink),
                mec=colour("paper"),
                mew=1,
                zorder=5,
            )
            labels.append(Label(x=at["flops"] / 1e9, y=at["latency_ms"], lines=(name,), colour=colour(ink), bold=True))
    latency_axis(axes, [c["latency_ms"] for c in points], vertical=True)
    latency_axis(axes, [c["flops"] / 1e9 for c in points])
    axes.set_xlabel(f"operations in GFLOP{log_note(axes)}")
    axes.set_title("latency, p50 in ms", loc="left", color=colour("muted"), fontsize=9)
    chart.settle()
    marks = [around(axes, c["flops"] / 1e9, c["latency_ms"], half=3) for c in points]
    if limit is not None:
        marks.append(around(axes, 1, limit, x_range=axes.get_xlim()))
    place(axes, labels, marks=marks, font_size=9.0 if wide else 8.5)
    return chart


def _match(points: Sequence[Mapping[str, Any]], subnet: Any) -> Mapping[str, Any] | None:
    return next((c for c in points if subnet is not None and c["subnet"] == subnet), None)
