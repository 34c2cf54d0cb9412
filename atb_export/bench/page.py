"""A benchmark as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from atb_export.bench.look import engine, ink_of
from atb_export.bench.pictures import conditions, plots
from atb_export.bench.result import BenchResult, Measured
from atb_export.report import digits
from atb_export.report.palette import DARK, LIGHT
from runtime.files import write_whole


def write_page(result: BenchResult, path: Path) -> None:
    """Writes the page; the file appears whole or not at all."""
    write_whole(path, render(result).encode())


def render(result: BenchResult) -> str:
    """The page as text; the same result gives the same bytes."""
    environment = Environment(
        loader=PackageLoader("atb_export", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("ms", "ms_range", "percent", "whole", "significant", "clean"):
        environment.filters[name] = getattr(digits, name)
    environment.filters["engine"] = engine
    drawn = {plot.name: plot for plot in plots(result)}
    pictures = {name: plot.picture() for name, plot in drawn.items()}
    return environment.get_template("bench/page.html.jinja").render(
        r=result,
        head=_headline(result),
        conditions=conditions(result),
        plots=drawn,
        # ElementTree wrote both pictures and escaped every text in them.
        charts={
            name: Markup(f'<div class="wide">{x.wide}</div><div class="narrow">{x.narrow}</div>')  # noqa: S704
            for name, x in pictures.items()
        },
        ink=lambda name: ink_of(result, name),
        late=[digits.clean(name, 40) for name in result.late],
        facts=[(key, digits.clean(value)) for key, value in _flat(result.environment)],
        light=LIGHT,
        dark=DARK,
        reference=digits.clean(result.reference),
    )


def _headline(result: BenchResult) -> dict[str, Any]:
    """The quickest row of each scenario, by that scenario's own number."""
    single = min(result.single_stream, key=lambda x: x.report.p90_ms, default=None)
    offline = max(result.offline, key=lambda x: x.report.samples_per_s, default=None)
    served = [x for x in result.server if x.report is not None and x.kept is not False and not x.report.unanswered]
    highest = max((x for x in served if x.highest), key=lambda x: x.report.rate_per_s if x.report else 0, default=None)
    return {"single": single, "offline": offline, "highest": highest, "title": _title(single, offline, highest, result)}


def _title(single: Any, offline: Any, highest: Any, result: BenchResult) -> str:
    if (versus := _versus(result)) is not None:
        return versus
    if single is not None:
        name = digits.clean(single.who.name, 40)
        return f"{name} answers nine in ten queries within {digits.ms(single.report.p90_ms)}"
    if highest is not None:
        rate = digits.significant(highest.report.rate_per_s)
        return (
            f"{digits.clean(highest.who.name, 40)} keeps {rate} queries per second within {digits.ms(highest.max_ms)}"
        )
    if offline is not None:
        rate = digits.significant(offline.report.samples_per_s)
        return f"{digits.clean(offline.who.name, 40)} answers {rate} samples per second"
    return "How engines answer queries that arrive by chance"


def _versus(result: BenchResult) -> str | None:
    """Who is quickest, and how much quicker than the reference, or than the next if it is the reference itself."""
    ratios: dict[str, list[float]] = {}
    for row in result.single_stream:
        ratios.setdefault(row.who.name, []).append(row.report.ratio_to_reference)
    if len(ratios) < 2 or result.reference not in ratios:
        return None
    means = {name: math.exp(sum(map(math.log, x)) / len(x)) for name, x in ratios.items()}
    best, second, *_ = sorted(means, key=lambda name: means[name])
    other = second if best == result.reference else result.reference
    times = digits.significant(means[other] / means[best], 3)
    told = {x.who.name: x.who for x in result.single_stream}
    over = f" over {len(ratios[best])} shapes" if len(ratios[best]) > 1 else ""
    return f"{_told(told[best], told[other])} is {times} times as fast as {_told(told[other], told[best])}{over}"


def _told(who: Measured, beside: Measured) -> str:
    """The name, with what makes the comparison an unequal one."""
    unequal = [
        *([who.effective_precision] if who.effective_precision != beside.effective_precision else []),
        *([f"from {who.takes}"] if who.takes != beside.takes else []),
    ]
    return digits.clean(who.name, 40) + (f" ({', '.join(unequal)})" if unequal else "")


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as lines: `packages.torch` -> 2.13.0."""
    lines: list[tuple[str, str]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{key}.")
        elif value is None or value == []:
            lines.append((f"{prefix}{key}", digits.NONE))
        elif key.endswith("_bytes"):
            lines.append((f"{prefix}{key.removesuffix('_bytes')}", digits.size(value)))
        elif isinstance(value, list | tuple):
            lines.append((f"{prefix}{key}", ", ".join(str(x) for x in value)))
        else:
            lines.append((f"{prefix}{key}", str(value)))
    return lines
