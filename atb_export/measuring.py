"""Engines of nets, measured side by side, and by batch and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from atb_export.graphs import graph_for
from atb_export.verify import feeds_for, probe_texts
from runtime.engine import Engine, backend
from runtime.latency import LatencyReport
from runtime.measure import MeasurePlan, measure
from runtime.target import EngineTarget, Shape
from supernet.batches import TokenizedTexts
from supernet.model import Supernet
from supernet.space import SubnetConfig

FINAL_PLAN = MeasurePlan(windows=30, window_ms=25.0, max_repeats=30)
SWEEP_PLAN = MeasurePlan(windows=4, window_ms=15.0, max_repeats=4)


def open_engine(
    net: Supernet,
    target: EngineTarget,
    *,
    subnet: SubnetConfig | None = None,
    pairs: bool,
    calibration: TokenizedTexts | None = None,
) -> Engine:
    """The compiled engine of a subnet (or of the whole net), from the very graph that would be shipped.

    An int8 engine needs texts to calibrate it: `ExportError` without.
    """
    onnx = graph_for(net, subnet, target, token_types=pairs, calibration=calibration)
    return backend(target.backend).open(onnx, target)


def measure_together(
    engines: Mapping[str, Engine], texts: TokenizedTexts, *, reference: str, plan: MeasurePlan
) -> dict[str, LatencyReport]:
    """All engines in one interleaved run, on the longest of the texts."""
    longest = [max(range(len(texts)), key=lambda i: len(texts.input_ids[i]))]
    feeds = {name: feeds_for(engine, texts, longest) for name, engine in engines.items()}
    return measure(engines, feeds, reference=reference, plan=plan)


def sweep(
    models: Mapping[str, tuple[Supernet, EngineTarget]],
    texts: TokenizedTexts,
    *,
    reference: str,
    shapes: Sequence[Shape],
    plan: MeasurePlan = SWEEP_PLAN,
) -> list[dict[str, object]]:
    """Latency by batch and length, the models side by side at each shape, each in its own target's precision.

    Rows are as in result.json. An int8 target is calibrated on some of the texts, which no latency depends on.
    """
    rows: list[dict[str, object]] = []
    pairs = texts.token_type_ids is not None
    for shape in shapes:
        some = probe_texts(texts, length=shape.length, count=8)
        engines = {
            name: open_engine(net, replace(target, shape=shape), pairs=pairs, calibration=some)
            for name, (net, target) in models.items()
        }
        try:
            reports = measure_together(engines, some, reference=reference, plan=plan)
        finally:
            for engine in engines.values():
                engine.close()
        rows += [
            {
                "model": name,
                "batch": shape.batch,
                "length": shape.length,
                "p50_ms": report.p50_ms,
                "p90_ms": report.p90_ms,
                "p99_ms": report.p99_ms,
                "throughput_per_s": report.throughput_per_s,
            }
            for name, report in reports.items()
        ]
    return rows
