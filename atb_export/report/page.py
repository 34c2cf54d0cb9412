"""`result.json` to one HTML page that needs nothing beside itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from atb_export.report import axes, charts, digits
from atb_export.report.checked import SCHEMA, checked
from atb_export.report.paired import paired_chart
from atb_export.report.palette import DARK, LIGHT
from atb_export.report.search import search_charts, summary
from atb_export.report.shape import shape_chart
from atb_export.report.sweep import sweep_chart

__all__ = ["SCHEMA", "render", "write_report"]

_SIGNIFICANT = 0.05  # p-values below it are called a difference


def write_report(result: Mapping[str, Any], path: Path) -> None:
    """Writes the page of a `result.json` document (schema 2); the file appears whole or not at all.

    Parts a result does not have (baselines, sweep, ...) leave their section out.
    Raises `ReportError` for another schema or where teacher, winner, task, constraint or target are missing.
    """
    page = render(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(page, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def render(result: Mapping[str, Any]) -> str:
    """The page as text; the same result gives the same bytes."""
    whole = checked(result)
    environment = Environment(
        loader=PackageLoader("atb_export", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("ms", "ms_range", "percent", "score", "difference", "p_value", "count", "size", "whole"):
        environment.filters[name] = getattr(digits, name)
    environment.filters.update(
        duration=digits.duration,
        scientific=digits.scientific,
        shape=digits.shape,
        significant=digits.significant,
        engine=digits.engine,
    )
    pictures = {
        "front": charts.front_chart(whole),
        "shape": shape_chart(whole),
        "sweep": sweep_chart(whole),
        "paired": paired_chart(whole),
    }
    searched = search_charts(whole)
    pictures.update({plot.name: plot.picture() for plot in searched})
    return environment.get_template("page.html.jinja").render(
        r=whole,
        metric=whole["task"]["metric"],
        head=_headline(whole),
        light=LIGHT,
        dark=DARK,
        searched=searched,
        search_summary=summary(whole),
        charts={name: picture and _markup(picture) for name, picture in pictures.items()},
        models=list(reversed(axes.models(whole))),
        role=lambda model: axes.role(whole, model),
        comparisons=_comparisons(whole),
        parity=_parity_counts(whole["parity"]),
        failures=_failures(whole["candidates"]),
        seconds=_seconds(whole["seconds"]),
        environment=_flat(whole["environment"]),
        significant_p=_SIGNIFICANT,
    )


def _markup(picture: axes.Picture) -> Markup:
    # ElementTree wrote both and escaped every text in them.
    return Markup(f'<div class="wide">{picture.wide}</div><div class="narrow">{picture.narrow}</div>')  # noqa: S704


def _headline(result: Mapping[str, Any]) -> dict[str, Any]:
    teacher, winner = result["teacher"], result["winner"]
    limit = digits.number(result["constraint"].get("max_ms"))
    return {
        "kept": _ratio(winner, teacher, "accuracy"),
        "latency": _ratio(winner, teacher, "latency_ms"),
        "faster": _ratio(teacher, winner, "latency_ms"),
        "params": _ratio(winner, teacher, "params"),
        "flops": _ratio(winner, teacher, "flops"),
        "bytes": _ratio(winner, teacher, "bundle_bytes"),
        "met": None if limit is None else winner["latency_ms"] <= limit,
    }


def _ratio(a: Mapping[str, Any], b: Mapping[str, Any], name: str) -> float | None:
    x, y = digits.number(a.get(name)), digits.number(b.get(name))
    return x / y if x is not None and y else None


def _comparisons(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Winner against each baseline: the measured difference, whether it is one, and who dominates whom."""
    winner = result["winner"]
    return [
        {
            "baseline": baseline,
            "paired": _pair(result["paired"], winner, baseline["name"]),
            "faster": _ratio(baseline, winner, "latency_ms"),
            "apart": _apart(winner, baseline),
            "domination": "winner"
            if _dominates(winner, baseline)
            else "baseline"
            if _dominates(baseline, winner)
            else None,
        }
        for baseline in result["baselines"]
    ]


def _pair(paired: Sequence[Mapping[str, Any]], winner: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The paired statistics as winner minus baseline, whichever way round they were written."""
    ours = {"winner", winner["name"]}
    for row in paired:
        sign = 1 if row["a"] in ours and row["b"] == name else -1 if row["b"] in ours and row["a"] == name else 0
        delta, p = digits.number(row.get("difference")), digits.number(row.get("p_value"))
        if sign and delta is not None:
            real = None if p is None else p < _SIGNIFICANT
            return {**row, "difference": sign * delta, "real": real}
    return None


def _apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool | None:
    """Whether the two latency intervals share no value; None where one is unknown."""
    (a_low, a_high), (b_low, b_high) = (
        digits.bounds(a.get("latency_ci_ms")),
        digits.bounds(b.get("latency_ci_ms")),
    )
    if a_low is None or a_high is None or b_low is None or b_high is None:
        return None
    return a_high < b_low or b_high < a_low


def _dominates(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """As accurate or more and as fast or faster, by the numbers printed."""
    better = a["accuracy"] > b["accuracy"] or a["latency_ms"] < b["latency_ms"]
    return bool(better and a["accuracy"] >= b["accuracy"] and a["latency_ms"] <= b["latency_ms"])


def _parity_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    passed = [row.get("passed") for row in rows]
    return {
        "passed": sum(p is True for p in passed),
        "refused": sum(p is False for p in passed),
        "skipped": sum(p is None for p in passed),
    }


def _failures(candidates: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Reason -> shapes, the most frequent reason first."""
    reasons: dict[str, list[str]] = {}
    for candidate in candidates:
        if candidate.get("status") == "failed":
            reason = candidate.get("reason") or "no reason recorded"
            told = f"{digits.shape(candidate['design']['subnet'])} · {', '.join(candidate['design']['precisions'])}"
            reasons.setdefault(reason, []).append(told)
    return sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))


def _seconds(seconds: Mapping[str, Any]) -> dict[str, Any]:
    known = [(stage, value) for stage, s in seconds.items() if (value := digits.number(s)) is not None]
    stages = [(stage, value) for stage, value in known if stage != "total"]
    total = next((value for stage, value in known if stage == "total"), sum(value for _, value in stages))
    longest = max((value for _, value in stages), default=0.0)
    return {
        "stages": [(stage, s, 100 * s / longest if longest else 0) for stage, s in stages],
        "total": total,
    }


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as lines: `packages.torch` -> 2.13.0."""
    lines = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{key}.")
        elif value is None or value == []:
            lines.append((f"{prefix}{key}", digits.NONE))
        elif isinstance(value, bool):
            lines.append((f"{prefix}{key}", "yes" if value else "no"))
        elif key.endswith("_bytes") and digits.number(value) is not None:
            lines.append((f"{prefix}{key.removesuffix('_bytes')}", digits.size(value)))
        elif isinstance(value, list):
            lines.append((f"{prefix}{key}", ", ".join(str(x) for x in value)))
        else:
            lines.append((f"{prefix}{key}", str(value)))
    return lines
