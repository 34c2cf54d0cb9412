"""Three ways to batch, over the offered rate: none, ours (what has queued, without waiting), and a window of 1 ms.

    .venv/bin/python benchmarks/serving/batching.py --models models --bin build --png batching.png    about 5 minutes
    .venv/bin/python benchmarks/serving/batching.py --models models --bin build --quick

Real texts with their real lengths arrive by a Poisson process at rates from a twentieth of what a closed loop of 64
connections gets out of ours to a fifth more than it; latencies begin when a request was due. The same server, models
and arrivals for all three; only `--batches 1` and `--wait-us 1000` differ. Rounds take turns, and who is not measured
is frozen. A rate is kept where 99.9 % are answered and p99 stays within ten times ours at the lowest rate.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import Load, finish, gathered, options_parser, read_lines, table, target
from servers import Place, Server, ours, split_cpus

from atb_export.serving.load import LoadPlan, LoadReport, pooled
from runtime.environment import environment

WAYS: dict[str, tuple[str, ...]] = {
    "no batching": ("--batches", "1"),
    "ours": (),
    "1 ms window": ("--wait-us", "1000"),
}
SHARES = (0.05, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
QUICK_SHARES = (0.05, 0.4, 0.8, 1.0, 1.2)
CONNECTIONS = 256
WORSE = 10.0
LOST = 0.001


def measure(options: Any, shares: Sequence[float]) -> tuple[float, dict[tuple[str, float], LoadReport], dict[str, str]]:
    """The closed loop's rate of ours, and the rounds of every way at every share of it, pooled."""
    server_cpus, load_cpu = split_cpus(options.server_cpus)
    rounds = 2 if options.quick else 5
    seconds = 0.8 if options.quick else 2.0
    found: dict[tuple[str, float], list[LoadReport]] = {}
    with tempfile.TemporaryDirectory(prefix="atb-batching-") as scratch:
        folder = Path(scratch)
        programs = gathered(options.programs, folder / "bin")
        texts = read_lines(options.texts or options.models / "texts.txt")
        load = Load(texts, programs=programs, cpu=load_cpu, scratch=folder)
        place = Place(rivals=None, programs=programs, cpus=server_cpus, threads=1, scratch=folder)
        servers: dict[str, Server] = {}
        try:
            for name, more in WAYS.items():
                servers[name] = ours(options.models / options.model, place, name=name, options=more)
                servers[name].start()
                servers[name].signal(stop_signal())
            with servers["ours"].awake():
                plan = LoadPlan(connections=64, seconds=seconds, warm_up_s=seconds / 4)
                capacity = load.run(servers["ours"], plan).per_s
            for round_ in range(rounds):
                for share in shares:
                    names = list(WAYS)
                    at = round_ % len(names)
                    for name in names[at:] + names[:at]:
                        plan = LoadPlan(
                            connections=CONNECTIONS,
                            rate_per_s=capacity * share,
                            seconds=seconds,
                            warm_up_s=seconds / 4,
                            seed=round_,
                        )
                        with servers[name].awake():
                            found.setdefault((name, share), []).append(load.run(servers[name], plan))
                print(".", end="", file=sys.stderr, flush=True)
        finally:
            for server in servers.values():
                server.stop()
    print(file=sys.stderr)
    return capacity, {key: pooled(x) for key, x in found.items()}, {"servers": server_cpus, "load": load_cpu}


def stop_signal() -> Any:
    """What freezes a process."""
    import signal

    return signal.SIGSTOP


def kept(reports: dict[tuple[str, float], LoadReport], name: str, shares: Sequence[float], bound_ms: float) -> float:
    """The highest rate in a row, from below, that a way kept; 0 where it kept none."""
    best = 0.0
    for share in shares:
        report = reports[name, share]
        if report.failed > LOST * report.meant or not report.p99_ms <= bound_ms:
            break
        best = report.rate_per_s or 0.0
    return best


def picture(path: Path, reports: dict[tuple[str, float], LoadReport], shares: Sequence[float], title: str) -> None:
    """p99 and answered requests over the offered rate."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, colour, marker in zip(WAYS, ("#888888", "#0a7", "#c60"), ("s", "o", "^"), strict=True):
        row = [reports[name, x] for x in shares]
        rates = [x.rate_per_s or 0.0 for x in row]
        left.plot(
            rates,
            [x.p99_ms if math.isfinite(x.p99_ms) else math.nan for x in row],
            color=colour,
            marker=marker,
            ms=4,
            label=name,
        )
        left.plot(rates, [x.p50_ms if math.isfinite(x.p50_ms) else math.nan for x in row], color=colour, lw=0.8, ls=":")
        right.plot(rates, [x.per_s for x in row], color=colour, marker=marker, ms=4, label=name)
    left.set(yscale="log", xlabel="offered requests/s", ylabel="ms: p99, dotted p50")
    right.set(xlabel="offered requests/s", ylabel="answered requests/s", ylim=(0, None))
    left.legend(frameon=False)
    for axes in (left, right):
        axes.grid(lw=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150)


def main() -> int:
    """Exit code 0 where all targets are met."""
    parser = options_parser(__doc__ or "")
    parser.add_argument("--model", default="bert-tiny", help="of the folder of models")
    parser.add_argument("--png", type=Path, help="draw it")
    options = parser.parse_args()
    shares = QUICK_SHARES if options.quick else SHARES
    capacity, reports, cpus = measure(options, shares)
    rows: list[list[object]] = []
    for share in shares:
        cells: list[object] = [f"{capacity * share:.0f}"]
        for name in WAYS:
            report = reports[name, share]
            cells += [f"{report.per_s:.0f}", f"{report.p50_ms:.3f}", f"{report.p99_ms:.3f}"]
        rows.append(cells)
    print(f"\n{options.model}: requests/s, p50 and p99 in ms over the offered rate\n")
    table(
        ["offered/s", *(f"{name}: {x}" if x == "req/s" else x for name in WAYS for x in ("req/s", "p50", "p99"))], rows
    )
    bound = WORSE * reports["ours", shares[0]].p99_ms
    rates = {name: kept(reports, name, shares, bound) for name in WAYS}
    print(f"\nhighest rate with p99 within {bound:.2f} ms: {', '.join(f'{name} {x:.0f}' for name, x in rates.items())}")
    if options.png:
        picture(options.png, reports, shares, f"{options.model}, real lengths, {cpus['servers']} for the server")
    most = {name: max(reports[name, x].per_s for x in shares) for name in WAYS}
    calm = {name: reports[name, shares[0]].p50_ms for name in WAYS}
    return finish(
        "serving/batching",
        [
            target("rate_kept_against_no_batching", _ratio(rates["ours"], rates["no batching"]), ">=", 1.0),
            target("rate_kept_against_1_ms_window", _ratio(rates["ours"], rates["1 ms window"]), ">=", 1.0),
            target("most_answered_against_no_batching", _ratio(most["ours"], most["no batching"]), ">=", 1.0),
            target("calm_p50_against_no_batching", _ratio(calm["ours"], calm["no batching"]), "<=", 1.05),
            target("calm_p50_against_1_ms_window", _ratio(calm["ours"], calm["1 ms window"]), "<=", 1.0),
        ],
        quick=options.quick,
        model=options.model,
        cpus=cpus,
        capacity_per_s=capacity,
        rows=[{"way": name, "share": share, **x.to_json()} for (name, share), x in reports.items()],
        environment=environment(),
    )


def _ratio(a: float, b: float) -> float | None:
    return a / b if b > 0 else None


if __name__ == "__main__":
    sys.exit(main())
