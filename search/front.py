"""The front of scored candidates, its size, and the picks from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from search.candidate import Candidate
from search.errors import NothingFits
from search.goals import Goals
from search.selection import dominates


def _point(candidate: Candidate, small: bool) -> tuple[float, ...]:
    size = (float(candidate.model_bytes or 0),) if small else ()
    return (-(candidate.accuracy or 0.0), *candidate.ms, *size)


def front(candidates: Iterable[Candidate], *, small: bool = False) -> tuple[Candidate, ...]:
    """The scored candidates that no other dominates in accuracy and all latencies, fastest on the first target first.

    With `small` the bytes of the model count, too. Candidates with equal numbers do not dominate each other: all of
    them are kept.
    """
    known = sorted((x for x in candidates if x.is_scored), key=lambda x: (x.ms[0], _point(x, small), x.design.key))
    points = [_point(x, small) for x in known]
    return tuple(x for x, mine in zip(known, points, strict=True) if not any(dominates(p, mine) for p in points))


def hypervolume(candidates: Iterable[Candidate], *, accuracy: float, latency_ms: float, target: int = 0) -> float:
    """The area (accuracy x ms on one target) the scored candidates dominate, from a reference point worse than all.

    Points that are not better than the reference in both add nothing.
    """
    if not (math.isfinite(accuracy) and math.isfinite(latency_ms)):
        raise ValueError(f"the reference point is two finite numbers, got {accuracy} and {latency_ms} ms")
    points = sorted((x.ms[target], -(x.accuracy or 0.0)) for x in candidates if x.is_scored)
    return area([(ms, -score) for ms, score in points], accuracy=accuracy, latency_ms=latency_ms)


def area(points: Sequence[tuple[float, float]], *, accuracy: float, latency_ms: float) -> float:
    """`hypervolume` of plain (ms, accuracy) points, sorted by ms."""
    total, reached = 0.0, accuracy
    for ms, score in points:
        if ms < latency_ms and score > reached:
            total += (score - reached) * (latency_ms - ms)
            reached = score
    return total


def most_accurate(candidates: Iterable[Candidate], goals: Goals) -> Candidate:
    """The most accurate that meets every limit; of equals the fastest. Raises `NothingFits`."""
    measured = [x for x in candidates if x.is_measured]
    fitting = [x for x in measured if x.is_scored and goals.fits(x)]
    if not fitting:
        nearest = min(measured, key=lambda x: (goals.violation(x.ms), x.ms, x.design.key), default=None)
        raise NothingFits(constraints_ms=goals.constraints_ms, nearest=nearest)
    return min(fitting, key=lambda x: (-(x.accuracy or 0.0), x.ms, x.design.key))


def fastest(candidates: Iterable[Candidate], *, accuracy: float, target: int = 0) -> Candidate:
    """The fastest on one target of those at least that accurate. Raises `NothingFits`."""
    scored = [x for x in candidates if x.is_scored]
    fitting = [x for x in scored if (x.accuracy or 0.0) >= accuracy]
    if not fitting:
        best = max(scored, key=lambda x: x.accuracy or 0.0, default=None)
        raise NothingFits(constraints_ms=(), nearest=best, accuracy=accuracy)
    return min(fitting, key=lambda x: (x.ms[target], -(x.accuracy or 0.0), x.design.key))


def knee(candidates: Iterable[Candidate], *, target: int = 0) -> Candidate:
    """Where the front bends: furthest above the chord of its ends, both axes scaled to 0..1 (Das 1999).

    Raises `NothingFits` where nothing was scored.
    """
    scored = sorted((x for x in candidates if x.is_scored), key=lambda x: (x.ms[target], -(x.accuracy or 0.0)))
    edge: list[Candidate] = []
    for x in scored:
        if not edge or (x.accuracy or 0.0) > (edge[-1].accuracy or 0.0):
            edge.append(x)
    if not edge:
        raise NothingFits(constraints_ms=(), nearest=None)
    low, high = edge[0], edge[-1]
    width, height = high.ms[target] - low.ms[target], (high.accuracy or 0.0) - (low.accuracy or 0.0)
    if width <= 0 or height <= 0:
        return low

    def above(x: Candidate) -> float:
        return ((x.accuracy or 0.0) - (low.accuracy or 0.0)) / height - (x.ms[target] - low.ms[target]) / width

    return max(edge, key=above)
