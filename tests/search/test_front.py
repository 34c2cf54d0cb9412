from __future__ import annotations

from random import Random

import pytest

from search.candidate import Candidate
from search.errors import NothingFits
from search.front import dominates, front, hypervolume, pick
from supernet.space import SubnetConfig


def at(accuracy: float | None, latency_ms: float, number: int = 1) -> Candidate:
    subnet = SubnetConfig.uniform(hidden_size=8, depth=1, heads=1, ffn_size=number)
    return Candidate(subnet=subnet, accuracy=accuracy, latency_ms=latency_ms, flops=number)


FAILED = Candidate(subnet=at(0, 1).subnet, flops=1, status="failed", reason="no")


def test_dominates() -> None:
    assert dominates(at(0.8, 1.0), at(0.7, 1.0))
    assert dominates(at(0.8, 1.0), at(0.8, 1.1))
    assert not dominates(at(0.8, 1.0), at(0.8, 1.0, 2))
    assert not dominates(at(0.8, 1.0), at(0.7, 0.9))
    assert not dominates(at(0.8, 1.0), at(None, 2.0))
    assert not dominates(at(None, 0.1), at(0.8, 1.0))
    assert not dominates(at(0.8, 1.0), FAILED)


@pytest.mark.parametrize("seed", range(30))
def test_front_is_what_brute_force_finds(seed: int) -> None:
    rng = Random(seed)
    coarse = rng.choice((5, 50, 10_000))  # coarse grids are full of ties
    points = [at(rng.randrange(coarse) / coarse, rng.randint(1, coarse), i + 1) for i in range(60)]
    points += [at(None, rng.randint(1, coarse), 100), FAILED]
    found = front(points)
    expected = [x for x in points if x.point and not any(dominates(y, x) for y in points)]
    assert set(found) == set(expected)
    assert len(found) == len(expected)
    assert [x.latency_ms for x in found] == sorted(x.latency_ms or 0 for x in found)
    rng.shuffle(points)
    assert front(points) == found


def test_front_of_nothing() -> None:
    assert front([]) == ()
    assert front([FAILED, at(None, 1.0)]) == ()


def test_hypervolume_of_known_staircases() -> None:
    assert hypervolume([], accuracy=0, latency_ms=10) == 0
    assert hypervolume([at(0.5, 4)], accuracy=0, latency_ms=10) == pytest.approx(3.0)
    stairs = [at(0.5, 4), at(0.75, 6, 2), at(1.0, 8, 3)]
    assert hypervolume(stairs, accuracy=0, latency_ms=10) == pytest.approx(3.0 + 1.0 + 0.5)
    assert hypervolume(stairs, accuracy=0.5, latency_ms=10) == pytest.approx(1.0 + 0.5)
    assert hypervolume([*stairs, at(0.4, 5, 4), FAILED], accuracy=0, latency_ms=10) == pytest.approx(4.5)
    assert hypervolume(stairs, accuracy=0, latency_ms=6) == pytest.approx(1.0)
    assert hypervolume(stairs, accuracy=1.0, latency_ms=10) == 0


@pytest.mark.parametrize("seed", range(5))
def test_hypervolume_is_the_share_of_points_dominated(seed: int) -> None:
    rng = Random(seed)
    points = [at(rng.randint(1, 20), rng.randint(1, 20), i + 1) for i in range(6)]
    cells = sum(
        any((x.accuracy or 0) >= up + 1 and (x.latency_ms or 0) <= right for x in points)
        for up in range(20)
        for right in range(1, 20)
    )
    assert hypervolume(points, accuracy=0, latency_ms=20) == pytest.approx(cells)


def test_hypervolume_wants_a_finite_reference() -> None:
    with pytest.raises(ValueError, match="two finite numbers"):
        hypervolume([at(0.5, 4)], accuracy=0, latency_ms=float("inf"))


def test_pick_is_the_most_accurate_that_fits() -> None:
    points = [at(0.7, 1.0), at(0.8, 2.0, 2), at(0.8, 1.9, 3), at(0.9, 2.1, 4), at(None, 1.5, 5), FAILED]
    assert pick(points, 2.0) == points[2]
    assert pick(points, 2.1) == points[3]
    assert pick(points, 1.0) == points[0]


def test_pick_names_the_fastest_where_nothing_fits() -> None:
    with pytest.raises(NothingFits, match=r"more than 0.5 ms.* fastest measured takes 1.25 ms") as caught:
        pick([at(0.9, 2.0), at(0.7, 1.25, 2)], 0.5)
    assert caught.value.fastest == at(0.7, 1.25, 2)
    with pytest.raises(NothingFits, match="no engine could be measured"):
        pick([FAILED], 0.5)
