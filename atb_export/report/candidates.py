"""The candidates of a search as one of its targets sees them, read from `result.json` and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atb_export.report import digits
from atb_export.report.errors import ReportError


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a search measured on: its place among the targets, its name, the most it may take."""

    index: int
    label: str
    limit_ms: float | None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A candidate whose engine was measured: its latency on one target, and what is known beside it.

    `is_scored`: its accuracy is of all search-dev rows; one whose race was stopped early has that of its first rows.
    """

    subnet: Mapping[str, Any]
    precision: str
    ms: float
    ci_ms: tuple[float, float] | None
    accuracy: float | None
    is_scored: bool
    flops: float | None
    predicted_ms: float | None
    generation: int
    on_front: bool

    def told(self, metric: str) -> str:
        """In one line, for who points at it."""
        words = [digits.shape(self.subnet), self.precision, digits.score(self.accuracy, metric), digits.ms(self.ms)]
        return f"{words[0]} · {words[1]}: {words[2]}, {words[3]}, generation {self.generation}"


def targets(result: Mapping[str, Any]) -> list[Target]:
    """The targets of the search; the one of the result itself where the result does not speak of its search."""
    searched = result.get("search") or {}
    limit = digits.number(result["constraint"].get("max_ms"))
    labels = searched.get("targets") or [result["target"].get("backend") or "target"]
    limits = searched.get("constraints_ms") or [limit]
    return [
        Target(index=i, label=str(label), limit_ms=digits.number(at))
        for i, (label, at) in enumerate(zip(labels, limits, strict=True))
    ]


def measured(result: Mapping[str, Any], target: int = 0) -> list[Seen]:
    """The candidates with a latency, in the order of the search; `target` counts from 0, the main one."""
    return [_seen(c, target) for c in result["candidates"] if c["status"] == "measured"]


def scored(result: Mapping[str, Any], target: int = 0) -> list[Seen]:
    """The candidates with a latency and an accuracy of all rows."""
    return [c for c in measured(result, target) if c.is_scored]


def staircase(candidates: Sequence[Seen]) -> list[tuple[float, float]]:
    """(ms, accuracy) of the scored candidates that no other beats in both, fastest first."""
    steps: list[tuple[float, float]] = []
    for ms, accuracy in sorted(((c.ms, c.accuracy or 0.0) for c in candidates if c.is_scored), key=_faster_better):
        if not steps or accuracy > steps[-1][1]:
            steps.append((ms, accuracy))
    return steps


def _faster_better(point: tuple[float, float]) -> tuple[float, float]:
    return point[0], -point[1]


def _seen(candidate: Mapping[str, Any], target: int) -> Seen:
    timing = candidate["latencies"][target]
    low, high = digits.bounds(timing.get("ci_ms"))
    accuracy = digits.number(candidate.get("accuracy"))
    predicted = candidate.get("predicted_ms")
    return Seen(
        subnet=candidate["design"]["subnet"],
        precision=candidate["design"]["precisions"][target],
        ms=float(timing["ms"]),
        ci_ms=None if low is None or high is None else (low, high),
        accuracy=accuracy,
        is_scored=accuracy is not None and candidate.get("complete", True),
        flops=digits.number(candidate.get("flops")),
        predicted_ms=None if predicted is None else digits.number(predicted[target]),
        generation=candidate.get("generation", 0),
        on_front=bool(candidate.get("front")),
    )


def check(result: Mapping[str, Any]) -> None:
    """Raises `ReportError` where the search or one of its candidates is not what the charts read."""
    searched = result.get("search") or {}
    labels, limits = searched.get("targets"), searched.get("constraints_ms")
    if labels is not None and (not labels or (limits is not None and len(limits) != len(labels))):
        raise ReportError(f"a search has one constraint for each of its targets, got {limits!r} for {labels!r}")
    if labels is None and limits is not None and len(limits) != 1:
        raise ReportError(f"a search that names no targets has one constraint, got {limits!r}")
    if limits is None and labels is not None and len(labels) != 1:
        raise ReportError(f"a search on {len(labels)} targets says constraints_ms, one for each (null for none)")
    for i, candidate in enumerate(result["candidates"]):
        try:
            _check(candidate, count=len(labels or [1]))
        except (KeyError, TypeError, AttributeError) as problem:
            raise ReportError(f"candidate {i} lacks a part or has one of another kind: {problem!r}") from problem
        except ReportError as problem:
            raise ReportError(f"candidate {i}: {problem}") from problem


def _check(candidate: Mapping[str, Any], *, count: int) -> None:
    design, status = candidate["design"], candidate["status"]
    if status not in {"measured", "failed", "spared"}:
        raise ReportError(f"a candidate is measured, failed or spared, got {status!r}")
    if not isinstance(design["subnet"], Mapping) or len(design["precisions"]) != count:
        raise ReportError(f"a design has a subnet and a precision for each of {count} targets, got {design!r:.200}")
    if status != "measured":
        return
    times = [digits.number(timing["ms"]) for timing in candidate["latencies"]]
    if len(times) != count or not all(ms is not None and ms > 0 for ms in times):
        raise ReportError(f"a measured candidate has a latency above 0 ms on each of {count} targets, got {times}")
    predicted = candidate.get("predicted_ms")
    if predicted is not None and len(predicted) != count:
        raise ReportError(f"predicted_ms has a number for each of {count} targets, got {predicted!r:.200}")
    generation = candidate.get("generation", 0)
    if type(generation) is not int or generation < 0:
        raise ReportError(f"generation counts from 0, got {generation!r}")
