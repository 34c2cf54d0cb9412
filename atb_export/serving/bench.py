"""`atb bench --server`: rounds of load on one server."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from atb_export.serving.load import LoadPlan, LoadReport, pooled, run_load_file
from atb_export.serving.probe import first_answer
from atb_export.serving.requests import Endpoint, packed
from atb_export.serving.sweeps import Sweep, sweep
from runtime.classifier import Text
from runtime.environment import environment


@dataclass(frozen=True, kw_only=True)
class ServerPlan:
    """A closed loop at each of `connections`, an open one at each of `rates_per_s`, and with `to_the_knee` a sweep.

    Open loops may use the most connections given, at least `OPEN_CONNECTIONS`.
    """

    connections: tuple[int, ...] = (1, 16, 64)
    rates_per_s: tuple[float, ...] = ()
    to_the_knee: bool = False
    max_ms: float | None = None
    seconds: float = 6.0
    rounds: int = 3
    timeout_s: float = 10.0
    seed: int = 0
    spin: bool = False


OPEN_CONNECTIONS = 256


@dataclass(frozen=True, kw_only=True)
class ServerResult:
    """What one server did."""

    endpoint: Endpoint
    texts: int
    closed: tuple[LoadReport, ...]
    open: tuple[LoadReport, ...]
    sweep: Sweep | None

    def to_json(self, *, raw: bool = False) -> dict[str, Any]:
        """Plain data."""
        return {
            "server": f"http://{self.endpoint.host}:{self.endpoint.port}",
            "protocol": self.endpoint.protocol,
            "model": self.endpoint.model,
            "texts": self.texts,
            "closed": [x.to_json(raw=raw) for x in self.closed],
            "open": [x.to_json(raw=raw) for x in self.open],
            "sweep": None
            if self.sweep is None
            else {
                "max_ms": self.sweep.max_ms,
                "reports": [x.to_json(raw=raw) for x in self.sweep.reports],
                "knee": None if self.sweep.knee is None else self.sweep.knee.to_json(raw=raw),
            },
            "environment": environment(),
        }


def bench_server(
    endpoint: Endpoint,
    texts: Sequence[Text],
    plan: ServerPlan,
    *,
    program: Path,
    say: Callable[[str], None] = lambda text: None,
) -> ServerResult:
    """Asks once, then measures; rounds of all plans take turns. Raises `ServingError`."""
    say(f"{endpoint.path} answers {json.dumps(first_answer(endpoint, texts[0]))} to the first text")
    order = list(texts)
    Random(plan.seed).shuffle(order)
    each_s = plan.seconds / plan.rounds
    most = max([OPEN_CONNECTIONS, *plan.connections])
    with TemporaryDirectory(prefix="atb-bench-") as folder:
        file = Path(folder) / "requests"
        file.write_bytes(packed([endpoint.request(x) for x in order]))

        def run(connections: int, rate: float | None, draw: int) -> LoadReport:
            one = LoadPlan(
                connections=connections,
                rate_per_s=rate,
                seconds=each_s,
                timeout_s=plan.timeout_s,
                seed=plan.seed + draw,
                spin=plan.spin,
            )
            return run_load_file(program, (endpoint.host, endpoint.port), file, one)

        cells = [*((n, None) for n in plan.connections), *((most, rate) for rate in plan.rates_per_s)]
        rounds: dict[tuple[int, float | None], list[LoadReport]] = {x: [] for x in cells}
        for draw in range(plan.rounds):
            for connections, rate in cells:
                at = "closed loop" if rate is None else f"{rate:g} requests/s"
                say(f"round {draw + 1}: {at}, {connections} connections")
                rounds[connections, rate].append(run(connections, rate, draw))
        found = [pooled(x) for x in rounds.values()]
        swept = None
        if plan.to_the_knee or plan.max_ms is not None:
            closed = [x.per_s for x in found if x.rate_per_s is None]
            capacity = max(closed) if closed else run(max((16, *plan.connections)), None, 0).per_s
            say(f"sweep: a closed loop got {capacity:.0f} requests/s")
            swept = sweep(lambda rate: run(most, rate, 0), capacity_per_s=max(capacity, 1.0), max_ms=plan.max_ms)
    return ServerResult(
        endpoint=endpoint,
        texts=len(texts),
        closed=tuple(x for x in found if x.rate_per_s is None),
        open=tuple(x for x in found if x.rate_per_s is not None),
        sweep=swept,
    )
