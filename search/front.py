"""The front of measured candidates (accuracy up, latency down), its size, and the pick from it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from search.candidate import Candidate
from search.errors import NothingFits


def dominates(a: Candidate, b: Candidate) -> bool:
    """Whether `a` is no worse in accuracy and latency and better in one; False where a number is unknown."""
    if a.point is None or b.point is None:
        return False
    return a.point != b.point and a.point[0] >= b.point[0] and a.point[1] <= b.point[1]


def front(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """The candidates that no other dominates, fastest first; those without both numbers are left out.

    Candidates with equal numbers do not dominate each other: all of them are kept.
    """
    known = [(x.point, x) for x in candidates if x.point is not None]
    known.sort(key=lambda pair: (pair[0][1], -pair[0][0], pair[1].subnet.key))
    kept: list[Candidate] = []
    best: tuple[float, float] | None = None
    for point, candidate in known:
        if best is None or point[0] > best[0] or point == best:
            kept.append(candidate)
            best = point
    return tuple(kept)


def hypervolume(candidates: Iterable[Candidate], *, accuracy: float, latency_ms: float) -> float:
    """The area (accuracy x ms) the candidates dominate, seen from a reference point that is worse than all.

    Points that are not better than the reference in both add nothing.
    """
    if not (math.isfinite(accuracy) and math.isfinite(latency_ms)):
        raise ValueError(f"the reference point is two finite numbers, got {accuracy} and {latency_ms} ms")
    area, reached = 0.0, accuracy
    for candidate in front(candidates):
        if candidate.point is None or candidate.point[1] >= latency_ms:
            continue
        gain = max(0.0, candidate.point[0] - reached)
        area += gain * (latency_ms - candidate.point[1])
        reached += gain
    return area


def pick(candidates: Iterable[Candidate], constraint_ms: float) -> Candidate:
    """The most accurate that takes at most `constraint_ms`; of equals the fastest. Raises `NothingFits`."""
    measured = sorted((x for x in candidates if x.is_measured), key=lambda x: (x.latency_ms or 0, x.subnet.key))
    fitting = [x for x in measured if x.fits(constraint_ms) and x.accuracy is not None]
    if not fitting:
        raise NothingFits(constraint_ms=constraint_ms, fastest=measured[0] if measured else None)
    return max(fitting, key=lambda x: x.accuracy or 0.0)
