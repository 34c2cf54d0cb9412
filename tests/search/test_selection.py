"""Who is better than whom, against brute force."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from random import Random
from typing import Any

import pytest

from search.candidate import Candidate
from search.goals import Goals
from search.selection import best_first, constrained_dominates, crowding, dominates, ranks, tournament

ONE = Goals(constraints_ms=(10.0,), focus=0.0)
TWO = Goals(constraints_ms=(10.0, 4.0), focus=0.0)


def test_domination_of_points() -> None:
    assert dominates((1.0, 2.0, 3.0), (1.0, 2.0, 3.5))
    assert not dominates((1.0, 2.0, 3.0), (1.0, 2.0, 3.0))
    assert not dominates((1.0, 2.0, 3.0), (0.9, 9.0, 9.0))
    with pytest.raises(ValueError, match="zip"):
        dominates((1.0,), (1.0, 2.0))


# better, worse: (accuracy, ms...)
DOMINATED: list[tuple[Goals, tuple[Any, ...], tuple[Any, ...]]] = [
    (ONE, (0.9, 5.0), (0.8, 6.0)),
    (ONE, (0.9, 5.0), (0.9, 5.1)),
    (ONE, (0.9, 5.0), (0.8, 5.0)),
    (ONE, (0.1, 10.0), (0.9, 10.1)),  # feasible before infeasible
    (ONE, (0.1, 11.0), (0.9, 12.0)),  # of the infeasible the one that is nearer
    (ONE, (None, 19.0), (None, 20.0)),
    (ONE, (None, 19.0), (0.9, 20.0)),
    (TWO, (0.1, 9.0, 4.0), (0.9, 1.0, 4.1)),  # one limit broken is one too many
    (TWO, (0.5, 11.0, 4.0), (0.9, 10.0, 5.0)),  # a tenth over is less than a quarter over
    (TWO, (0.5, 14.0, 1.0), (0.9, 13.0, 5.0)),  # violations are added up
    (TWO, (0.9, 5.0, 2.0), (0.9, 5.0, 2.1)),
    (Goals(constraints_ms=(10.0, None), focus=0.0), (0.1, 10.0, 99.0), (0.9, 10.1, 1.0)),
    (Goals(constraints_ms=(10.0, None), focus=0.0), (0.9, 5.0, 98.0), (0.9, 5.0, 99.0)),
    (Goals(constraints_ms=(10.0,), focus=0.5), (0.9, 4.9), (0.8, 1.0)),  # faster than half the limit buys nothing
]
INCOMPARABLE: list[tuple[Goals, tuple[Any, ...], tuple[Any, ...]]] = [
    (ONE, (0.9, 6.0), (0.8, 5.0)),
    (ONE, (0.9, 5.0), (0.9, 5.0)),
    (ONE, (0.9, 11.0), (0.1, 11.0)),  # equally far over: accuracy does not count
    (TWO, (0.9, 5.0, 2.0), (0.9, 4.0, 2.1)),
    (TWO, (0.8, 5.0, 2.0), (0.9, 4.0, 2.1)),
    (Goals(constraints_ms=(10.0,), focus=0.5), (0.9, 4.9), (0.9, 1.0)),
    (Goals(constraints_ms=(10.0,), focus=0.5), (0.9, 5.1), (0.8, 1.0)),
]


@pytest.mark.parametrize(("goals", "better", "worse"), DOMINATED)
def test_constrained_domination(at: Any, goals: Goals, better: tuple[Any, ...], worse: tuple[Any, ...]) -> None:
    assert constrained_dominates(at(*better), at(*worse), goals)
    assert not constrained_dominates(at(*worse), at(*better), goals)


@pytest.mark.parametrize(("goals", "one", "other"), INCOMPARABLE)
def test_neither_beats_the_other(at: Any, goals: Goals, one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert not constrained_dominates(at(*one), at(*other), goals)
    assert not constrained_dominates(at(*other), at(*one), goals)


def test_a_stopped_race_stands_between_the_feasible_and_the_infeasible(at: Any) -> None:
    stopped = at(0.99, 1.0, complete=False)
    feasible, infeasible = at(0.1, 10.0), at(0.99, 10.0 + 1e-9)
    assert constrained_dominates(feasible, stopped, ONE)
    assert constrained_dominates(stopped, infeasible, ONE)
    assert not constrained_dominates(stopped, feasible, ONE)
    assert not constrained_dominates(stopped, at(0.5, 2.0, complete=False), ONE)
    over = at(0.99, 11.0, complete=False)  # stopped and too slow is too slow
    assert constrained_dominates(stopped, over, ONE)
    assert constrained_dominates(infeasible, over, ONE)
    assert best_first([infeasible, stopped, feasible], ONE) == [feasible, stopped, infeasible]


def test_bytes_count_where_size_counts(at: Any) -> None:
    small, large = at(0.9, 5.0, model_bytes=1000), at(0.9, 5.0, model_bytes=1001)
    assert not constrained_dominates(small, large, ONE)
    assert constrained_dominates(small, large, Goals(constraints_ms=(10.0,), focus=0.0, small=True))


def some(at: Any, rng: Random, count: int, targets: int) -> list[Candidate]:
    """Coarse numbers, full of ties, on both sides of the limits."""
    return [
        at(
            None if rng.random() < 0.1 else rng.randint(1, 5) / 5,
            *(rng.randint(1, 14) / (1, 2, 3)[i] for i in range(targets)),
            number=i + 1,
            complete=rng.random() < 0.9,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("targets", [1, 2, 3])
def test_it_is_a_strict_partial_order(at: Any, targets: int) -> None:
    goals = Goals(constraints_ms=(10.0, 5.0, None)[:targets], focus=0.5)
    them = some(at, Random(targets), 18, targets)
    beats = {(a.flops, b.flops): constrained_dominates(a, b, goals) for a, b in itertools.product(them, repeat=2)}
    for i, j, k in itertools.product([x.flops for x in them], repeat=3):
        assert not (beats[i, j] and beats[j, i])
        assert not (beats[i, j] and beats[j, k]) or beats[i, k]


@pytest.mark.parametrize("targets", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_ranks_are_those_of_brute_force(at: Any, seed: int, targets: int) -> None:
    """The rank of a candidate is the length of the longest chain of candidates that each beat the next, up to it."""
    goals = Goals(constraints_ms=(10.0, 5.0, None)[:targets], focus=0.3)
    them = some(at, Random(seed), 30, targets)
    depth: dict[int, int] = {}

    def chain(x: Candidate) -> int:
        if x.flops not in depth:
            depth[x.flops] = max((chain(y) + 1 for y in them if constrained_dominates(y, x, goals)), default=0)
        return depth[x.flops]

    ordered = best_first(them, goals)
    assert sorted(ordered, key=them.index) == them
    assert [chain(x) for x in ordered] == sorted(map(chain, them))


def test_ranks_of_plain_points() -> None:
    points = [(3.0, 3.0), (1.0, 2.0), (2.0, 1.0), (2.0, 2.0), (1.0, 2.0)]
    assert ranks([(0.0, x) for x in points]) == [[1, 2, 4], [3], [0]]
    assert ranks([]) == []


@pytest.mark.parametrize("axes", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_crowding_is_that_of_brute_force(seed: int, axes: int) -> None:
    rng = Random(seed)
    points = [tuple(rng.random() for _ in range(axes)) for _ in range(25)]
    expected = []
    for point in points:
        total = 0.0
        for axis in range(axes):
            values = [x[axis] for x in points]
            below = [x for x in values if x < point[axis]]
            above = [x for x in values if x > point[axis]]
            total += (min(above) - max(below)) / (max(values) - min(values)) if below and above else math.inf
        expected.append(total)
    assert crowding(points) == pytest.approx(expected)


def test_crowding_of_points_that_are_alike() -> None:
    assert crowding([(1.0, 2.0)]) == [math.inf]
    assert crowding([(1.0, 2.0)] * 4)[1:3] == [0.0, 0.0]


def test_best_first_prefers_the_ends_and_the_lonely(at: Any) -> None:
    pairs = [(0.1, 1.0), (0.2, 2.0), (0.25, 2.5), (0.3, 3.0), (0.9, 9.0)]
    line = [at(*x, number=i + 1) for i, x in enumerate(pairs)]
    assert best_first(line, ONE) == [line[0], line[4], line[3], line[1], line[2]]
    assert best_first([], ONE) == []


def test_only_the_measured_compete(failed: Candidate, at: Any) -> None:
    with pytest.raises(ValueError, match=r"only measured candidates compete.*no kernel for bf16"):
        best_first([at(0.5, 1.0), failed], ONE)


def test_tournament_prefers_the_better_and_uses_the_rng(at: Any) -> None:
    them = [at(0.5, 1.0, number=i + 1) for i in range(4)]
    rng = Random(3)
    wins = Counter(tournament(them, rng).flops for _ in range(6000))
    assert [round(wins[i] / 1000) for i in (1, 2, 3, 4)] == [3, 2, 1, 0]  # of six pairs
    assert tournament(them[:1], rng) == them[0]
