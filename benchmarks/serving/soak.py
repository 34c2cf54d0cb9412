"""Ten minutes at seven tenths of what the server can do: its memory stays where it is, and everybody is answered.

    .venv/bin/python benchmarks/serving/soak.py --models models --bin build          11 minutes
    .venv/bin/python benchmarks/serving/soak.py --models models --bin build --quick  2 minutes

Open loop, Poisson arrivals, real texts; connections come and go beside those that stay. Memory is compared between the
first and the last tenth of the time, after a first half minute in which pools fill.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path
from statistics import median
from typing import Any

from asking import Tally, Wanted, Watch
from common import Load, finish, options_parser, read_lines, table, target
from common import gathered as gathered_programs
from overload import checked
from servers import Place, ours, split_cpus

from atb_export.serving.load import LoadPlan, LoadReport, pooled
from runtime.environment import environment

SHARE, CONNECTIONS, GROWTH = 0.7, 64, 0.02
PART_S = 30.0  # of one run of the load, after which its connections are opened anew


def measure(options: Any, scratch: Path, seconds: float) -> tuple[LoadReport, LoadReport, Tally, Watch, int | None]:
    """The closed loop, the soak, the checks beside it, what the server held meanwhile, and how it ended."""
    server_cpus, load_cpu = split_cpus(options.server_cpus)
    programs = gathered_programs(options.programs, scratch / "bin")
    texts = read_lines(options.texts or options.models / "texts.txt")
    wanted = Wanted.of(options.models / options.model, [str(x) for x in texts[:500]])
    load = Load(texts, programs=programs, cpu=load_cpu, scratch=scratch)
    place = Place(rivals=None, programs=programs, cpus=server_cpus, threads=1, scratch=scratch)
    server = ours(options.models / options.model, place).start()
    tally, stop = Tally(), threading.Event()
    try:
        closed = load.run(server, LoadPlan(connections=64, seconds=5.0, warm_up_s=1.0))

        def part(draw: int, part_s: float) -> LoadReport:
            rate = SHARE * closed.per_s
            plan = LoadPlan(connections=CONNECTIONS, rate_per_s=rate, seconds=part_s, warm_up_s=0.1, seed=draw)
            return load.run(server, plan)

        checker = checked(server, wanted, stop, tally)
        part(0, 10.0 if options.quick else PART_S)
        with Watch(server) as watch:
            parts = [part(i + 1, min(PART_S, seconds)) for i in range(max(1, round(seconds / PART_S)))]
        stop.set()
        checker.join()
        process = server.process
    finally:
        stop.set()
        server.stop()
    return closed, pooled(parts), tally, watch, process.returncode if process else None


def growth(values: list[int]) -> float:
    """Of the last tenth's median over the first's."""
    part = max(1, len(values) // 10)
    return median(values[-part:]) / median(values[:part]) - 1


def main() -> int:
    """Exit code 0 where all targets are met."""
    parser = options_parser(__doc__ or "")
    parser.add_argument("--model", default="bert-tiny", help="of the folder of models")
    parser.add_argument("--seconds", type=float, help="at that load")
    options = parser.parse_args()
    seconds = options.seconds or (60.0 if options.quick else 600.0)
    with tempfile.TemporaryDirectory(prefix="atb-soak-") as scratch:
        closed, soak, tally, watch, code = measure(options, Path(scratch), seconds)
    held: dict[str, list[float]] = {"RSS, MB": [x / 1e6 for x in watch.rss_bytes]}
    held |= {"descriptors": [*watch.descriptors], "threads": [*watch.threads]}
    print(f"capacity {closed.per_s:.0f}/s; offered {soak.rate_per_s:.0f}/s for {soak.seconds:.0f} s\n")
    rows = [[name, float(x[0]), float(x[-1]), float(min(x)), float(max(x))] for name, x in held.items()]
    table(["", "first", "last", "least", "most"], rows)
    print(f"\np50 {soak.p50_ms:.3f} ms, p99 {soak.p99_ms:.3f} ms, p99.9 {soak.p999_ms:.3f} ms; failed: {soak.failures}")
    return finish(
        "serving/soak",
        [
            target("memory_growth", growth(watch.rss_bytes), "<=", GROWTH),
            target("memory_most_over_first", max(watch.rss_bytes) / watch.rss_bytes[0] - 1, "<=", GROWTH),
            target("requests_without_answer", float(soak.failed + sum(tally.broken.values())), "==", 0),
            target("wrong_answers", float(tally.wrong), "==", 0),
            target("threads_more", float(watch.threads[-1] - watch.threads[0]), "==", 0),
            target("exit_code", None if code is None else float(code), "==", 0),
        ],
        quick=options.quick,
        model=options.model,
        capacity=closed.to_json(),
        soak=soak.to_json(),
        checks=tally.to_json(),
        rss_mb=[round(x / 1e6, 2) for x in watch.rss_bytes],
        descriptors=[min(watch.descriptors), max(watch.descriptors)],
        environment=environment(),
    )


if __name__ == "__main__":
    sys.exit(main())
