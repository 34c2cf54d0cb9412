"""What the charts share: their two widths, the axes of latency and of scores, the legend."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from atb_export.report import digits
from atb_export.report.candidates import Target
from atb_export.report.svg import Chart, colour, drawing

Result = Mapping[str, Any]
WIDE, NARROW = 600.0, 290.0  # points; the page shows one or the other, so that letters keep their size


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The same chart for a wide and a narrow page; both are complete `<svg>` elements."""

    wide: str
    narrow: str


def both(name: str, description: str, draw: Callable[[str, float], Chart]) -> Picture:
    """Draws one chart at both widths; ids on the page start with `name`."""
    drawn = []
    for suffix, width in (("w", WIDE), ("n", NARROW)):
        key = f"{name}-{suffix}"
        with drawing(key):
            drawn.append(draw(key, width).svg(description))
    return Picture(wide=drawn[0], narrow=drawn[1])


def role(result: Result, model: Mapping[str, Any]) -> str:
    """Which colour a model wears: winner, teacher or baseline."""
    return next((name for name in ("winner", "teacher") if model is result[name]), "baseline")


def models(result: Result) -> list[Mapping[str, Any]]:
    """Teacher, winner and baselines, the winner last: it is drawn on top."""
    return [result["teacher"], *result["baselines"], result["winner"]]


def panels(chart: Chart, targets: Sequence[Target], *, wide: bool, room: float = 8.0) -> list[Any]:
    """One axes for each target; where there are several each has its name above, `room` points from the axes."""
    columns = min(len(targets), 2 if wide else 1)
    grid = chart.figure.subplots(math.ceil(len(targets) / columns), columns, squeeze=False)
    cells = [axes for line in grid for axes in line]
    chart.figure.get_layout_engine().set(wspace=0.06, hspace=0.06)
    for axes in cells[len(targets) :]:
        axes.set_visible(False)
    for axes, target in zip(cells, targets, strict=False):
        if len(targets) > 1:
            axes.set_title(digits.clean(target.label, 40), loc="left", color=colour("ink"), fontweight="bold", pad=room)
        axes.grid(lw=0.7)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
    return cells[: len(targets)]


def panel_rows(count: int, *, wide: bool) -> int:
    """How many rows `panels` makes of that many."""
    return math.ceil(count / 2) if wide else count


def limit_line(axes: Any, limit: float | None, *, vertical: bool = True) -> None:
    """The most that is allowed, as a dashed line."""
    if limit is not None:
        line = axes.axvline if vertical else axes.axhline
        line(limit, color=colour("limit"), lw=1.1, ls=(0, (4, 3)), zorder=1)


def name_limit(axes: Any, limit: float | None, *, vertical: bool = True) -> Any:
    """Writes beside the limit line how much it is, and returns the text; the axis' ends are settled."""
    if limit is None:
        return None
    late = vertical and is_late(axes, limit)
    return axes.annotate(
        f"limit {digits.ms(limit)}",
        (limit, 0) if vertical else (0, limit),
        xycoords=("data", "axes fraction") if vertical else ("axes fraction", "data"),
        xytext=(-4 if late else 4, 6 if vertical else 4),
        textcoords="offset points",
        ha="right" if late else "left",
        color=colour("limit"),
        fontsize=8.5,
    )


def legend(axes: Any, entries: Sequence[tuple[str, str, str]], loc: str = "lower right") -> None:
    """A small legend; `entries` are colour, marker and text."""
    handles = [axes.plot([], [], m, color=colour(c), ms=5, label=text)[0] for c, m, text in entries]
    axes.legend(handles=handles, loc=loc, frameon=False, fontsize=8.5, labelcolor=colour("muted"), handletextpad=0.3)


def legend_above(axes: Any, title: str) -> None:
    """What is drawn with a label, in one line above the axes, where it covers nothing."""
    axes.plot([], [], lw=0, label=title)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        [handles[-1], *handles[:-1]],
        [labels[-1], *labels[:-1]],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        bbox_transform=axes.transAxes + ScaledTranslation(-14 / 72, 0, axes.figure.dpi_scale_trans),
        borderaxespad=0.2,
        borderpad=0.2,
        ncols=len(labels),
        frameon=False,
        fontsize=8.5,
        labelcolor=colour("muted"),
        handlelength=1.1,
        handletextpad=0.35,
        columnspacing=0.9,
    )


def say(axes: Any, words: str, at: tuple[float, float], coordinates: Any, *, ink: str, size: float = 9.0) -> Any:
    """Writes into the corner `at`, to the right of a left end and below an upper one; returns the text."""
    right, below = at[0] == 0, at[1] == 1
    return axes.annotate(
        words,
        at,
        xycoords=coordinates,
        xytext=(6 if right else -6, -4 if below else 4),
        textcoords="offset points",
        ha="left" if right else "right",
        va="top" if below else "bottom",
        color=colour(ink),
        fontsize=size,
        bbox={"facecolor": colour("paper"), "lw": 0, "pad": 1.5} if below else None,
    )


def score_axis(axes: Any, metric: str) -> None:
    """Grid and labels of a vertical axis of scores: percent for accuracies."""
    axes.grid(axis="y", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda y, _: f"{100 * y:g}\u202f%" if metric == "accuracy" else f"{y:g}")
    )


def latency_axis(axes: Any, values: Sequence[float], *, vertical: bool = False) -> None:
    """Logarithmic where the values span more than a factor of 2.5: equal ratios look equal."""
    low, high = min(values), max(values)
    axis = axes.yaxis if vertical else axes.xaxis
    if low > 0 and high / low > 2.5:
        (axes.set_yscale if vertical else axes.set_xscale)("log")
        pad = (high / low) ** 0.09
        low, high = low / pad, high * pad
        axis.set_major_locator(FixedLocator(_log_ticks(low, high)))
        axis.set_minor_locator(NullLocator())
    else:
        pad = 0.08 * (high - low) or 0.1 * high
        low, high = low - pad, high + pad
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    (axes.set_ylim if vertical else axes.set_xlim)(low, high)
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between the ends: as fine as still leaves at most seven of them."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3)):
        ticks = [float(f"{m}e{d}") for d in decades for m in mantissas if low <= float(f"{m}e{d}") <= high]
        if len(ticks) <= 7:
            return ticks
    return [10.0**d for d in decades if low <= 10.0**d <= high]


def log_note(axes: Any) -> str:
    """What an axis title adds where the horizontal axis is logarithmic."""
    return " (logarithmic)" if axes.get_xscale() == "log" else ""


def is_late(axes: Any, x: float) -> bool:
    """Whether x lies in the right part of the axis."""
    low, high = axes.get_xlim()
    if axes.get_xscale() == "log":
        low, high, x = math.log(low), math.log(high), math.log(x)
    return bool((x - low) / (high - low) > 0.7)
