"""Who is better than whom: constrained domination, ranks and crowding of NSGA-II (Deb et al. 2002)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from search.candidate import Candidate
from search.goals import Goals

Point = tuple[float, ...]
"""Objectives, all to be made small."""


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` is nowhere larger and somewhere smaller."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def constrained_dominates(a: Candidate, b: Candidate, goals: Goals) -> bool:
    """Feasible beats infeasible; among infeasible the lesser violation wins; among feasible, domination."""
    return _beats(_standing(a, goals), _standing(b, goals))


_Standing = tuple[float, Point]
_DROPPED = 1e-9  # a candidate whose race was stopped: behind all feasible ones, before all infeasible ones


def _standing(candidate: Candidate, goals: Goals) -> _Standing:
    """(violation, objectives); what is infeasible or was dropped early is its violation only."""
    if not candidate.is_measured:
        raise ValueError(f"only measured candidates compete, got {candidate.design} ({candidate.reason})")
    violation = goals.violation(candidate.ms)
    if violation > 0:
        return violation + 2 * _DROPPED, ()
    if not candidate.is_scored:
        return _DROPPED, ()
    return 0.0, goals.objectives(candidate)


def _beats(a: _Standing, b: _Standing) -> bool:
    if a[0] > 0 or b[0] > 0:
        return a[0] < b[0]
    return dominates(a[1], b[1])


def ranks(standings: Sequence[_Standing]) -> list[list[int]]:
    """Indices, front by front: nobody in a front is beaten by anybody in it or behind it."""
    left, fronts = list(range(len(standings))), []
    while left:
        best = [i for i in left if not any(_beats(standings[j], standings[i]) for j in left)]
        fronts.append(best)
        taken = set(best)
        left = [i for i in left if i not in taken]
    return fronts


def crowding(points: Sequence[Point]) -> list[float]:
    """How far each point's neighbours lie apart, over all axes; infinite at the ends of an axis."""
    distance = [0.0] * len(points)
    for axis in range(len(points[0])):
        values = [point[axis] for point in points]
        order = sorted(range(len(points)), key=values.__getitem__)
        span = values[order[-1]] - values[order[0]]
        distance[order[0]] = distance[order[-1]] = math.inf
        if span > 0:
            for before, here, after in zip(order, order[1:], order[2:], strict=False):
                distance[here] += (values[after] - values[before]) / span
    return distance


def best_first(candidates: Sequence[Candidate], goals: Goals) -> list[Candidate]:
    """Measured candidates ordered by rank, then by crowding (lonely first), then as given."""
    standings = [_standing(x, goals) for x in candidates]
    ordered: list[Candidate] = []
    for members in ranks(standings):
        lonely = crowding([standings[i][1] or (0.0,) for i in members])
        places = sorted(range(len(members)), key=lambda i: (-lonely[i], i))
        ordered.extend(candidates[members[i]] for i in places)
    return ordered


def tournament(ordered: Sequence[Candidate], rng: Random) -> Candidate:
    """Binary tournament: of two drawn at random, the one that stands first in `best_first`'s order."""
    if len(ordered) < 2:
        return ordered[0]
    return ordered[min(rng.sample(range(len(ordered)), 2))]
