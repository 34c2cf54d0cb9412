"""A matplotlib figure as SVG that lives inside the page: its colours and its font are the page's."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

# matplotlib paints with these stand-ins; `Chart.svg` turns each into the page's CSS variable of the same
# name, so that one drawing is right on light and on dark paper.
COLOURS = (
    "ink",
    "muted",
    "grid",
    "paper",
    "winner",
    "teacher",
    "baseline",
    "candidate",
    "front",
    "limit",
    "band",
)
_STAND_IN = {name: f"#0f0e{i + 16:02x}" for i, name in enumerate(COLOURS)}
_VARIABLE = {stand_in: f"var(--{name})" for name, stand_in in _STAND_IN.items()}

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
    """The stand-in matplotlib paints with for one of `COLOURS`."""
    return _STAND_IN[name]


class Chart:
    """One figure, `width` and `height` in points; `key` makes its ids unique on the page."""

    def __init__(self, *, key: str, width: float, height: float) -> None:
        self.key = key
        self.width = width
        layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.04)
        self.figure: Any = Figure(figsize=(width / 72, height / 72), facecolor="none", layout=layout)
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
def drawing(key: str) -> Iterator[None]:
    """matplotlib's settings for one chart; the same data gives the same bytes."""
    inked = {setting: _STAND_IN[name] for setting, name in _INKED.items()}
    with warnings.catch_warnings(), matplotlib.rc_context({**_RC, **inked, "svg.hashsalt": key}):
        # The reader's browser has fonts for scripts that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from")
        yield
