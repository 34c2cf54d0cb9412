"""The part of `atb bench` that puts load on a running server."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atb_export.cli.output import emit, table

if TYPE_CHECKING:
    from atb_export.serving.bench import ServerResult
    from atb_export.serving.load import LoadReport

_MOST_TEXTS = 4096
_BUSY = 0.9
_LATE_MS = 0.5


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """The options of the command line, unread."""

    url: str
    protocol: str | None
    model: str | None
    connections: tuple[int, ...] | None
    rates: tuple[float, ...]
    max_ms: float | None
    sweep: bool
    headers: tuple[str, ...]
    programs: Path | None
    texts: Path | None
    seconds: float
    rounds: int
    seed: int
    out: Path | None
    as_json: bool


def measure_server(options: ServerOptions) -> None:
    """Measures and tells."""
    if options.texts is None:
        raise click.UsageError("--server needs --texts FILE, a text per line: real ones, for lengths decide")
    from random import Random

    from atb_export.bench.feeding import read_texts
    from atb_export.serving.bench import ServerPlan, bench_server
    from atb_export.serving.probe import find_endpoint
    from atb_export.serving.programs import native_program
    from runtime.files import write_whole

    headers = dict(_header(x) for x in options.headers)
    texts = read_texts(options.texts, rng=Random(options.seed), most=_MOST_TEXTS)
    program = native_program("atb-load", options.programs)
    endpoint = find_endpoint(options.url, protocol=options.protocol, model=options.model, headers=headers)
    connections = options.connections
    if connections is None:
        connections = () if options.rates else (1, 16, 64)
    plan = ServerPlan(
        connections=connections,
        rates_per_s=options.rates,
        to_the_knee=options.sweep,
        max_ms=options.max_ms,
        seconds=options.seconds,
        rounds=options.rounds,
        seed=options.seed,
    )
    result = bench_server(endpoint, texts, plan, program=program, say=lambda text: click.echo(text, err=True))
    _show(result)
    if options.out is not None:
        write_whole(options.out, (json.dumps(result.to_json(raw=True), indent=1) + "\n").encode())
    emit(result.to_json(), as_json=options.as_json)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or any(c in text for c in "\r\n"):
        raise click.UsageError(f"--header is NAME:VALUE, got {text!r}")
    return name.strip(), value.strip()


def _show(result: ServerResult) -> None:
    endpoint = result.endpoint
    click.echo(
        f"http://{endpoint.host}:{endpoint.port}{endpoint.path}, {endpoint.protocol}, {result.texts} texts"
        f"{f', model {endpoint.model}' if endpoint.model else ''}"
    )
    header = ["requests/s", "p50 ms", "p99", "p99.9", "failed"]
    if result.closed:
        click.echo("\nClosed loop: each connection sends when it was answered")
        table(["connections", *header], [[x.connections, f"{x.per_s:.1f}", *_cells(x)] for x in result.closed])
    if result.open:
        click.echo("\nOpen loop: Poisson arrivals, latency from when a request was due")
        table(["offered/s", *header], [[f"{x.rate_per_s:g}", f"{x.per_s:.1f}", *_cells(x)] for x in result.open])
    if result.sweep is not None:
        click.echo(
            f"\nSweep: a rate is kept where p99 stays within {result.sweep.max_ms:.3g} ms and all but 0.1 % succeed"
        )
        rows = sorted(result.sweep.reports, key=lambda x: x.rate_per_s or 0.0)
        knee = result.sweep.knee
        table(
            ["offered/s", *header, ""],
            [[f"{x.rate_per_s:.5g}", f"{x.per_s:.1f}", *_cells(x), "knee" if x is knee else ""] for x in rows],
        )
        if knee is None:
            click.echo("no rate is kept")
    for x in [*result.closed, *result.open, *(result.sweep.reports if result.sweep else ())]:
        if x.busy > _BUSY:
            click.echo(
                f"the load generator used {x.busy:.0%} of its core: it may be what bounds these numbers", err=True
            )
            break
    late = max((x.late_ms for x in result.open), default=0.0)
    if late > _LATE_MS:
        click.echo(f"the machine is busy: requests left up to {late:.2g} ms late (p99), and that is in them", err=True)


def _cells(report: LoadReport) -> list[object]:
    shown = [f"{x:.3f}" if math.isfinite(x) else "never" for x in (report.p50_ms, report.p99_ms, report.p999_ms)]
    failures = ", ".join(f"{count} {name}" for name, count in report.failures.items())
    return [*shown, failures or "0"]
