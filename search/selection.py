"""Who is better than whom: constrained domination, ranks and crowding of NSGA-II (Deb et al. 2002)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from search.candidate import Candidate

_Point = tuple[float, float]


def constrained_dominates(a: Candidate, b: Candidate, *, constraint_ms: float, focus: float = 0.0) -> bool:
    """Feasible beats infeasible; among infeasible the lower latency wins; among feasible, domination.

    Latencies below `focus` x `constraint_ms` count as equal to it: being faster than that buys nothing, so
    the search spends its engines on the feasible side close to the constraint. Both must be measured.
    """
    floor_ms = focus * constraint_ms
    return _beats(_goals(a, constraint_ms, floor_ms), _goals(b, constraint_ms, floor_ms))


def _goals(candidate: Candidate, constraint_ms: float, floor_ms: float) -> tuple[float, _Point]:
    """(violation in ms, (accuracy, clipped latency)); an infeasible candidate is its violation only."""
    if candidate.latency_ms is None:
        raise ValueError(f"only measured candidates compete, got {candidate.subnet} ({candidate.reason})")
    if candidate.latency_ms > constraint_ms:
        return candidate.latency_ms - constraint_ms, (0.0, 0.0)
    if candidate.accuracy is None:
        raise ValueError(f"a candidate that fits needs an accuracy, {candidate.subnet} has none")
    return 0.0, (candidate.accuracy, max(candidate.latency_ms, floor_ms))


def _beats(a: tuple[float, _Point], b: tuple[float, _Point]) -> bool:
    if a[0] > 0 or b[0] > 0:
        return a[0] < b[0]
    return a[1] != b[1] and a[1][0] >= b[1][0] and a[1][1] <= b[1][1]


def _ranks(goals: Sequence[tuple[float, _Point]]) -> list[list[int]]:
    """Indices, front by front: nobody in a front is beaten by anybody in it or behind it."""
    left, fronts = list(range(len(goals))), []
    while left:
        best = [i for i in left if not any(_beats(goals[j], goals[i]) for j in left)]
        fronts.append(best)
        left = [i for i in left if i not in best]
    return fronts


def _crowding(points: Sequence[_Point]) -> list[float]:
    """How far each point's neighbours lie apart, over both axes; infinite at the ends of an axis."""
    distance = [0.0] * len(points)
    for axis in (0, 1):
        values = [point[axis] for point in points]
        order = sorted(range(len(points)), key=values.__getitem__)
        span = values[order[-1]] - values[order[0]]
        distance[order[0]] = distance[order[-1]] = math.inf
        if span > 0:
            for before, here, after in zip(order, order[1:], order[2:], strict=False):
                distance[here] += (values[after] - values[before]) / span
    return distance


def best_first(candidates: Sequence[Candidate], *, constraint_ms: float, focus: float = 0.0) -> list[Candidate]:
    """Measured candidates ordered by rank, then by crowding (lonely first), then as given."""
    floor_ms = focus * constraint_ms
    goals = [_goals(x, constraint_ms, floor_ms) for x in candidates]
    ordered: list[Candidate] = []
    for members in _ranks(goals):
        crowding = _crowding([goals[i][1] for i in members])
        places = sorted(range(len(members)), key=lambda i: (-crowding[i], i))
        ordered.extend(candidates[members[i]] for i in places)
    return ordered


def tournament(ordered: Sequence[Candidate], rng: Random) -> Candidate:
    """Binary tournament: of two drawn at random, the one that stands first in `best_first`'s order."""
    if len(ordered) < 2:
        return ordered[0]
    return ordered[min(rng.sample(range(len(ordered)), 2))]
