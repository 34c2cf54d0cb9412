from __future__ import annotations

import itertools
from collections import Counter
from random import Random

import pytest

from search.candidate import Candidate
from search.selection import best_first, constrained_dominates, tournament
from supernet.space import SubnetConfig


def at(accuracy: float | None, latency_ms: float, number: int = 1) -> Candidate:
    subnet = SubnetConfig.uniform(hidden_size=8, depth=1, heads=1, ffn_size=number)
    return Candidate(subnet=subnet, accuracy=accuracy, latency_ms=latency_ms, flops=number)


def better(a: Candidate, b: Candidate, focus: float = 0.0) -> bool:
    return constrained_dominates(a, b, constraint_ms=10.0, focus=focus)


def test_constrained_domination() -> None:
    assert better(at(0.1, 10.0), at(0.9, 10.1))  # feasible beats infeasible
    assert not better(at(0.9, 10.1), at(0.1, 10.0))
    assert better(at(0.1, 11.0), at(0.9, 12.0))  # among infeasible the faster
    assert better(at(None, 19.0), at(None, 20.0))
    assert better(at(0.9, 5.0), at(0.8, 6.0))
    assert not better(at(0.9, 6.0), at(0.8, 5.0))
    assert not better(at(0.9, 5.0), at(0.9, 5.0, 2))


def test_far_below_the_constraint_faster_buys_nothing() -> None:
    assert better(at(0.9, 4.9), at(0.8, 1.0), focus=0.5)
    assert not better(at(0.9, 5.1), at(0.8, 1.0), focus=0.5)


def test_it_is_a_strict_partial_order() -> None:
    rng = Random(0)
    some = [at(rng.randint(1, 4), rng.randint(1, 14), i + 1) for i in range(14)]
    for a, b, c in itertools.product(some, repeat=3):
        assert not (better(a, b, 0.5) and better(b, a, 0.5))
        assert not (better(a, b, 0.5) and better(b, c, 0.5)) or better(a, c, 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_best_first_puts_nobody_behind_one_it_beats(seed: int) -> None:
    rng = Random(seed)
    some = [at(rng.randint(1, 9) / 10, rng.randint(1, 14), i + 1) for i in range(25)]
    ordered = best_first(some, constraint_ms=10.0, focus=0.3)
    assert sorted(ordered, key=some.index) == some
    for a, b in itertools.combinations(ordered, 2):
        assert not better(b, a, 0.3)


def test_best_first_prefers_the_ends_and_the_lonely() -> None:
    line = [at(0.1, 1), at(0.2, 2, 2), at(0.25, 2.5, 3), at(0.3, 3, 4), at(0.9, 9, 5)]
    ordered = best_first(line, constraint_ms=10.0)
    assert ordered == [line[0], line[4], line[3], line[1], line[2]]


def test_only_the_measured_compete() -> None:
    failed = Candidate(subnet=at(0, 1).subnet, flops=1, status="failed", reason="no")
    with pytest.raises(ValueError, match="only measured"):
        best_first([failed], constraint_ms=10.0)
    with pytest.raises(ValueError, match="needs an accuracy"):
        best_first([at(None, 1.0)], constraint_ms=10.0)


def test_tournament_prefers_the_better_and_uses_the_rng() -> None:
    some = [at(0.5, 1.0, i + 1) for i in range(4)]
    rng = Random(3)
    wins = Counter(tournament(some, rng).flops for _ in range(6000))
    assert [round(wins[i] / 1000) for i in (1, 2, 3, 4)] == [3, 2, 1, 0]  # of six pairs
    assert tournament(some[:1], rng) == some[0]
