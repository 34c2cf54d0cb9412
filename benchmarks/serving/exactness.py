"""Is every answer of the server the engine's, bit for bit, whoever else asks and while models reload?

    .venv/bin/python benchmarks/serving/exactness.py --models models --bin build          10,000 texts, about 3 minutes
    .venv/bin/python benchmarks/serving/exactness.py --models models --bin build --quick  2,000 of them

Real texts, from a word to whole reviews that are cut, one by one and several in a request, over HTTP with JSON and
binary tensors and over gRPC with raw and typed ones, by 1, 16 and 256 clients at once, while another client reloads
the model without pause. The engine's answer is `runtime.classifier.Classifier`'s: Python, one text at a time.
`--seconds` asks on in the last way for that long, and `--program` names another server, such as one with sanitizers.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from asking import HttpClient, Tally, Wanted, ask_by_grpc, ask_by_http, real_texts, requests_of
from common import finish, gathered, options_parser, read_lines, table, target
from servers import Place, Server, free_ports, ours, split_cpus

from runtime.environment import environment
from runtime.manifest import read_bundle

RELOADS = 2  # at least, while each way asks
WAYS = ("http-1", "http-16", "http-256", "grpc-1", "grpc-16")  # with so many clients
OPTIONS = ("--manage", "--deadline-ms", "60000", "--queue", "4096")


def numbered(count: int, seed: int, more: Callable[[], bool]) -> Iterator[tuple[int, list[int]]]:
    """Requests until all texts were asked, and on as long as there shall be `more`."""
    number, first = 0, True
    while first or more():
        for picked in requests_of(count, seed):
            if not (first or more()):
                return
            yield number, picked
            number += 1
        first, seed = False, seed + 1


async def reload(port: int, stop: asyncio.Event, loaded: list[float]) -> list[str]:
    """Loads again and again, and says when it has; what went wrong."""
    client, failed = HttpClient(port, "text"), []
    ask = b"POST /v2/repository/models/text/load HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    while not stop.is_set():
        status, _, body = await client.ask(ask)
        if status == 200:
            loaded.append(time.monotonic())
        else:
            failed.append(body.decode())
    client.close()
    return failed


async def ask_all(
    server: Server, grpc_port: int, wanted: Wanted, way: str, clients: int, seconds: float = 0
) -> dict[str, Any]:
    """One way of asking, until it was asked across two reloads and for that long."""
    tally, stop, begun, loaded = Tally(), asyncio.Event(), time.monotonic(), list[float]()
    reloads = asyncio.create_task(reload(server.endpoint.port, stop, loaded))
    requests = numbered(len(wanted.texts), clients, lambda: len(loaded) < RELOADS or time.monotonic() < begun + seconds)
    if way == "http":
        askers = [ask_by_http(server.endpoint.port, "text", wanted, requests, tally) for _ in range(clients)]
        await asyncio.gather(*askers)
    else:
        import grpc.aio

        async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            await asyncio.gather(*(ask_by_grpc(channel, "text", wanted, requests, tally) for _ in range(clients)))
    stop.set()
    reloaded, failed = len(loaded), await reloads
    took = time.monotonic() - begun
    return {"way": way, "clients": clients, "s": took, "reloads": reloaded, "failed_reloads": failed, **tally.to_json()}


def main() -> int:
    """Exit code 0 where every answer was the engine's."""
    parser = options_parser(__doc__ or "")
    parser.add_argument("--model", default="bert-tiny", help="of the folder of models")
    parser.add_argument("--count", type=int, default=0, help="of texts")
    parser.add_argument("--seconds", type=float, default=0.0, help="longer, in the last way")
    parser.add_argument("--program", type=Path, help="the server")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="without gRPC: the first three")
    options = parser.parse_args()
    with_grpc = any(x.startswith("grpc") for x in options.ways)
    count = options.count or (2000 if options.quick else 10_000)
    texts = read_lines(options.texts)[:count] if options.texts else real_texts(count)
    bundle = options.models / options.model
    wanted = Wanted.of(bundle, [str(x) for x in texts])
    server_cpus, _ = split_cpus(options.server_cpus)
    rows = []
    with tempfile.TemporaryDirectory(prefix="atb-exactness-") as scratch:
        programs = gathered(options.programs, Path(scratch) / "bin")
        place = Place(rivals=None, programs=programs, cpus=server_cpus, threads=1, scratch=Path(scratch))
        (grpc_port,) = free_ports(1)
        more = ("--grpc-port", str(grpc_port)) if with_grpc else ()
        server = ours(bundle, place, options=(*OPTIONS, *more))
        if options.program:
            server = replace(server, command=[str(options.program), *server.command[1:]])
        server.start()
        try:
            for number, name in enumerate(options.ways, 1):
                way, clients = name.split("-")
                seconds = options.seconds if number == len(options.ways) else 0
                rows.append(asyncio.run(ask_all(server, grpc_port, wanted, way, int(clients), seconds)))
                print(".", end="", file=sys.stderr, flush=True)
        finally:
            process = server.process
            server.stop()
        code = process.returncode if process is not None else None
        log = server.log.read_text(errors="replace")
    print(file=sys.stderr)
    asked = ("way", "clients", "answered", "rows", "wrong", "reloads")
    table([*asked, "seconds"], [[*(x[name] for name in asked), x["s"]] for x in rows])
    lost = sum(sum(x["refused"].values()) + sum(x["broken"].values()) for x in rows)
    return finish(
        "serving/exactness",
        [
            target("wrong_answers", float(sum(x["wrong"] for x in rows)), "==", 0),
            target("texts_answered_in_each_way", float(min(x["rows"] for x in rows)), ">=", count),
            target("requests_without_answer", float(lost), "==", 0),
            target("failed_reloads", float(sum(len(x["failed_reloads"]) for x in rows)), "==", 0),
            target("reloads_in_each_way", float(min(x["reloads"] for x in rows)), ">=", RELOADS),
            target("exit_code", float(code) if code is not None else None, "==", 0),
        ],
        quick=options.quick,
        model=options.model,
        engines=[x.target.label for x in read_bundle(bundle).manifest.engines],
        texts=count,
        rows=rows,
        sanitizers="Sanitizer" in log,
        environment=environment(),
    )


if __name__ == "__main__":
    sys.exit(main())
