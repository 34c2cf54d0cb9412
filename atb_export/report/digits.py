"""Numbers as a person reads them: sensible digits, units, and a dash where there is none."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

NONE = "\N{EN DASH}"
_THIN = "\u202f"  # narrow space that never breaks, between a number and its unit
_MINUS = "\N{MINUS SIGN}"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: Any) -> float | None:
    """The value as a finite float, or None: results may hold null, NaN or nothing at all."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def significant(value: Any, digits: int = 3) -> str:
    """Three significant digits without exponent: 0.421, 1.37, 12.4, 1240."""
    x = number(value)
    if x is None:
        return NONE
    if x == 0:
        return "0"
    x = float(f"{x:.{digits - 1}e}")  # so that 0.99996 is 1.00 and not 1.000
    places = max(0, digits - 1 - math.floor(math.log10(abs(x))))
    return f"{x:.{places}f}".replace("-", _MINUS)


def ms(value: Any) -> str:
    """Milliseconds."""
    text = significant(value)
    return text if text == NONE else f"{text}{_THIN}ms"


def ms_range(interval: Any) -> str:
    """A [low, high] interval of milliseconds, to the digits that tell its ends apart."""
    low, high = bounds(interval)
    if low is None or high is None:
        return ""
    digits = 3
    if 0 < low < high:
        digits = min(5, max(3, math.ceil(math.log10(high / (high - low))) + 1))
    return f"{significant(low, digits)} to {significant(high, digits)}{_THIN}ms"


def bounds(interval: Any) -> tuple[float | None, float | None]:
    """The ends of a [low, high] pair, (None, None) where it is not one."""
    if not isinstance(interval, list | tuple) or len(interval) != 2:
        return None, None
    return number(interval[0]), number(interval[1])


def rank(value: Any) -> str:
    """A rank correlation: two decimals, three where two would say 1.00."""
    x = number(value)
    if x is None:
        return NONE
    return f"{x:.{3 if 0.99 <= abs(x) < 1 else 2}f}".replace("-", _MINUS)


def percent(value: Any, digits: int = 1) -> str:
    """A fraction as a percentage."""
    x = number(value)
    return NONE if x is None else f"{100 * x:.{digits}f}{_THIN}%"


def score(value: Any, metric: str, se: Any = None) -> str:
    """A model's score, with one standard error where known: accuracies in percent, others with 3 decimals."""
    x, error = number(value), number(se)
    if x is None:
        return NONE
    if metric == "accuracy":
        return f"{100 * x:.1f}" + (f" ± {100 * error:.1f}" if error is not None else "") + f"{_THIN}%"
    return f"{x:.3f}".replace("-", _MINUS) + (f" ± {error:.3f}" if error is not None else "")


def difference(value: Any, metric: str, se: Any = None) -> str:
    """A signed difference of two scores: percentage points for accuracies."""
    x, error = number(value), number(se)
    if x is None:
        return NONE
    scale, digits, unit = (100, 1, " points") if metric == "accuracy" else (1, 3, "")
    body = f"{abs(scale * x):.{digits}f}"
    sign = "" if float(body) == 0 else "+" if x > 0 else _MINUS
    return f"{sign}{body}" + (f" ± {scale * error:.{digits}f}" if error is not None else "") + unit


def p_value(value: Any, name: str = "") -> str:
    """A probability: two digits, and never a false zero; with a name as `p = 0.59`."""
    x = number(value)
    if x is None:
        return NONE
    if x < 0.001:
        return f"{name} < 0.001".strip()
    return (f"{name} = " if name else "") + (f"{x:.3f}" if x < 0.1 else f"{x:.2f}")


def _scaled(value: Any, units: tuple[str, ...]) -> str:
    x = number(value)
    if x is None:
        return NONE
    step = 0
    while abs(x) >= 999.5 and step < len(units) - 1:
        x, step = x / 1000, step + 1
    text = f"{x:.0f}" if step == 0 else significant(x)
    return f"{text}{_THIN}{units[step]}" if units[step] else text


def count(value: Any) -> str:
    """Parameters or operations: 22.7 M, 1.42 G."""
    return _scaled(value, ("", "k", "M", "G", "T"))


def size(value: Any) -> str:
    """Bytes in decimal units: 44.1 MB."""
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def whole(value: Any) -> str:
    """An integer with thousands set apart."""
    x = number(value)
    return NONE if x is None else f"{x:,.0f}".replace(",", _THIN)


def duration(value: Any) -> str:
    """Seconds as 4.2 s, 81 s, 2 min 14 s, 1 h 05 min."""
    x = number(value)
    if x is None:
        return NONE
    if x < 9.95:
        return f"{x:.1f}{_THIN}s"
    seconds = round(x)
    if seconds < 100:
        return f"{seconds}{_THIN}s"
    if seconds < 3600:
        return f"{seconds // 60}{_THIN}min {seconds % 60:02d}{_THIN}s"
    return f"{seconds // 3600}{_THIN}h {seconds % 3600 // 60:02d}{_THIN}min"


def scientific(value: Any) -> str:
    """An error or tolerance: 0.012, or 3.1 x 10^-6 for the small ones."""
    x = number(value)
    if x is None:
        return NONE
    if x == 0 or 1e-3 <= abs(x) < 1e4:
        return significant(x, 2)
    exponent = math.floor(math.log10(abs(x)))
    return f"{x / 10**exponent:.1f} × 10{str(exponent).translate(_SUPERSCRIPT)}"


def clean(value: Any, limit: int | None = None) -> str:
    """Text that XML and UTF-8 can hold and that leaves its neighbours alone, cut to `limit` characters."""
    text = " ".join("".join(" " if _unfit(c) else c for c in str(value)).split())
    return text if limit is None or len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _unfit(character: str) -> bool:
    """Control characters, lone surrogates, non-characters, and marks that turn the writing direction."""
    return (
        unicodedata.category(character) in {"Cc", "Cs"}
        or character in "\ufffe\uffff"
        or "\u202a" <= character <= "\u202e"
        or "\u2066" <= character <= "\u2069"
    )


def engine(backend: Any) -> str:
    """A backend's name as its makers write it."""
    names = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}
    return names.get(str(backend), str(backend))


def shape(subnet: Any) -> str:
    """A subnet in one line: hidden 384 · layer 1: 12x32, 768 · layer 5: 8x32, 512."""
    if not isinstance(subnet, Mapping):
        return NONE
    layers = [f"{x['source']}: {x['heads']}×{x['head_size']}, {feed_forward(x)}" for x in subnet["layers"]]
    return " · ".join([f"hidden {subnet['hidden_size']}", *layers])


def feed_forward(layer: Mapping[str, Any]) -> str:
    """A layer's neurons, and how many cells of them are stacked where it is more than one: 512, 2x512."""
    stack = layer.get("ffn_stack", 1)
    return f"{layer['ffn_size']}" if stack == 1 else f"{stack}×{layer['ffn_size']}"
