"""How a variant looks in every chart: its colour, its mark, its words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.lines import Line2D

from atb_export.bench.result import BenchResult, Measured, Row
from atb_export.report import digits
from atb_export.report.svg import Chart, colour

_INKS = ("winner", "teacher", "part4", "baseline", "part0", "limit", "front", "candidate")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")
_FRAMEWORKS = {"torch": "PyTorch", "torch_compile": "torch.compile", "pipeline": "transformers pipeline"}
FROM = {"tokens": "from tokens", "text": "from text"}


def ink_of(result: BenchResult, name: str) -> str:
    """The colour of a variant, the same in every chart and table."""
    return _INKS[result.names.index(name) % len(_INKS)]


def marker_of(result: BenchResult, name: str) -> str:
    """The mark of a variant; with the colour it tells sixty-four apart."""
    at = result.names.index(name)
    return _MARKERS[(at + at // len(_INKS)) % len(_MARKERS)]


def length(who: Measured) -> str:
    """Such as "length 64", or its buckets."""
    if not who.lengths:
        return f"length up to {who.target.shape.length}"
    return f"length {'/'.join(map(str, who.lengths))}"


def about(who: Measured, result: BenchResult) -> str:
    """What of a row is not alike for all rows."""
    told: dict[str, set[Any]] = {
        engine(who.target.backend): {x.who.target.backend for x in result.rows},
        who.effective_precision: {x.who.effective_precision for x in result.rows},
        who.shape.replace("x", "×").replace("<=", "≤"): {x.who.shape for x in result.rows},
        f"{who.target.threads} thr.": {x.who.target.threads for x in result.rows},
        FROM[who.takes]: {x.who.takes for x in result.rows},
    }
    return ", ".join(word for word, all_ in told.items() if len(all_) > 1)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The three percentiles of a row in milliseconds; infinite where queries stayed unanswered."""

    row: Row
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, row: Row, report: Any) -> Spread:
        """Of a report that has the three."""
        return cls(row=row, p50=report.p50_ms, p90=report.p90_ms, p99=report.p99_ms)

    @property
    def told(self) -> str:
        """In one line."""
        return f"{self.row.who.name}: p50 {ms(self.p50)}, p90 {ms(self.p90)}, p99 {ms(self.p99)}"


def ms(value: float) -> str:
    """Milliseconds, where they end."""
    return digits.ms(value) if math.isfinite(value) else "never"


def is_sweep(rows: Sequence[Row]) -> bool:
    """Whether a variant is there more than once."""
    names = [x.who.name for x in rows]
    return len(set(names)) < len(names)


def engine(backend: str) -> str:
    """A runtime as its makers write it."""
    return _FRAMEWORKS.get(backend) or digits.engine(backend)


def panels(chart: Chart, count: int, *, columns: int, xlabel: str, ylabel: str) -> list[Any]:
    """That many axes of one scale, labelled at the left and at the bottom only."""
    grid = chart.figure.subplots(math.ceil(count / columns), columns, sharex=True, sharey=True, squeeze=False)
    cells = [axes for line in grid for axes in line]
    for at, axes in enumerate(cells):
        axes.set_visible(at < count)
        axes.grid(axis="y", lw=0.7)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        if at % columns == 0:
            axes.set_ylabel(ylabel)
        if at + columns >= count:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel(xlabel)
    return cells[:count]


def legend_height(names: Sequence[str], *, wide: bool) -> float:
    """Points that `legend_on_top` takes."""
    return 15.0 * math.ceil(len(names) / _in_a_line(wide)) + 6.0


def legend_on_top(chart: Chart, result: BenchResult, names: Sequence[str], *, wide: bool) -> None:
    """One legend for all panels, between the words of a file and the axes."""
    handles = [
        Line2D([], [], color=colour(ink_of(result, x)), marker=marker_of(result, x), ms=5, lw=1.6,
               label=digits.clean(x, 30 if wide else 22))
        for x in names
    ]  # fmt: skip
    left, bottom, width, height = chart.area
    reserved = legend_height(names, wide=wide) / (72 * chart.figure.get_size_inches()[1])
    chart.figure.get_layout_engine().set(rect=(left, bottom, width, height - reserved), wspace=0.05, hspace=0.06)
    drawn = chart.figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(left, bottom + height),
        bbox_transform=chart.figure.transFigure,
        borderaxespad=0.0,
        borderpad=0.2,
        ncols=min(_in_a_line(wide), len(handles)),
        frameon=False,
        fontsize=8.5,
        labelcolor=colour("muted"),
        handlelength=1.6,
        columnspacing=1.2,
    )
    drawn.set_in_layout(False)


def _in_a_line(wide: bool) -> int:
    return 4 if wide else 2
