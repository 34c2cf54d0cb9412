"""The winner's shape, layer by layer, to scale inside the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atb_export.report.axes import WIDE, Picture, both
from atb_export.report.svg import Chart, colour

_KEPT, _LEFT_OUT = 34.0, 17.0  # height of a row in points
_BAR = 15.0
_FAINT = 7.0


def shape_chart(result: Mapping[str, Any]) -> Picture | None:
    """Head by head and neuron by neuron; None where teacher or winner have no subnet to draw."""
    teacher, winner = result["teacher"].get("subnet"), result["winner"].get("subnet")
    if not teacher or not winner:
        return None
    return both(
        "shape",
        "The winner's layers drawn inside the teacher's",
        lambda key, width: _draw(teacher, winner, key, width),
    )


def _draw(teacher: Mapping[str, Any], winner: Mapping[str, Any], key: str, width: float) -> Chart:
    whole = {layer["source"]: layer for layer in teacher["layers"]}
    kept = {layer["source"]: layer for layer in winner["layers"]}
    rows = sorted({*whole, *kept})
    attention = max(x["heads"] * x["head_size"] for x in [*whole.values(), *kept.values()])
    neurons = max(x["ffn_size"] for x in [*whole.values(), *kept.values()])
    gap = 0.06 * (attention + neurons)
    height = 26 + _KEPT + sum(_KEPT if source in kept else _LEFT_OUT for source in rows)
    chart = Chart(key=key, width=width, height=height)
    axes = chart.figure.add_axes((0.0, 0.0, 1.0, 1.0))
    chart.figure.set_layout_engine("none")
    axes.set_axis_off()
    indent = 62.0 if width == WIDE else 50.0
    scale = (width - indent - 4) / (attention + gap + neurons)
    axes.set_xlim(-indent, width - indent)
    axes.set_ylim(-height, 0)
    pen = _Pen(axes=axes, scale=scale, indent=indent, ffn_at=(attention + gap) * scale, wide=width == WIDE)
    pen.words(0, -9, "attention heads" if pen.wide else "heads", "muted")
    pen.words(pen.ffn_at, -9, "feed-forward neurons", "muted")
    y = -22.0
    pen.words(-indent, y - _BAR / 2, "words", "ink", bold=True)
    pen.bar(0, y, teacher["hidden_size"], "grid")
    pen.bar(0, y, winner["hidden_size"], "winner")
    pen.words(
        0,
        y - _BAR - 7,
        f"hidden size {_of(winner['hidden_size'], teacher['hidden_size'])}",
        "muted",
        size=8.0,
    )
    y -= _KEPT
    for source in rows:
        pen.layer(y, source, whole.get(source), kept.get(source))
        y -= _KEPT if source in kept else _LEFT_OUT
    return chart


def _of(part: int, whole: int | None) -> str:
    return f"{part}" if whole is None or part == whole else f"{part} of {whole}"


def _stacked(layer: Mapping[str, int]) -> str:
    """What a label adds where a layer has several feed-forward cells."""
    return f", {layer['ffn_stack']} cells" if layer.get("ffn_stack", 1) > 1 else ""


class _Pen:
    """Draws rows; lengths along x are model dimensions times `scale`, everything else is in points."""

    def __init__(self, *, axes: Any, scale: float, indent: float, ffn_at: float, wide: bool) -> None:
        self.axes = axes
        self.scale = scale
        self.indent = indent
        self.ffn_at = ffn_at
        self.wide = wide

    def words(self, x: float, y: float, text: str, ink: str, *, bold: bool = False, size: float = 8.5) -> None:
        weight = "bold" if bold else "normal"
        self.axes.text(x, y, text, color=colour(ink), fontsize=size, fontweight=weight, va="center")

    def bar(self, x: float, y: float, length: float, ink: str, *, height: float = _BAR) -> None:
        self.axes.bar([x], [-height], width=length * self.scale, bottom=[y], align="edge", color=colour(ink), lw=0)

    def heads(self, y: float, layer: Mapping[str, int], ink: str, *, pitch: int, height: float = _BAR) -> None:
        """Each head is a block of `head_size`, standing where the teacher's head stands (`pitch` apart)."""
        slit = min(1.2 / self.scale, 0.15 * pitch)
        for i in range(layer["heads"]):
            self.bar(i * pitch * self.scale, y, min(layer["head_size"], pitch) - slit, ink, height=height)

    def cells(self, y: float, layer: Mapping[str, int], ink: str, *, height: float = _BAR) -> None:
        """Stacked feed-forward cells stand below each other and share the height of the row."""
        count = layer.get("ffn_stack", 1)
        slit = min(1.5, 0.3 * height / count)
        each = (height - (count - 1) * slit) / count
        for i in range(count):
            self.bar(self.ffn_at, y - i * (each + slit), layer["ffn_size"], ink, height=each)

    def layer(self, y: float, source: int, whole: Mapping[str, int] | None, kept: Mapping[str, int] | None) -> None:
        height = _BAR if kept else _FAINT
        name = f"layer {source}"
        self.words(-self.indent, y - height / 2, name, "ink" if kept else "muted", bold=kept is not None)
        pitch = max(x["head_size"] for x in (whole, kept) if x)
        for layer, ink in ((whole, "grid"), (kept, "winner")):
            if layer:
                self.heads(y, layer, ink, pitch=pitch, height=height)
                self.cells(y, layer, ink, height=height)
        if kept:
            heads = f"{_of(kept['heads'], whole['heads'] if whole else None)} × {kept['head_size']}"
            self.words(0, y - height - 7, heads, "muted", size=8.0)
            self.words(
                self.ffn_at,
                y - height - 7,
                _of(kept["ffn_size"], whole["ffn_size"] if whole else None) + _stacked(kept),
                "muted",
                size=8.0,
            )
