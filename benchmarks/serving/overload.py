"""Three times what the server can do, for a minute: who is refused hears it at once, and who is accepted is answered.

    .venv/bin/python benchmarks/serving/overload.py --models models --bin build          about 90 s
    .venv/bin/python benchmarks/serving/overload.py --models models --bin build --quick  12 s at three times

Capacity is what a closed loop of 64 connections gets. Then requests are due by a Poisson process at three times that
rate, over more connections than the queue has room for, whether or not earlier ones are answered; latencies begin when
a request was due. Beside them a client holds each of its answers against the engine's, bit for bit.
"""

from __future__ import annotations

import asyncio
import math
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asking import Tally, Wanted, Watch, ask_by_http
from common import Load, finish, options_parser, read_lines, table, target
from common import gathered as gathered_programs
from servers import Place, Server, ours, split_cpus

from atb_export.serving.load import Buckets, LoadPlan, LoadReport
from runtime.environment import environment

TIMES, CONNECTIONS = 3.0, 2048
DEADLINE_MS, REFUSED_MS = 1000, 10.0
CHECKS_PER_S = 20.0


def quantile_ms(buckets: Buckets, q: float) -> float | None:
    """Nearest rank; None where there is nothing."""
    left = math.ceil(q * sum(n for _, n in buckets) - 1e-9)
    for ns, count in buckets:
        left -= count
        if left <= 0:
            return ns / 1e6
    return None


def checked(server: Server, wanted: Wanted, stop: threading.Event, tally: Tally) -> threading.Thread:
    """A thread that asks now and then."""

    def requests() -> Iterator[tuple[int, list[int]]]:
        number = 0
        while not stop.is_set():
            yield number, [number % len(wanted.texts)]
            number += 1

    def run() -> None:
        asyncio.run(ask_by_http(server.endpoint.port, "text", wanted, requests(), tally, 1 / CHECKS_PER_S))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def measure(options: Any, scratch: Path) -> tuple[LoadReport, LoadReport, Tally, Watch, int | None]:
    """The closed loop, the overload, the checks beside it, the server's memory, and how it ended."""
    server_cpus, load_cpu = split_cpus(options.server_cpus)
    programs = gathered_programs(options.programs, scratch / "bin")
    texts = read_lines(options.texts or options.models / "texts.txt")
    wanted = Wanted.of(options.models / options.model, [str(x) for x in texts[:500]])
    load = Load(texts, programs=programs, cpu=load_cpu, scratch=scratch)
    place = Place(rivals=None, programs=programs, cpus=server_cpus, threads=1, scratch=scratch)
    server = ours(options.models / options.model, place, options=("--deadline-ms", str(DEADLINE_MS))).start()
    tally, stop = Tally(), threading.Event()
    try:
        seconds = 2.0 if options.quick else 5.0
        closed = load.run(server, LoadPlan(connections=64, seconds=seconds, warm_up_s=1.0))
        checker = checked(server, wanted, stop, tally)
        plan = LoadPlan(
            connections=options.connections,
            rate_per_s=TIMES * closed.per_s,
            seconds=12.0 if options.quick else options.seconds,
            warm_up_s=2.0,
        )
        with Watch(server) as watch:
            over = load.run(server, plan)
        stop.set()
        checker.join()
        after = load.run(server, LoadPlan(connections=16, seconds=1.0, warm_up_s=0.2))
        assert after.failed == 0
        process = server.process
    finally:
        stop.set()
        server.stop()
    return closed, over, tally, watch, process.returncode if process else None


def main() -> int:
    """Exit code 0 where all targets are met."""
    parser = options_parser(__doc__ or "")
    parser.add_argument("--model", default="bert-tiny", help="of the folder of models")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="atb-overload-") as scratch:
        closed, over, tally, watch, code = measure(options, Path(scratch))
    refused = over.answers.get(429, ())
    others = {str(s): sum(n for _, n in x) for s, x in over.answers.items() if s not in (200, 429)}
    quantiles = (0.5, 0.9, 0.99, 0.999, 1.0)
    rows = [
        [name, sum(n for _, n in x), *(quantile_ms(x, q) or math.nan for q in quantiles)]
        for name, x in (("accepted", over.good), ("refused", refused))
    ]
    print(f"capacity {closed.per_s:.0f}/s; offered {over.rate_per_s:.0f}/s for {over.seconds:.0f} s\n")
    table(["", "requests", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "most ms"], rows)
    print(f"\nother statuses: {others or 'none'}; errors: {over.errors}; beside them: {tally.to_json()}")
    lost = sum(over.errors.values()) + over.unanswered + sum(others.values()) + sum(tally.broken.values())
    return finish(
        "serving/overload",
        [
            target("wrong_answers", float(tally.wrong), "==", 0),
            target("answers_checked", float(tally.answered), ">=", 1),
            target("answered_against_capacity", over.per_s / closed.per_s, ">=", 0.5),
            target("neither_answered_nor_refused", float(lost), "==", 0),
            target("refused_p99_ms", quantile_ms(refused, 0.99), "<=", REFUSED_MS),
            target("accepted_p99_ms", quantile_ms(over.good, 0.99), "<=", DEADLINE_MS),
            target("exit_code", None if code is None else float(code), "==", 0),
        ],
        quick=options.quick,
        model=options.model,
        capacity=closed.to_json(),
        overload=over.to_json(),
        quantiles={row[0]: dict(zip(map(str, quantiles), row[2:], strict=True)) for row in rows},
        checks=tally.to_json(),
        rss_mb=[round(x / 1e6, 2) for x in watch.rss_bytes],
        environment=environment(),
    )


if __name__ == "__main__":
    sys.exit(main())
