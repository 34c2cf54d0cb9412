"""`atb bench`: several models and runtimes side by side."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from atb_export.bench.result import SCENARIOS, BenchResult, Measured, ServerRow
from atb_export.cli.bench_server import ServerOptions, measure_server
from atb_export.cli.output import emit, json_option, table
from atb_export.serving.requests import PROTOCOLS


class Numbers(click.ParamType[Any]):
    """Whole numbers with commas between, such as 1,8."""

    name = "n,n,..."

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Fails for anything else, and for numbers below the least."""
        if isinstance(value, tuple):
            return value
        parts = [x.strip() for x in str(value).split(",")]
        if not all(x.isascii() and x.isdigit() and int(x) >= self.least for x in parts):
            self.fail(f"{value!r} is not a whole number of {self.least} or more, or several with commas between")
        return tuple(dict.fromkeys(int(x) for x in parts))


class Positive(click.ParamType[Any]):
    """A finite number above 0."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Fails for 0, for less, and for what is no number."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (number > 0 and math.isfinite(number)):
            self.fail(f"{value!r} is not a number above 0")
        return number


@click.command("bench")
@click.argument("subjects", nargs=-1, metavar="SUBJECT...")
@click.option("--server", metavar="URL", help="Measure the server at http://HOST:PORT; takes no SUBJECT.")
@click.option("--protocol", type=click.Choice(PROTOCOLS), help="--server: what it speaks. Default: found out.")
@click.option("--model", help="--server: the model's name there. Default: its only one.")
@click.option("--connections", type=Numbers(1), help="--server: closed loops of so many connections. Default: 1,16,64.")
@click.option("--sweep", is_flag=True, help="--server: rates up to the knee; with --max-ms the highest that keeps it.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="--server: such as a bearer token.")
@click.option(
    "--bin",
    "programs",
    envvar="ATB_BIN",
    type=click.Path(path_type=Path, file_okay=False),
    help="--server: the folder of atb-load, where it is not the installed one [env: ATB_BIN].",
)
@click.option("--engine", help="Engine of the bundles that name none: a backend, a label, or all.")
@click.option("--batch", type=Numbers(1), help="Texts at once; several make a sweep. Default: as built, or 1.")
@click.option("--length", type=Numbers(2), help="Tokens per text; several make a sweep. Default: as built, or 64.")
@click.option("--threads", type=Numbers(1), help="Threads of an engine; several make a sweep. Default: as built, or 1.")
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    type=click.Choice(SCENARIOS),
    help="May be repeated. Default: singlestream, or server where a --rate or --max-ms is given.",
)
@click.option("--rate", "rates", multiple=True, type=Positive(), help="Server: queries per second; may be repeated.")
@click.option("--max-ms", type=Positive(), help="Server: find the highest rate whose p99 stays within it.")
@click.option(
    "--texts",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Measure from text to logits, on a file with a text per line (two with a tab between for pairs).",
)
@click.option("--windows", type=click.IntRange(2), default=30, show_default=True, help="SingleStream: windows each.")
@click.option("--seconds", type=Positive(), default=6.0, show_default=True, help="Offline, Server: seconds each.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Offline, Server: rounds each.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the arrivals and of the texts drawn.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Keep the raw samples in this JSON file.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write one page with all of it.")
@click.option("--pictures", type=click.Path(path_type=Path, file_okay=False), help="Write PNG and SVG to this folder.")
@json_option
@click.pass_context
def bench_command(
    ctx: click.Context,
    subjects: tuple[str, ...],
    server: str | None,
    protocol: str | None,
    model: str | None,
    connections: tuple[int, ...] | None,
    sweep: bool,
    headers: tuple[str, ...],
    programs: Path | None,
    engine: str | None,
    batch: tuple[int, ...] | None,
    length: tuple[int, ...] | None,
    threads: tuple[int, ...] | None,
    scenarios: tuple[str, ...],
    rates: tuple[float, ...],
    max_ms: float | None,
    texts: Path | None,
    windows: int,
    seconds: float,
    rounds: int,
    seed: int,
    out: Path | None,
    html: Path | None,
    pictures: Path | None,
    as_json: bool,
) -> None:
    """Measure models and runtimes side by side in one interleaved run; the first SUBJECT is the reference.

    \b
    A SUBJECT, with NAME= before it to call it NAME, is
      BUNDLE[@ENGINE]                  a folder made by atb export; ENGINE: backend, label, or all
      FILE.onnx[@BACKEND[:PRECISION]]  for texts with its tokenizer.json beside it
      torch:FOLDER[@PRECISION]         a classifier of transformers, eager
      torch.compile:FOLDER[@PRECISION] the same, compiled by torch
      pipeline:FOLDER                  transformers' pipeline; starts from text in any case

    The scenarios are those of MLPerf Inference, in short: singlestream sends one query after the other (its number is
    p90), offline has all samples at once (samples per second), server lets queries arrive by a Poisson process, whether
    or not earlier ones are answered, and counts from the intended arrival (p99, and the highest rate within --max-ms);
    up to --batch queries that wait are answered at once. A busy machine shows as a wide interval and as repeated
    windows. Bundles and ONNX files need no torch.

    With --server, real --texts go to a running server over loopback or a network: closed loops of --connections, open
    ones at each --rate, whose latencies begin when a request was due, not when it could be sent, and with --sweep rates
    up to the knee. Failures are counted by status, and a request without a good answer counts as the slowest of all.

    \b
    Example:
      atb bench runs/quickstart/bundle
      atb bench teacher=runs/quickstart/stages/bundle-teacher/bundle runs/quickstart/bundle --threads 2
      atb bench runs/quickstart/bundle torch:runs/picked torch.compile:runs/picked pipeline:runs/picked
      atb bench bundle@openvino bundle/model.onnx@onnxruntime --batch 1,8 --length 16,64,128 --html bench.html
      atb bench bundle --scenario offline --scenario server --rate 200 --max-ms 5 --texts texts.txt
      atb bench --server http://127.0.0.1:8000 --texts texts.txt --connections 1,16 --rate 500 --sweep
    """
    _check_given(ctx, server=server is not None)
    if server is not None:
        measure_server(
            ServerOptions(
                url=server,
                protocol=protocol,
                model=model,
                connections=connections,
                rates=rates,
                max_ms=max_ms,
                sweep=sweep,
                headers=headers,
                programs=programs,
                texts=texts,
                seconds=seconds,
                rounds=rounds,
                seed=seed,
                out=out,
                as_json=as_json,
            )
        )
        return
    if not scenarios:
        scenarios = ("server",) if rates or max_ms else ("singlestream",)
    if "server" in scenarios and not rates and max_ms is None:
        raise click.UsageError("--scenario server needs a --rate, or a --max-ms to find the highest rate for")
    if "server" not in scenarios and (rates or max_ms is not None):
        raise click.UsageError("--rate and --max-ms are of --scenario server: name it too")
    from itertools import product
    from random import Random

    from atb_export.bench.feeding import read_texts
    from atb_export.bench.run import BenchPlan, bench
    from atb_export.bench.subjects import parse_subject
    from atb_export.bench.variants import Cell, variants
    from runtime.files import write_whole

    found = variants([parse_subject(x) for x in subjects], engine=engine)
    plan = BenchPlan(
        scenarios=scenarios,
        cells=tuple(
            Cell(batch=b, length=n, threads=t)
            for b, n, t in product(batch or (None,), length or (None,), threads or (None,))
        ),
        windows=windows,
        seconds=seconds,
        rounds=rounds,
        rates_per_s=rates,
        max_ms=max_ms,
        texts=() if texts is None else tuple(read_texts(texts, rng=Random(seed))),
        seed=seed,
    )
    if html is not None or pictures is not None:
        from atb_export.bench import page as _page  # noqa: F401 - what it lacks is told before, not after minutes
    result = bench(found, plan, say=lambda text: click.echo(text, err=True))
    _show(result)
    if out is not None:
        write_whole(out, (json.dumps(result.to_json(raw=True), indent=1) + "\n").encode())
    if pictures is not None:
        from atb_export.bench.pictures import write_pictures

        for path in write_pictures(result, pictures):
            click.echo(f"wrote {path}", err=True)
    if html is not None:
        from atb_export.bench.page import write_page

        write_page(result, html)
        click.echo(f"wrote {html}", err=True)
    emit(result.to_json(raw=False), as_json=as_json)


_OF_BOTH = {"rates", "max_ms", "texts", "seconds", "rounds", "seed", "out", "as_json", "server"}
_OF_SERVERS = {"protocol", "model", "connections", "sweep", "headers"}


def _check_given(ctx: click.Context, *, server: bool) -> None:
    """Refuses options of the other kind of benchmark, and none of what is measured."""
    own = (_OF_BOTH | _OF_SERVERS | {"programs"}) if server else {x.name for x in ctx.command.params} - _OF_SERVERS
    for x in ctx.command.params:
        given = ctx.get_parameter_source(x.name or "") is ParameterSource.COMMANDLINE
        if given and x.name not in own:
            name = "SUBJECT" if x.name == "subjects" else x.opts[0]
            raise click.UsageError(
                f"{name} is not of --server" if server else f"{name} is of --server URL: name it too"
            )
    if not server and not ctx.params["subjects"]:
        raise click.UsageError("Missing argument 'SUBJECT...': name a bundle, or a server with --server URL.")


def _show(result: BenchResult) -> None:
    cpu = result.environment["cpu"]
    click.echo(f"{cpu['model']}, {cpu['usable']} CPUs")
    packages = result.environment["packages"]
    click.echo(", ".join(f"{name} {version}" for name, version in packages.items()))
    common = ["model", "engine", "precision", "shape", "threads", "from"]
    if result.single_stream:
        click.echo("\nSingleStream: one query after the other; ratio to " + result.reference)
        rows = []
        for x in result.single_stream:
            low, high = x.report.ci_ms
            rows.append(
                [
                    *_who(x.who),
                    f"{x.report.p50_ms:.3f} [{low:.3f}, {high:.3f}]",
                    f"{x.report.p90_ms:.3f}",
                    f"{x.report.p99_ms:.3f}",
                    f"{x.report.throughput_per_s:.0f}",
                    f"{x.report.ratio_to_reference:.3f}",
                    x.report.repeated_windows,
                ]
            )
        table([*common, "p50 ms [95 %]", "p90", "p99", "rows/s", "ratio", "repeats"], rows)
    if result.offline:
        click.echo("\nOffline: all samples at once; times as fast as " + result.reference)
        rows = []
        for y in result.offline:
            slow, fast = y.report.range_per_s
            times = result.times_as_fast(y)
            rows.append(
                [
                    *_who(y.who),
                    f"{y.report.samples_per_s:.1f} [{slow:.1f}, {fast:.1f}]",
                    "" if times is None else f"{times:.2f}",
                ]
            )
        table([*common, "samples/s [rounds]", "times"], rows)
    if result.server:
        click.echo("\nServer: Poisson arrivals, latency from the intended arrival")
        table(
            [*common, "queries/s", "p50 ms", "p90", "p99 [rounds]", "busy", "at once", ""],
            [[*_who(z.who), *_served(z)] for z in result.server],
        )
        if result.late:
            click.echo(
                f"the machine is busy: {', '.join(result.late)} began up to {result.late_ms:.2g} ms late (p99) though "
                "free, and that is in their latencies",
                err=True,
            )
    for skipped in result.skipped:
        click.echo(f"skipped {skipped.name} at {skipped.target}: {skipped.reason}", err=True)


def _who(who: Measured) -> list[object]:
    backend = f"{who.target.backend}-{who.target.device}-{who.target.precision}"
    return [who.name, backend, who.effective_precision, who.shape, who.target.threads, who.takes]


def _served(row: ServerRow) -> list[object]:
    if row.report is None:
        return ["none", "", "", "", "", "", f"no rate keeps p99 within {row.max_ms:g} ms"]
    report = row.report
    low, high = report.p99_range_ms
    verdict = "" if row.max_ms is None else f"{'within' if row.kept else 'over'} {row.max_ms:g} ms"
    if report.unanswered:
        verdict = f"overloaded: {report.unanswered} of {report.queries} unanswered"
    return [
        f"{report.rate_per_s:.4g}{' (highest)' if row.highest else ''}",
        f"{report.p50_ms:.3f}",
        f"{report.p90_ms:.3f}",
        f"{report.p99_ms:.3f} [{low:.3f}, {high:.3f}]",
        f"{report.busy:.0%}",
        f"{report.mean_batch:.2f}",
        verdict,
    ]
