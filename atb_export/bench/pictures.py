"""The charts of a benchmark, on the page and as files that stand alone."""

from __future__ import annotations

import math
from pathlib import Path

from atb_export.bench.lines import bars, lines, per_s
from atb_export.bench.look import FROM, Spread, engine, is_sweep, length
from atb_export.bench.rates import by_rate, points
from atb_export.bench.result import BenchResult, ServerRow
from atb_export.bench.sweeps import sweep
from atb_export.report import digits
from atb_export.report.plot import Plot
from runtime.files import appearing

NAMES = ("latency", "throughput", "server")


def plots(result: BenchResult) -> list[Plot]:
    """One for each scenario that was played."""
    found = []
    if rows := result.single_stream:
        found.append(_latency(result, [Spread.of(x, x.report) for x in rows]))
    if result.offline:
        found.append(_throughput(result))
    if result.server:
        found.append(_server(result))
    return found


def write_pictures(result: BenchResult, folder: Path) -> list[Path]:
    """Writes `NAME.svg` and `NAME.png` of each chart, whole or not at all; those of an earlier result vanish."""
    files = {name: data for plot in plots(result) for name, data in plot.files(conditions(result)).items()}
    with appearing(folder) as aside:
        for name, data in files.items():
            (aside / name).write_bytes(data)
    for name in (f"{stem}.{kind}" for stem in NAMES for kind in ("svg", "png")):
        if name not in files:
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name in files]


def conditions(result: BenchResult) -> str:
    """What the numbers hold for, in one line: what is alike for all rows, the processor, the versions of what ran."""
    who = [x.who for x in result.rows]
    words: list[str] = []
    for told in (
        {f"batch {x.target.shape.batch}" for x in who},
        {length(x) for x in who},
        {digits.whole(x.target.threads) + (" thread" if x.target.threads == 1 else " threads") for x in who},
        {x.effective_precision for x in who},
        {FROM[x.takes] for x in who},
    ):
        words += told if len(told) == 1 else []
    cpu, packages = result.environment["cpu"], result.environment["packages"]
    words.append(f"{cpu['model']}, {cpu['usable']} CPUs")
    words += [f"{engine(x)} {packages[x]}" for x in engines_used(result) if x in packages]
    return " · ".join(digits.clean(x, 80) for x in words)


def engines_used(result: BenchResult) -> list[str]:
    """The packages behind the rows, by their names on the package index."""
    used = dict.fromkeys(x.who.target.backend for x in result.rows)
    packages: list[str] = []
    for name in used:
        if name in ("torch", "torch_compile", "pipeline"):
            packages += ["torch", "transformers"]
        elif name == "tensorrt":
            packages += ["tensorrt", "tensorrt_rtx_cu13"]
        else:
            packages.append(name)
    return list(dict.fromkeys(packages))


def _latency(result: BenchResult, spreads: list[Spread]) -> Plot:
    title = "Latency of one query after the other"
    if is_sweep([x.row for x in spreads]):
        curves = {id(x.row): (x.p50, x.p90, x.told) for x in spreads}
        return Plot(
            name="latency",
            title=title,
            says="Lines are medians; the shade reaches up to the 90th percentile, the number of SingleStream.",
            caption="",
            draw=lambda sheet: sweep(result, [x.row for x in spreads], lambda r: curves[id(r)], "latency in ms", sheet),
        )
    return Plot(
        name="latency",
        title=title,
        says="The large mark is the 90th percentile, the number of SingleStream; the line goes from the median to the "
        "99th percentile.",
        caption="",
        draw=lambda sheet: lines(result, spreads, sheet, large="p90"),
    )


def _throughput(result: BenchResult) -> Plot:
    says = "All samples are there at once. "
    if is_sweep(result.offline):
        return Plot(
            name="throughput",
            title="Throughput with all samples at once",
            says=says + "Lines are the median round's samples per second.",
            caption="",
            draw=lambda sheet: sweep(
                result,
                result.offline,
                lambda r: (r.report.samples_per_s, r.report.samples_per_s, f"{r.who.name}: {per_s(r)}"),
                "samples per second",
                sheet,
            ),
        )
    return Plot(
        name="throughput",
        title="Throughput with all samples at once",
        says=says + "Bars are the median round, the thin line the slowest to the fastest.",
        caption="",
        draw=lambda sheet: bars(result, sheet),
    )


def _server(result: BenchResult) -> Plot:
    rows = result.server
    rates = {rate for x in rows for rate, _ in points(x)}
    limit = next((x.max_ms for x in rows if x.max_ms is not None), None)
    says = "Queries arrive by a Poisson process, whether or not earlier ones are answered; latency counts from the "
    says += "intended arrival. "
    if len(rates) == 1 and not is_sweep(rows):
        rate = f"{next(iter(rates)):.4g}"
        spreads = [Spread.of(x, x.report) for x in rows if x.report is not None]
        return Plot(
            name="server",
            title=f"Latency at {rate} queries per second",
            says=says + "The large mark is the 99th percentile, the line begins at the median.",
            caption="",
            draw=lambda sheet: lines(result, spreads, sheet, large="p99", limit=limit),
        )
    if is_sweep(found := [x for x in rows if x.highest and x.report is not None]):
        return Plot(
            name="server",
            title=f"Highest rate with p99 within {digits.ms(limit)}",
            says=says + "Lines are the highest rates found by bisection and confirmed by a run of their own.",
            caption="",
            draw=lambda sheet: sweep(result, found, _rate, "queries per second", sheet),
        )
    answered = [x for x in rows if x.report is not None and math.isfinite(x.report.p99_ms)]
    if len(rates) == 1 and answered:
        return Plot(
            name="server",
            title=f"Latency at {next(iter(rates)):.4g} queries per second",
            says=says + "Lines are the 99th percentile; it is missing where too many queries stayed unanswered.",
            caption="",
            draw=lambda sheet: sweep(result, answered, _tail, "p99 in ms", sheet),
        )
    return Plot(
        name="server",
        title="99th percentile by arrival rate",
        says=says + "Small marks are probes of a bisection, large ones the rates reported; crosses at the upper edge "
        "are rates that were given up.",
        caption="",
        draw=lambda sheet: by_rate(result, sheet, limit),
    )


def _rate(row: ServerRow) -> tuple[float, float, str]:
    rate = math.nan if row.report is None else row.report.rate_per_s
    return rate, rate, f"{row.who.name}: {rate:.4g} queries per second"


def _tail(row: ServerRow) -> tuple[float, float, str]:
    tail = math.inf if row.report is None else row.report.p99_ms
    return tail, tail, f"{row.who.name}: p99 {digits.ms(tail)}"
