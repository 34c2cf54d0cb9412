"""Ours against the servers people use: same weights, text in, label out, over loopback, load from another process.

    .venv/bin/python benchmarks/serving/models.py --out models --winner runs/quickstart/bundle
    .venv/bin/python benchmarks/serving/rivals.py --setup rivals
    .venv/bin/python benchmarks/serving/against_servers.py --models models --rivals rivals      about 15 minutes
    .venv/bin/python benchmarks/serving/against_servers.py --models models --rivals rivals --quick   about 4 minutes

Two tables for each model. In the first each peer is set up as its own documentation does it: ONNX Runtime in float32
behind the web frameworks and Triton's Python backend (with its dynamic batcher), torch in Infinity. In the second the
first four hold our very engine: the same OpenVINO, artifact, lengths, precision and threads, one text at a time, so
that only the serving differs. Ours answers in the precision of the bundle, int8 unless models.py was told otherwise,
and the share of texts that each peer labels alike is in the last line. All servers run on the same cores, and are
frozen (SIGSTOP) while another is measured; rounds take turns. Each is asked in its own protocol, ours in TEI's JSON;
"ours, binary" is Open Inference Protocol with binary tensors, as Triton is asked. A figure is the median over the
rounds, in brackets the least and the most of them; ratios are formed within a round. Before anything is timed, all
servers label the same texts, and must agree.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import Load, finish, gathered, labels_of, options_parser, read_lines, spread, table, target
from rivals import NEEDS, versions
from servers import NoServerError, Place, Server, ours, peer, split_cpus

from atb_export.serving.load import LoadPlan, LoadReport
from atb_export.serving.requests import Endpoint
from runtime.environment import environment

CONNECTIONS = (1, 16, 64)
DOCUMENTED = ("asgi", "fastapi", "litserve", "triton", "infinity")
WITH_OURS = ("asgi", "fastapi", "litserve", "triton")
OURS, BINARY = "ours", "ours, binary"
CHECKED = 200
AGREE = {"documented": 0.97, "ours": 1.0}  # the first computes in another precision
WANTED = {"documented": (4.0, 1 / 3), "ours": (2.5, 1 / 2)}


@dataclass
class Run:
    """One model: its servers, and every round of each at each number of connections."""

    model: str
    rounds: dict[tuple[str, int], list[LoadReport]] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=lambda: {"documented": [], "ours": []})
    skipped: dict[str, str] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)

    def ratios(self, of: str, to: str, connections: int, what: str) -> list[float]:
        """`of` / `to`, round by round."""
        pairs = zip(self.rounds[of, connections], self.rounds[to, connections], strict=True)
        return [getattr(a, what) / getattr(b, what) for a, b in pairs]

    def median(self, name: str, connections: int, what: str) -> float:
        """Over the rounds."""
        found = spread([getattr(x, what) for x in self.rounds[name, connections]])["median"]
        return float("nan") if found is None else found


def measure(model: str, options: Any, load: Load, place: Place) -> Run:
    """Starts all, checks what they answer, and lets rounds take turns."""
    run, bundle = Run(model), options.models / model
    with ExitStack() as stack:
        started: dict[str, Server] = {}

        def begin(server: Server) -> None:
            stack.callback(server.stop)
            server.start()
            started[server.name] = server
            print(f"{model}: {server.name} is ready", file=sys.stderr, flush=True)

        begin(ours(bundle, place, name=OURS))
        wanted = labels_of(started[OURS].endpoint, load.texts[:CHECKED])
        for kind, names in (("documented", DOCUMENTED), ("ours", WITH_OURS)):
            for name in names:
                if options.only and name not in options.only:
                    continue
                title = f"{name} + our engine" if kind == "ours" else name
                try:
                    server = peer(name, bundle, kind, place)
                    begin(server)
                except NoServerError as error:
                    run.skipped[title] = str(error)
                    continue
                agreed = agreement(server.endpoint, load, wanted)
                run.agreement[title] = agreed
                if agreed < AGREE[kind]:
                    raise SystemExit(f"{title} labels {agreed:.1%} of the texts as ours does: nothing to compare")
                run.tables[kind].append(title)
                server.signal(signal_stop())
        binary = started[OURS].others[0]
        run.agreement[BINARY] = agreement(binary, load, wanted)
        started[OURS].signal(signal_stop())
        turns: list[tuple[str, Server, Endpoint]] = [(name, x, x.endpoint) for name, x in started.items()]
        turns.insert(1, (BINARY, started[OURS], binary))
        for connections in CONNECTIONS:
            for round_ in range(options.rounds):
                at = round_ % len(turns)
                for name, server, endpoint in turns[at:] + turns[:at]:
                    plan = LoadPlan(connections=connections, seconds=options.seconds, warm_up_s=options.seconds / 4)
                    with server.awake():
                        report = load.run(server, plan, endpoint)
                    run.rounds.setdefault((name, connections), []).append(report)
                print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return run


def signal_stop() -> Any:
    """What freezes a process."""
    import signal

    return signal.SIGSTOP


def agreement(endpoint: Endpoint, load: Load, wanted: Sequence[str]) -> float:
    """The share of texts with the same label."""
    found = labels_of(endpoint, load.texts[: len(wanted)])
    return sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted)


def best_of(run: Run, names: Sequence[str], connections: int, what: str) -> str | None:
    """The peer with the most requests per second, or the least latency."""
    if not names:
        return None
    most = max if what == "per_s" else min
    return most(names, key=lambda x: run.median(x, connections, what))


def targets_of(run: Run, kind: str) -> list[dict[str, Any]]:
    """Held against the best of a table: at 16 connections by throughput, at 1 by latency."""
    names = run.tables[kind]
    times, share = WANTED[kind]
    prefix = f"{run.model}, {'peers as documented' if kind == 'documented' else 'with our engine'}"
    most, quickest = best_of(run, names, 16, "per_s"), best_of(run, names, 1, "p50_ms")
    throughput = spread(run.ratios(OURS, most, 16, "per_s"))["median"] if most else None
    p99 = spread(run.ratios(OURS, most, 16, "p99_ms"))["median"] if most else None
    p50 = spread(run.ratios(OURS, quickest, 1, "p50_ms"))["median"] if quickest else None
    return [
        target(f"{prefix}: requests/s at 16, times {most or 'the best'}", throughput, ">=", times),
        target(f"{prefix}: p99 at 16, of {most or 'the best'}", p99, "<=", 1.0),
        target(f"{prefix}: p50 at 1, of {quickest or 'the best'}", p50, "<=", share),
    ]


def tell(run: Run, kind: str) -> None:
    """One table."""
    title = "peers as their documentation sets them up" if kind == "documented" else "our engine inside all of them"
    print(f"\n{run.model}: {title}\n")
    rows: list[list[object]] = []
    for name in [OURS, BINARY, *run.tables[kind]]:
        cells: list[object] = [name]
        for connections in CONNECTIONS:
            rounds = run.rounds[name, connections]
            per_s = spread([x.per_s for x in rounds])
            cells += [
                f"{per_s['median']:.0f} [{per_s['least']:.0f}, {per_s['most']:.0f}]",
                *(
                    f"{spread([getattr(x, q) for x in rounds])['median'] or float('inf'):.3f}"
                    for q in ("p50_ms", "p99_ms")
                ),
            ]
        rows.append(cells)
    columns = [y for n in CONNECTIONS for y in (f"{n}: requests/s", "p50 ms", "p99")]
    table(["connections", *columns], rows)


def main() -> int:
    """Exit code 0 where all targets are met."""
    parser = options_parser(__doc__ or "")
    parser.add_argument("--rivals", type=Path, help="the folder that rivals.py made")
    parser.add_argument("--only", nargs="+", choices=sorted(NEEDS), help="these peers alone")
    parser.add_argument("--model", nargs="+", dest="names", help="by default bert-tiny and winner")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each run")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.seconds = options.seconds or (0.6 if options.quick else 1.5)
    names = options.names or [x for x in ("bert-tiny", "winner") if (options.models / x / "manifest.json").is_file()]
    if not names:
        parser.error(f"{options.models} has no bundle bert-tiny or winner: models.py writes them")
    server_cpus, load_cpu = split_cpus(options.server_cpus)
    runs: list[Run] = []
    for model in names:
        with tempfile.TemporaryDirectory(prefix="atb-serving-") as scratch:
            folder = Path(scratch)
            programs = gathered(options.programs, folder / "bin")
            texts = read_lines(options.texts or options.models / "texts.txt")
            load = Load(texts, programs=programs, cpu=load_cpu, scratch=folder)
            place = Place(
                rivals=options.rivals,
                programs=programs,
                cpus=server_cpus,
                threads=len(server_cpus.split(",")),
                scratch=folder,
            )
            runs.append(measure(model, options, load, place))
    for run in runs:
        for kind in run.tables:
            tell(run, kind)
        for name, reason in run.skipped.items():
            print(f"{run.model}: {name} takes no part: {reason}")
    wanted = [x for run in runs for kind in run.tables for x in targets_of(run, kind)]
    return finish(
        "serving/against_servers",
        wanted,
        quick=options.quick,
        cpus={"servers": server_cpus, "load": load_cpu},
        rounds=options.rounds,
        seconds=options.seconds,
        models={run.model: _document(run) for run in runs},
        versions={
            name: versions(options.rivals, name)
            for name in NEEDS
            if options.rivals and (options.rivals / f"{name}.txt").is_file()
        },
        environment=environment(),
    )


def _document(run: Run) -> dict[str, Any]:
    rows = {
        f"{name} at {connections}": [x.to_json() for x in rounds] for (name, connections), rounds in run.rounds.items()
    }
    return {"rows": rows, "tables": run.tables, "agreement": run.agreement, "skipped": run.skipped}


if __name__ == "__main__":
    sys.exit(main())
