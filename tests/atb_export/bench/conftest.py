"""A benchmark's result as it would be, made of arithmetic: nothing is measured to draw a page."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from atb_export.bench.result import BenchResult, Measured, OfflineRow, ServerRow, SingleStreamRow, Skipped
from runtime.latency import LatencyReport
from runtime.scenarios import OfflineReport, ServerReport, pooled, server
from runtime.target import EngineTarget, Shape

NAMES = {"bundle": 0.8, "torch": 3.1, "a <b>name</b> & $x$ that is rather long for a table": 2.2}
ENVIRONMENT = {
    "cpu": {"model": "Test CPU <1>", "usable": 2, "flags": ["avx2", "amx_tile"], "quota": None},
    "gpus": [],
    "memory_bytes": 8_000_000_000,
    "python": "3.11.1",
    "packages": {"numpy": "2.0", "openvino": "2026.4", "torch": "2.13"},
}


class _Clock:
    ns = 0

    def now_ns(self) -> int:
        return self.ns

    def wait_until(self, ns: int) -> None:
        self.ns = ns


def _who(name: str, batch: int, length: int, threads: int) -> Measured:
    backend = "torch" if name == "torch" else "openvino"
    return Measured(
        name=name,
        source=f"/models/{name}",
        target=EngineTarget(backend=backend, shape=Shape(batch=batch, length=length), threads=threads),
        effective_precision="f32",
        takes="tokens",
        lengths=(length,),
    )


def _latency(ms: float, reference: float) -> LatencyReport:
    rng = Random(ms)
    samples = tuple(ms * (1 + rng.random() / 5) for _ in range(40))
    beside = tuple(reference * (1 + rng.random() / 5) for _ in range(40))
    return LatencyReport(
        target="t", effective_precision="f32", shape=Shape(batch=1, length=8), threads=1, samples_ms=samples,
        windows=(10,) * 4, reference="r", reference_samples_ms=beside, reference_windows=(10,) * 4, warmup_runs=5,
        repeated_windows=0, disturbed_windows=0, environment="e",
    )  # fmt: skip


def _served(ms: float, rate: float, batch: int, seed: int) -> ServerReport:
    clock = _Clock()

    def answer(_: Any) -> None:
        clock.ns += round(ms * 1e6)

    return server(
        answer, rate_per_s=rate, queries=200, rng=Random(seed), time=clock, batch=batch, max_ms=30, patience_s=0.2
    )


def make_result(*, cells: tuple[tuple[int, int, int], ...] = ((1, 64, 1),), bisected: bool = True) -> BenchResult:
    single, offline, served = [], [], []
    for batch, length, threads in cells:
        for name, cost in NAMES.items():
            ms = cost * batch**0.8 * length / 64 / threads**0.7
            who = _who(name, batch, length, threads)
            single.append(SingleStreamRow(who=who, report=_latency(ms, ms * NAMES["bundle"] / cost)))
            seconds = tuple(100 * ms / 1000 * x for x in (1.0, 1.02, 1.1))
            offline.append(OfflineRow(who=who, report=OfflineReport(samples=(100 * batch,) * 3, seconds=seconds)))
            at_once = pooled([_served(ms, 200, batch, i) for i in range(3)])
            served.append(ServerRow(who=who, report=at_once, max_ms=4.0))
            if bisected:
                probes = tuple((r, _served(ms, r, batch, 9).p99_ms) for r in (100.0, 400.0, 3000.0))
                found = pooled([_served(ms, 250, batch, i) for i in range(3)]) if name != "torch" else None
                served.append(ServerRow(who=who, report=found, max_ms=4.0, highest=True, probes=probes))
    return BenchResult(
        reference="bundle",
        single_stream=tuple(single),
        offline=tuple(offline),
        server=tuple(served),
        skipped=(Skipped(name="torch", target="torch-CPU", reason="too long <script>"),),
        plan={"windows": 30, "rounds": 3, "seconds": 6.0, "texts": 0, "seed": 0},
        environment=ENVIRONMENT,
    )


@pytest.fixture(scope="session")
def bench_result() -> Callable[..., BenchResult]:
    return make_result
