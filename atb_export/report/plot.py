"""A chart with its words: inside the page as a picture of two widths, or as a file that stands alone."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from atb_export.report.axes import WIDE, Picture, both
from atb_export.report.palette import FILES
from atb_export.report.svg import Chart, colour, drawing

_LINE = 13.0  # points between lines of a file's words
_LETTERS = 122  # of 9 points that fit into the width of a file
_MARGIN = 14.0  # of a file


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Where a chart is drawn; the words are those of a file, the page sets them in HTML."""

    key: str
    width: float
    title: str = ""
    caption: str = ""
    footer: str = ""
    margin: float = 0.0

    @property
    def is_wide(self) -> bool:
        """Whether there is room for panels side by side."""
        return self.width >= WIDE

    def chart(self, height: float) -> Chart:
        """An empty chart, `height` points high without the words."""
        caption, footer = textwrap.wrap(self.caption, _LETTERS), textwrap.wrap(self.footer, _LETTERS + 14)
        head = 24.0 if self.title else 0.0
        above = self.margin + head + (_LINE * len(caption) + 10 if caption else 0)
        below = self.margin + (_LINE * len(footer) + 8 if footer else 0)
        chart = Chart(key=self.key, width=self.width, height=height, side=self.margin, above=above, below=below)
        top = above + height + below - self.margin
        self._write(chart, top - 13, [self.title], size=13.0, ink="ink", fontweight="bold")
        self._write(chart, top - head - 8, caption, size=9.0, ink="muted")
        self._write(chart, below - 16, footer, size=8.0, ink="muted")
        return chart

    def _write(self, chart: Chart, y: float, lines: Sequence[str], *, size: float, ink: str, **style: Any) -> None:
        """Lines of text, the first at height `y` in points."""
        width, height = 72 * chart.figure.get_size_inches()
        for i, line in enumerate(lines):
            x = self.margin / width
            words = chart.figure.text(x, (y - i * _LINE) / height, line, fontsize=size, color=colour(ink), **style)
            words.set_in_layout(False)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One chart: `says` is a sentence that tells how to read it, `caption` its numbers in words."""

    name: str
    title: str
    says: str
    caption: str
    draw: Callable[[Sheet], Chart]

    def picture(self) -> Picture:
        """For the page."""
        return both(self.name, self.title, lambda key, width: self.draw(Sheet(key=key, width=width)))

    def files(self, footer: str) -> dict[str, bytes]:
        """The same as SVG and PNG by file name, on white paper, with title, caption and `footer`."""
        key = f"{self.name}-file"
        caption = f"{self.says} {self.caption}".strip()
        sheet = Sheet(key=key, width=WIDE, title=self.title, caption=caption, footer=footer, margin=_MARGIN)
        with drawing(key, FILES):
            svg = self.draw(sheet).svg_file(self.title)
            png = self.draw(sheet).png_file(self.title)
        return {f"{self.name}.svg": svg, f"{self.name}.png": png}
