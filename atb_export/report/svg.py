"""A matplotlib figure as SVG that lives inside the page: its colours and its font are the page's."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from atb_export.report.palette import LIGHT

# matplotlib paints with these stand-ins; `Chart.svg` turns each into the page's CSS variable of the same
# name, so that one drawing is right on light and on dark paper.
_STAND_IN: Mapping[str, str] = {name: f"#0f0e{i + 16:02x}" for i, name in enumerate(LIGHT)}
_VARIABLE = {stand_in: f"var(--{name})" for name, stand_in in _STAND_IN.items()}
_WORN: ContextVar[Mapping[str, str]] = ContextVar("colours of the drawing", default=_STAND_IN)

_RC = {
    "svg.fonttype": "none",  # text stays text: selectable, small, in the page's font
    "text.parse_math": False,  # a dollar sign in a stranger's label is a dollar sign
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.titlesize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "lines.solid_capstyle": "round",
}
_INKED = {
    "text.color": "ink",
    "axes.labelcolor": "muted",
    "axes.edgecolor": "grid",
    "grid.color": "grid",
    "xtick.color": "grid",
    "ytick.color": "grid",
    "xtick.labelcolor": "muted",
    "ytick.labelcolor": "muted",
}


def colour(name: str) -> str:
    """What matplotlib paints with for a colour of the palette: inside the page a stand-in, in files the colour."""
    return _WORN.get()[name]


class Chart:
    """One figure, `width` and `height` in points; `key` makes its ids unique on the page.

    `above`, `below` and, left and right, `side` are points around them, for the words of a picture that stands
    alone. `area` is what is left to the axes, in fractions of the figure: left, bottom, width, height.
    """

    def __init__(
        self, *, key: str, width: float, height: float, above: float = 0.0, below: float = 0.0, side: float = 0.0
    ) -> None:
        self.key = key
        broad, tall = width + 2 * side, above + height + below
        self.area = (side / broad, below / tall, width / broad, height / tall)
        layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.04, rect=self.area)
        self.figure: Any = Figure(figsize=(broad / 72, tall / 72), facecolor="none", layout=layout)
        self._tips: dict[str, str] = {}

    def tip(self, artist: Any, text: str) -> None:
        """Shows `text` when a pointer rests on the artist."""
        gid = f"tip-{len(self._tips)}"
        artist.set_gid(gid)
        self._tips[gid] = text

    def settle(self) -> None:
        """Lays the axes out now, so that positions in pixels can be asked for."""
        self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")

    def svg(self, description: str) -> str:
        """The `<svg>` element, to be put into an HTML page as it is."""
        FigureCanvasSVG(self.figure)
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314 - matplotlib wrote it a moment ago
        for metadata in root.findall("{*}metadata"):
            root.remove(metadata)
        for element in root.iter():
            self._localise(element)
        width, height = (float(x) for x in root.attrib["viewBox"].split()[2:])
        root.attrib = {
            "viewBox": f"0 0 {width:g} {height:g}",
            "role": "img",
            "aria-label": description,
        }
        return ElementTree.tostring(root, encoding="unicode")

    def svg_file(self, title: str) -> bytes:
        """A complete SVG file on its own paper."""
        FigureCanvasSVG(self.figure)
        buffer = io.BytesIO()
        metadata = {"Date": None, "Title": title}
        self.figure.savefig(buffer, format="svg", facecolor=colour("paper"), metadata=metadata)
        return buffer.getvalue()

    def png_file(self, title: str, *, dpi: int = 200) -> bytes:
        """A complete PNG file on its own paper."""
        FigureCanvasAgg(self.figure)
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=dpi, facecolor=colour("paper"), metadata={"Title": title})
        return buffer.getvalue()

    def _localise(self, element: ElementTree.Element) -> None:
        """Drops name spaces (HTML parsers know SVG's), prefixes ids, gives colours and font to the page."""
        element.tag = element.tag.rpartition("}")[2]
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        tip = self._tips.get(attributes.get("id", ""))
        if "id" in attributes:
            attributes["id"] = f"{self.key}-{attributes['id']}"
        if attributes.get("href", "").startswith("#"):
            attributes["href"] = f"#{self.key}-{attributes['href'][1:]}"
        if "clip-path" in attributes:
            attributes["clip-path"] = attributes["clip-path"].replace("url(#", f"url(#{self.key}-")
        if "style" in attributes:
            style = re.sub(r"#[0-9a-f]{6}", lambda m: _VARIABLE.get(m[0], m[0]), attributes["style"])
            attributes["style"] = re.sub(r"font: (?:(\w+) )?([\d.]+px)[^;]*", _font, style)
        element.attrib = attributes
        if tip is not None:
            title = ElementTree.Element("title")
            title.text = tip
            element.insert(0, title)


def _font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1]}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}"


@contextmanager
def drawing(key: str, colours: Mapping[str, str] = _STAND_IN) -> Iterator[None]:
    """matplotlib's settings for one chart; the same data gives the same bytes.

    `colours` are those of a file that stands alone; without them the page's variables are painted with.
    """
    inked = {setting: colours[name] for setting, name in _INKED.items()}
    worn = _WORN.set(colours)
    try:
        with warnings.catch_warnings(), matplotlib.rc_context({**_RC, **inked, "svg.hashsalt": key}):
            # The reader's browser has fonts for scripts that matplotlib's own font lacks.
            warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from")
            yield
    finally:
        _WORN.reset(worn)
