"""A thousand clients that are connected and say nothing: do those that ask notice them?

    .venv/bin/python benchmarks/serving/idle_connections.py --models models --bin build          about 2 minutes
    .venv/bin/python benchmarks/serving/idle_connections.py --models models --bin build --quick

Each of the thousand asked once and was answered, so that it is a keep-alive connection and not a new one. Rounds with
and without them take turns, open loop at half of what the server can do; in the end half of the idle ones ask again.
"""

from __future__ import annotations

import json
import resource
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from common import Load, finish, options_parser, read_lines, table, target
from common import gathered as gathered_programs
from servers import Place, ours, split_cpus

from atb_export.serving.load import LoadPlan, LoadReport, pooled
from runtime.environment import environment

IDLE, CONNECTIONS, SHARE, TIMES = 1000, 16, 0.5, 2.0
BODY = b'{"inputs": "idle text"}'
ASK = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


def answered(connection: socket.socket) -> bool:
    """Whether a request on it gets its 200."""
    connection.sendall(ASK)
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65536)):
            return False
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    size = next(int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length"))
    while len(body) < size:
        body += connection.recv(65536)
    return head.startswith(b"HTTP/1.1 200 ") and "label" in json.loads(body)[0]


@contextmanager
def idle_ones(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Connections that were used and now wait."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 20)) for _ in range(count)]
        if not all(map(answered, found)):
            raise SystemExit("an idle connection was not answered when it asked first")
        yield found


def measure(options: Any, scratch: Path) -> tuple[LoadReport, dict[str, LoadReport], int, int | None]:
    """The closed loop, the active ones alone and beside the idle, and how many idle ones were answered in the end."""
    server_cpus, load_cpu = split_cpus(options.server_cpus)
    programs = gathered_programs(options.programs, scratch / "bin")
    texts = read_lines(options.texts or options.models / "texts.txt")
    load = Load(texts, programs=programs, cpu=load_cpu, scratch=scratch)
    place = Place(rivals=None, programs=programs, cpus=server_cpus, threads=1, scratch=scratch)
    server = ours(options.models / options.model, place, options=("--idle-ms", "600000")).start()
    rounds, seconds = (3, 2.0) if options.quick else (8, 5.0)
    found: dict[str, list[LoadReport]] = {"alone": [], "beside the idle": []}
    back = 0
    try:
        closed = load.run(server, LoadPlan(connections=64, seconds=seconds, warm_up_s=1.0))
        plan = LoadPlan(connections=CONNECTIONS, rate_per_s=SHARE * closed.per_s, seconds=seconds, warm_up_s=0.5)
        for _ in range(rounds):
            found["alone"].append(load.run(server, plan))
            with idle_ones(server.endpoint.port, options.idle) as idle:
                found["beside the idle"].append(load.run(server, plan))
                back = sum(answered(x) for x in idle[::2])
        process = server.process
    finally:
        server.stop()
    return closed, {name: pooled(x) for name, x in found.items()}, back, process.returncode if process else None


def main() -> int:
    """Exit code 0 where all targets are met."""
    parser = options_parser(__doc__ or "")
    parser.add_argument("--model", default="bert-tiny", help="of the folder of models")
    parser.add_argument("--idle", type=int, default=IDLE)
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(options.idle + 500, 4096), most), most))
    with tempfile.TemporaryDirectory(prefix="atb-idle-") as scratch:
        closed, found, back, code = measure(options, Path(scratch))
    print(f"capacity {closed.per_s:.0f}/s; offered {SHARE * closed.per_s:.0f}/s\n")
    rows = [[name, x.meant, x.p50_ms, x.p99_ms, x.p999_ms, x.failed] for name, x in found.items()]
    table(["active ones", "requests", "p50 ms", "p99 ms", "p99.9 ms", "failed"], rows)
    alone, beside = found["alone"], found["beside the idle"]
    return finish(
        "serving/idle_connections",
        [
            target("active_p99_against_alone", beside.p99_ms / alone.p99_ms, "<=", TIMES),
            target("requests_without_answer", float(beside.failed), "==", 0),
            target("idle_ones_answered_again", float(back), "==", float(len(range(0, options.idle, 2)))),
            target("exit_code", None if code is None else float(code), "==", 0),
        ],
        quick=options.quick,
        model=options.model,
        idle=options.idle,
        capacity=closed.to_json(),
        rounds={name: x.to_json() for name, x in found.items()},
        environment=environment(),
    )


if __name__ == "__main__":
    sys.exit(main())
