"""What a benchmark found: raw samples with their conditions; every derived number is a property."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from runtime.latency import LatencyReport
from runtime.scenarios import OfflineReport, ServerReport
from runtime.target import EngineTarget

Scenario = Literal["singlestream", "offline", "server"]
SCENARIOS: tuple[str, ...] = get_args(Scenario)
SCHEMA = 1
TITLES: Mapping[str, str] = {"singlestream": "SingleStream", "offline": "Offline", "server": "Server"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What all rows tell: who was timed, as what, and whether the time covers its tokenizer (`takes` "text").

    `lengths` are those of its buckets; nothing where texts are taken as long as they are.
    """

    name: str
    source: str
    target: EngineTarget
    effective_precision: str
    takes: Literal["tokens", "text"]
    lengths: tuple[int, ...]

    @property
    def shape(self) -> str:
        """Such as "1x64", or "1x16/32/64" for buckets, or "8x<=128" where each text is as long as it is."""
        batch, length = self.target.shape.dims
        if not self.lengths:
            return f"{batch}x<={length}"
        return f"{batch}x{'/'.join(map(str, self.lengths))}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name,
            "source": self.source,
            "target": self.target.label,
            "backend": self.target.backend,
            "effective_precision": self.effective_precision,
            "batch": self.target.shape.batch,
            "length": self.target.shape.length,
            "lengths": list(self.lengths),
            "threads": self.target.threads,
            "takes": self.takes,
        }


@dataclass(frozen=True, kw_only=True)
class SingleStreamRow:
    """Latency of one query after the other."""

    who: Measured
    report: LatencyReport


@dataclass(frozen=True, kw_only=True)
class OfflineRow:
    """Throughput with all samples there at once."""

    who: Measured
    report: OfflineReport


@dataclass(frozen=True, kw_only=True)
class ServerRow:
    """Latency under a Poisson process.

    `highest` says that the rate was searched for: the highest whose p99 keeps `max_ms`; `report` is then that of its
    confirmation, or None where no rate kept it. `probes` are (rate per second, p99 in ms) of the search, in time order.
    """

    who: Measured
    report: ServerReport | None
    max_ms: float | None = None
    highest: bool = False
    probes: tuple[tuple[float, float], ...] = ()

    @property
    def kept(self) -> bool | None:
        """Whether p99 is within `max_ms`; None where there is no bound."""
        if self.max_ms is None:
            return None
        return self.report is not None and self.report.p99_ms <= self.max_ms

    @property
    def is_late(self) -> bool:
        """Whether the load generator adds more than a tenth to the median."""
        return self.report is not None and self.report.late_ms > 0.1 * self.report.p50_ms


Row = SingleStreamRow | OfflineRow | ServerRow


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A line that is missing in some cells of a sweep, and why."""

    name: str
    target: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """One interleaved run; `reference` is the name of the variant that ratios refer to.

    `plan` is plain data: what was asked for; `environment` is that of `runtime.environment`.
    """

    reference: str
    single_stream: tuple[SingleStreamRow, ...] = ()
    offline: tuple[OfflineRow, ...] = ()
    server: tuple[ServerRow, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All of them, by scenario."""
        return (*self.single_stream, *self.offline, *self.server)

    @property
    def names(self) -> list[str]:
        """Of the variants, in the order they were given in."""
        return list(dict.fromkeys(row.who.name for row in self.rows))

    @property
    def late(self) -> list[str]:
        """Whose load generator was late by more than a tenth of the median: on a busy machine."""
        return list(dict.fromkeys(x.who.name for x in self.server if x.is_late))

    @property
    def late_ms(self) -> float:
        """The most that one of them was late."""
        return max((x.report.late_ms for x in self.server if x.report is not None and x.is_late), default=0.0)

    def times_as_fast(self, row: OfflineRow) -> float | None:
        """Its samples per second over the reference's in the same cell; None where the reference has none there."""
        cell = _cell(row)
        beside = next((x for x in self.offline if x.who.name == self.reference and _cell(x) == cell), None)
        return None if beside is None else row.report.samples_per_s / beside.report.samples_per_s

    def to_json(self, *, raw: bool) -> dict[str, Any]:
        """Plain data with the derived numbers that the tables show; `raw` adds every sample."""
        rows = [
            *({**_head("singlestream", x), **_latency(x.report, raw)} for x in self.single_stream),
            *(
                {**_head("offline", x), **_throughput(x.report, raw), "ratio_to_reference": self.times_as_fast(x)}
                for x in self.offline
            ),
            *({**_head("server", x), **_served(x, raw)} for x in self.server),
        ]
        return {
            "schema": SCHEMA,
            "reference": self.reference,
            "plan": dict(self.plan),
            "rows": rows,
            "skipped": [{"name": x.name, "target": x.target, "reason": x.reason} for x in self.skipped],
            "environment": dict(self.environment),
        }


def cells(rows: Sequence[Row]) -> list[tuple[int, int, int]]:
    """The different (batch, length, threads) of the rows, sorted."""
    return sorted({_cell(x) for x in rows})


def _cell(row: Row) -> tuple[int, int, int]:
    target = row.who.target
    return target.shape.batch, target.shape.length, target.threads


def _head(scenario: str, row: Row) -> dict[str, Any]:
    return {"scenario": scenario, **row.who.to_json()}


def _latency(report: LatencyReport, raw: bool) -> dict[str, Any]:
    return {
        "p50_ms": report.p50_ms,
        "p90_ms": report.p90_ms,
        "p99_ms": report.p99_ms,
        "ci_ms": list(report.ci_ms),
        "throughput_per_s": report.throughput_per_s,
        "ratio_to_reference": report.ratio_to_reference,
        "ratio_ci": list(report.ratio_ci),
        "repeated_windows": report.repeated_windows,
        **({"report": report.to_json()} if raw else {}),
    }


def _throughput(report: OfflineReport, raw: bool) -> dict[str, Any]:
    return {
        "samples_per_s": report.samples_per_s,
        "range_per_s": list(report.range_per_s),
        **({"report": report.to_json()} if raw else {}),
    }


def _served(row: ServerRow, raw: bool) -> dict[str, Any]:
    report = row.report
    told: dict[str, Any] = {
        "max_ms": row.max_ms,
        "kept": row.kept,
        "highest": row.highest,
        "probes": [[rate, _finite(ms)] for rate, ms in row.probes],
        "rate_per_s": None,
    }
    if report is None:
        return told
    told |= {
        "rate_per_s": report.rate_per_s,
        "p50_ms": _finite(report.p50_ms),
        "p90_ms": _finite(report.p90_ms),
        "p99_ms": _finite(report.p99_ms),
        "p99_range_ms": [_finite(x) for x in report.p99_range_ms],
        "queries": report.queries,
        "unanswered": report.unanswered,
        "busy": report.busy,
        "mean_batch": report.mean_batch,
        "late_ms": report.late_ms,
    }
    return {**told, "report": report.to_json()} if raw else told


def _finite(value: float) -> float | None:
    """JSON knows no infinity: what was never answered has no latency."""
    return value if math.isfinite(value) else None
