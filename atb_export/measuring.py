"""The two questions a search asks, answered for real: accuracy by the supernet, latency by the compiled engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atb_export.errors import VerificationError
from atb_export.onnx.graph import graph_from_supernet
from atb_export.verify import compare, engine_logits, feeds_for, probe_texts, refuse
from runtime.engine import Engine, backend
from runtime.errors import AtbRuntimeError
from runtime.latency import LatencyReport
from runtime.measure import MeasurePlan, measure
from runtime.target import EngineTarget, Shape
from search.errors import CandidateFailed
from supernet.batches import TokenizedTexts
from supernet.distillation import predict
from supernet.metrics import score
from supernet.model import Supernet
from supernet.space import SubnetConfig

# Beside a reference in every window, six windows of 15 ms place an engine within about 2 %.
SEARCH_PLAN = MeasurePlan(windows=6, window_ms=15.0, max_repeats=6)
FINAL_PLAN = MeasurePlan(windows=30, window_ms=25.0, max_repeats=30)
SWEEP_PLAN = MeasurePlan(windows=4, window_ms=15.0, max_repeats=4)


@dataclass(frozen=True, kw_only=True)
class MeasuredLatency:
    """p50 of one inference in milliseconds and its 95 % interval."""

    ms: float
    ci_ms: tuple[float, float]


def normalised(report: LatencyReport, reference_ms: float) -> MeasuredLatency:
    """The latency on a machine as calm as when the reference took `reference_ms`: its ratio to the reference
    beside it, times that. The interval keeps its relative width."""
    ms = report.ratio_to_reference * reference_ms
    low, high = report.ci_ms
    return MeasuredLatency(ms=ms, ci_ms=(ms * low / report.p50_ms, ms * high / report.p50_ms))


def open_engine(net: Supernet, target: EngineTarget, *, subnet: SubnetConfig | None = None, pairs: bool) -> Engine:
    """The compiled engine of a subnet (or of the whole net), from the very graph that would be shipped."""
    return backend(target.backend).open(graph_from_supernet(net, subnet, token_types=pairs).SerializeToString(), target)


class Latency:
    """`latency(subnet)`: build, verify, then measure beside the teacher's engine. Close it when done."""

    def __init__(
        self, net: Supernet, reference: Engine, reference_ms: float, *, texts: TokenizedTexts, plan: MeasurePlan
    ) -> None:
        self.net, self.reference, self.reference_ms, self.plan = net, reference, reference_ms, plan
        self.target = reference.target
        self.pairs = texts.token_type_ids is not None
        self.probes = probe_texts(texts, length=self.target.shape.length, count=8)
        self.longest = [max(range(len(self.probes)), key=lambda i: len(self.probes.input_ids[i]))]

    def __call__(self, subnet: SubnetConfig) -> MeasuredLatency:
        """Raises `CandidateFailed` where the engine cannot be built or computes something else."""
        try:
            engine = open_engine(self.net, self.target, subnet=subnet, pairs=self.pairs)
        except AtbRuntimeError as error:
            raise CandidateFailed(f"does not compile: {error}") from error
        with engine:
            try:
                wanted = self._answer(subnet)
                got = engine_logits(engine, self.probes)
                refuse([compare(subnet.key, self.target.label, got, wanted, precision=engine.effective_precision)])
            except VerificationError as error:
                raise CandidateFailed(f"computes something else: {error}") from error
            reports = measure(
                {"reference": self.reference, "subnet": engine},
                {
                    "reference": feeds_for(self.reference, self.probes, self.longest),
                    "subnet": feeds_for(engine, self.probes, self.longest),
                },
                reference="reference",
                plan=self.plan,
            )
        return normalised(reports["subnet"], self.reference_ms)

    @torch.no_grad()
    def _answer(self, subnet: SubnetConfig) -> NDArray[np.float64]:
        """The supernet's own logits in float32, all probes in one padded batch: exact enough and quick."""
        logits: NDArray[np.float64] = (
            self.net(**self.probes.batch(range(len(self.probes))), subnet=subnet).logits.double().numpy()
        )
        return logits


class Accuracy:
    """`accuracy(subnet)`: the metric of the subnet's inherited weights on the given rows."""

    def __init__(self, net: Supernet, texts: TokenizedTexts, labels: Tensor) -> None:
        self.net, self.texts, self.labels = net, texts, labels

    def __call__(self, subnet: SubnetConfig) -> float:
        """Accuracy, or Pearson's r for a regression."""
        with torch.no_grad():
            return score(predict(self.net, self.texts, subnet=subnet), self.labels)


def measure_together(
    engines: Mapping[str, Engine], texts: TokenizedTexts, *, reference: str, plan: MeasurePlan
) -> dict[str, LatencyReport]:
    """All engines in one interleaved run, on the longest of the texts."""
    longest = [max(range(len(texts)), key=lambda i: len(texts.input_ids[i]))]
    feeds = {name: feeds_for(engine, texts, longest) for name, engine in engines.items()}
    return measure(engines, feeds, reference=reference, plan=plan)


def sweep(
    nets: Mapping[str, Supernet],
    target: EngineTarget,
    texts: TokenizedTexts,
    *,
    reference: str,
    shapes: Sequence[Shape],
    plan: MeasurePlan = SWEEP_PLAN,
) -> list[dict[str, object]]:
    """Latency by batch and length, the models side by side at each shape; rows as in result.json."""
    rows: list[dict[str, object]] = []
    pairs = texts.token_type_ids is not None
    for shape in shapes:
        engines = {name: open_engine(net, replace(target, shape=shape), pairs=pairs) for name, net in nets.items()}
        try:
            fitting = probe_texts(texts, length=shape.length, count=8)
            reports = measure_together(engines, fitting, reference=reference, plan=plan)
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
