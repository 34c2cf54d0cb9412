"""The front growing: what each generation of the search added to accuracy against latency."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from atb_export.report.axes import (
    Result,
    latency_axis,
    legend_above,
    limit_line,
    log_note,
    name_limit,
    panel_rows,
    panels,
    score_axis,
)
from atb_export.report.candidates import Seen, Target, measured, scored, staircase, targets
from atb_export.report.labels import Label, around, place
from atb_export.report.palette import STEPS
from atb_export.report.plot import Plot, Sheet
from atb_export.report.svg import Chart, colour


def growth_chart(result: Result) -> Plot | None:
    """All scored candidates, and the front after up to five generations; None with fewer than two candidates."""
    if len(scored(result)) < 2:
        return None
    return Plot(
        name="growth",
        title="The front growing, generation by generation",
        says="Up is more accurate, left is faster: each staircase is the best known after that generation, "
        "and the stronger its colour the later.",
        caption=_caption(result),
        draw=lambda sheet: _draw(result, sheet),
    )


def moves(candidates: Sequence[Seen]) -> list[int]:
    """The generations after which the front was another than before."""
    found: list[int] = []
    front: list[tuple[float, float]] = []
    for generation in sorted({c.generation for c in candidates}):
        now = staircase([c for c in candidates if c.generation <= generation])
        if now != front:
            found.append(generation)
        front = now
    return found


def spread(generations: Sequence[int], most: int = len(STEPS)) -> list[int]:
    """At most `most` of them, evenly, the first and the last among them."""
    if len(generations) <= most:
        return list(generations)
    last = len(generations) - 1
    return [generations[round(i * last / (most - 1))] for i in range(most)]


def _caption(result: Result) -> str:
    here, complete = measured(result), scored(result)
    moved, last = moves(complete), max(c.generation for c in here)
    words = [f"{len(staircase(complete))} of {len(complete)} scored candidates stand on the last front."]
    if moved[-1] == last > 0:
        words.append(f"It still moved in generation {last}, the last.")
    elif last > 0:
        words.append(f"It last moved in generation {moved[-1]} of {last}.")
    stopped = sum(c.accuracy is not None and not c.is_scored for c in here)
    if stopped:
        words.append(f"Crosses: {stopped} that were stopped early as hopeless, at the accuracy of their first rows.")
    unasked = sum(c.accuracy is None for c in here)
    if unasked:
        words.append(f"Not drawn: {unasked} too slow to be asked for an accuracy.")
    if len(targets(result)) > 1:
        words.append(f"The counts are those of {targets(result)[0].label}.")
    return " ".join(words)


def _draw(result: Result, sheet: Sheet) -> Chart:
    found = targets(result)
    height = 330 if len(found) == 1 else 270 * panel_rows(len(found), wide=sheet.is_wide)
    chart = sheet.chart(height)
    cells = panels(chart, found, wide=sheet.is_wide, room=24.0)
    for axes, target in zip(cells, found, strict=True):
        _panel(chart, axes, result, target)
    chart.settle()
    for axes, target in zip(cells, found, strict=True):
        _name_winner(axes, result, target)
    return chart


def _panel(chart: Chart, axes: Any, result: Result, target: Target) -> None:
    known = [c for c in measured(result, target.index) if c.accuracy is not None]
    complete = [c for c in known if c.is_scored]
    shown = spread(moves(complete))
    inks = STEPS[-1:] if len(shown) == 1 else [STEPS[i] for i in _evenly(len(shown), len(STEPS))]
    limit_line(axes, target.limit_ms)
    score_axis(axes, result["task"]["metric"])
    latency_axis(axes, [*(c.ms for c in known), *([target.limit_ms] if target.limit_ms else [])])
    right = axes.get_xlim()[1]
    for i, (generation, ink) in enumerate(zip(shown, inks, strict=True)):
        steps = staircase([c for c in complete if c.generation <= generation])
        xs, ys = [ms for ms, _ in steps], [accuracy for _, accuracy in steps]
        axes.step(
            [*xs, right],
            [*ys, ys[-1]],
            where="post",
            color=colour(ink),
            lw=1.6 if i < len(shown) - 1 else 2.0,
            zorder=3 + 0.1 * i,
            label=f"{generation}",
        )
    for c in known:
        _dot(chart, axes, c, _ink(c, shown, inks), result)
    axes.set_xlabel(f"latency, p50 in ms{log_note(axes)}")
    name_limit(axes, target.limit_ms)
    legend_above(axes, "front after generation")


def _evenly(count: int, room: int) -> list[int]:
    return [round(i * (room - 1) / (count - 1)) for i in range(count)]


def _ink(candidate: Seen, shown: Sequence[int], inks: Sequence[str]) -> str:
    """The colour of the first staircase drawn that knew it; those that came after the last move are grey."""
    if not candidate.is_scored:
        return "candidate"
    return next((ink for at, ink in zip(shown, inks, strict=True) if candidate.generation <= at), "candidate")


def _dot(chart: Chart, axes: Any, candidate: Seen, ink: str, result: Result) -> None:
    picked = _is_winner(candidate, result)
    style: dict[str, Any] = {"ms": 4.8, "mec": colour("paper"), "mew": 0.7, "zorder": 4}
    if picked:
        style |= {"ms": 7.5, "zorder": 5, "mew": 1.0}
    if not candidate.is_scored:
        style |= {"ms": 4.0, "mec": colour("candidate"), "mew": 0.9, "zorder": 2}
    marker = "D" if picked else "o" if candidate.is_scored else "x"
    (line,) = axes.plot(
        [candidate.ms], [candidate.accuracy], marker, color=colour("winner" if picked else ink), **style
    )
    early = "" if candidate.is_scored else " (stopped early)"
    chart.tip(line, candidate.told(result["task"]["metric"]) + early)


def _is_winner(candidate: Seen, result: Result) -> bool:
    chosen = result["winner"].get("subnet")
    return candidate.is_scored and chosen is not None and candidate.subnet == chosen


def _name_winner(axes: Any, result: Result, target: Target) -> None:
    known = [c for c in measured(result, target.index) if c.accuracy is not None]
    won = next((c for c in known if _is_winner(c, result)), None)
    if won is None:
        return
    marks = [around(axes, c.ms, c.accuracy or 0.0, half=3) for c in known]
    if target.limit_ms is not None:
        marks.append(around(axes, target.limit_ms, 0, y_range=axes.get_ylim()))
    corners = [*staircase(known), (axes.get_xlim()[1], 0.0)]
    for (ms, accuracy), (until, _) in pairwise(corners):
        marks.append(around(axes, ms, accuracy, x_range=(ms, until)))
    label = Label(x=won.ms, y=won.accuracy or 0.0, lines=("winner",), colour=colour("winner"), bold=True)
    place(axes, [label], marks=marks)
