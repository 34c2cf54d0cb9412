"""The front, its size and the picks from it, against brute force."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from search.candidate import Candidate, Timing
from search.design import Design
from search.errors import NothingFits
from search.front import area, fastest, front, hypervolume, knee, most_accurate
from search.goals import Goals
from search.selection import dominates
from supernet.space import SubnetConfig


def point(x: Candidate) -> tuple[float, ...]:
    return (-(x.accuracy or 0.0), *x.ms)


@pytest.mark.parametrize("targets", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_front_is_what_brute_force_finds(at: Any, failed: Candidate, seed: int, targets: int) -> None:
    rng = Random(seed)
    coarse = rng.choice((5, 50, 10_000))  # coarse grids are full of ties
    points = [
        at(rng.randrange(coarse) / coarse, *(float(rng.randint(1, coarse)) for _ in range(targets)), number=i + 1)
        for i in range(60)
    ]
    stopped = at(1.0, *[0.5] * targets, number=98, complete=False)
    everything = [*points, at(None, *[0.1] * targets, number=99), stopped, failed]
    found = front(everything)
    expected = [x for x in points if not any(dominates(point(y), point(x)) for y in points)]
    assert sorted(found, key=points.index) == expected
    assert [x.ms[0] for x in found] == sorted(x.ms[0] for x in found)
    rng.shuffle(everything)
    assert front(everything) == found


def test_on_one_target_the_front_climbs(at: Any) -> None:
    rng = Random(0)
    found = front(at(rng.random(), rng.random() + 0.1, number=i + 1) for i in range(80))
    assert [x.accuracy for x in found] == sorted(x.accuracy for x in found if x.accuracy is not None)


def test_front_of_nothing(at: Any, failed: Candidate) -> None:
    assert front([]) == ()
    assert front([failed, at(None, 1.0), at(0.9, 1.0, complete=False)]) == ()


# --- hypervolume ------------------------------------------------------------------------------------------------------


def test_hypervolume_of_known_staircases(at: Any, failed: Candidate) -> None:
    assert hypervolume([], accuracy=0, latency_ms=10) == 0
    assert hypervolume([at(0.5, 4.0)], accuracy=0, latency_ms=10) == pytest.approx(3.0)
    stairs = [at(0.5, 4.0), at(0.75, 6.0, number=2), at(1.0, 8.0, number=3)]
    assert hypervolume(stairs, accuracy=0, latency_ms=10) == pytest.approx(3.0 + 1.0 + 0.5)
    assert hypervolume(stairs, accuracy=0.5, latency_ms=10) == pytest.approx(1.0 + 0.5)
    noise = [at(0.4, 5.0, number=4), failed, at(0.9, 1.0, complete=False), at(None, 1.0)]
    assert hypervolume([*stairs, *noise], accuracy=0, latency_ms=10) == pytest.approx(4.5)
    assert hypervolume(stairs, accuracy=0, latency_ms=6) == pytest.approx(1.0)
    assert hypervolume(stairs, accuracy=1.0, latency_ms=10) == 0


@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_hypervolume_counts_the_cells_that_are_dominated(at: Any, seed: int, target: int) -> None:
    rng = Random(seed)
    points = [at(*(float(rng.randint(1, 20)) for _ in range(3)), number=i + 1) for i in range(6)]
    cells = sum(
        any((x.accuracy or 0) >= up + 1 and x.ms[target] <= right for x in points)
        for up in range(20)
        for right in range(1, 20)
    )
    assert hypervolume(points, accuracy=0, latency_ms=20, target=target) == pytest.approx(cells)
    assert hypervolume(front(points), accuracy=0, latency_ms=20, target=target) == pytest.approx(cells)
    rng.shuffle(points)
    assert hypervolume(points, accuracy=0, latency_ms=20, target=target) == pytest.approx(cells)


def test_hypervolume_is_the_share_of_random_points_dominated(at: Any) -> None:
    rng = Random(7)
    points = [at(rng.random(), rng.uniform(0.1, 1.2), number=i + 1) for i in range(12)]
    tries = [(rng.random(), rng.random()) for _ in range(20_000)]
    share = sum(any((x.accuracy or 0) >= a and x.ms[0] <= ms for x in points) for a, ms in tries) / len(tries)
    assert hypervolume(points, accuracy=0, latency_ms=1) == pytest.approx(share, abs=0.015)


def test_area_of_plain_points_needs_no_front() -> None:
    points = [(1.0, 0.5), (1.0, 0.6), (2.0, 0.4), (3.0, 0.6), (4.0, 0.9)]
    assert area(points, accuracy=0.0, latency_ms=5.0) == pytest.approx(0.6 * 4 + 0.3 * 1)
    assert area([], accuracy=0.0, latency_ms=5.0) == 0


@pytest.mark.parametrize("reference", [(0.0, float("inf")), (float("nan"), 1.0)])
def test_hypervolume_wants_a_finite_reference(at: Any, reference: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two finite numbers"):
        hypervolume([at(0.5, 4.0)], accuracy=reference[0], latency_ms=reference[1])


# --- picks ------------------------------------------------------------------------------------------------------------


def test_the_most_accurate_meets_every_limit(at: Any, failed: Candidate) -> None:
    points = [
        at(0.7, 1.0, 9.0),
        at(0.8, 2.0, 5.0, number=2),
        at(0.8, 1.9, 5.0, number=3),
        at(0.9, 2.1, 5.0, number=4),
        at(0.95, 1.0, 5.1, number=5),
        at(None, 1.5, 1.0, number=6),
        at(0.99, 1.0, 1.0, number=7, complete=False),
    ]

    def best(*limits: float | None) -> Candidate:
        return most_accurate(iter([*points, failed]), Goals(constraints_ms=limits))

    assert best(2.0, 5.0) == points[2]  # of the equally accurate the faster
    assert best(2.1, 5.0) == points[3]
    assert best(2.1, None) == points[4]
    assert best(1.0, None) == points[4]
    assert best(1.0, 9.0) == points[4]
    assert best(None, None) == points[4]
    assert best(0.99 + 0.01, 5.05 + 0.05) == points[4]


def test_where_nothing_fits_the_nearest_is_named(at: Any, failed: Candidate) -> None:
    near, far = at(0.9, 1.25, 0.5), at(0.7, 1.0, 0.9, number=2)
    with pytest.raises(NothingFits, match=r"the limits of 1 ms, 0.5 ms: nearest is .* at 1.25 ms, 0.5 ms") as caught:
        most_accurate([far, near, failed], Goals(constraints_ms=(1.0, 0.5)))
    assert caught.value.nearest == near
    assert caught.value.constraints_ms == (1.0, 0.5)
    assert "with an accuracy of 0.9000; raise them, or let the space hold smaller subnets" in str(caught.value)
    with pytest.raises(NothingFits, match=r"the limits of 0.5 ms, any: .* at 1.25 ms, 0.5 ms"):
        most_accurate([near], Goals(constraints_ms=(0.5, None)))
    with pytest.raises(NothingFits, match=r"no engine could be measured, so none meets the limits of 0.5 ms"):
        most_accurate([failed], Goals(constraints_ms=(0.5,)))


def test_the_fastest_of_those_accurate_enough(at: Any, failed: Candidate) -> None:
    points = [at(0.7, 1.0, 3.0), at(0.8, 1.5, 1.0, number=2), at(0.85, 1.5, 2.0, number=3), at(0.9, 2.0, 9.0, number=4)]
    points += [at(0.99, 0.1, 0.1, number=5, complete=False), at(None, 0.1, 0.1, number=6), failed]
    assert fastest(points, accuracy=0.7) == points[0]
    assert fastest(points, accuracy=0.75) == points[2]  # of the equally fast the more accurate
    assert fastest(points, accuracy=0.75, target=1) == points[1]
    assert fastest(points, accuracy=0.9) == points[3]
    with pytest.raises(
        NothingFits, match=r"an accuracy of 0.95: nearest is .* accuracy of 0.9000; ask for less"
    ) as caught:
        fastest(points, accuracy=0.95)
    assert caught.value.nearest == points[3]
    with pytest.raises(NothingFits, match=r"an accuracy of 0.5"):
        fastest([], accuracy=0.5)


def test_the_knee_is_where_the_front_bends(at: Any, failed: Candidate) -> None:
    bend = at(0.85, 2.0, 5.0, number=3)
    points = [at(0.5, 1.0, 9.0), at(0.6, 1.9, 8.0, number=2), bend, at(0.87, 3.0, 3.0, number=4)]
    points += [at(0.9, 5.0, 7.0, number=5), at(0.4, 0.9, 20.0, number=6, complete=False), failed]
    assert knee(points) == bend
    assert knee(points[::-1]) == bend
    assert knee(points, target=1) == points[3]


def test_the_knee_is_furthest_from_the_chord(at: Any) -> None:
    for seed in range(10):
        rng = Random(seed)
        points = [at(rng.random(), rng.uniform(1, 2), number=i + 1) for i in range(40)]
        edge = front(points)
        (x0, y0), (x1, y1) = ((x.ms[0], x.accuracy or 0.0) for x in (edge[0], edge[-1]))
        heights = {x: (y1 - y0) * (x0 - x.ms[0]) + (x1 - x0) * ((x.accuracy or 0) - y0) for x in edge}
        assert heights[knee(points)] == pytest.approx(max(heights.values()))


def test_the_knee_of_few(at: Any, failed: Candidate) -> None:
    assert knee([at(0.5, 1.0)]) == at(0.5, 1.0)
    assert knee([at(0.5, 1.0), at(0.9, 2.0, number=2)]) == at(0.5, 1.0)
    assert knee([at(0.5, 1.0), at(0.5, 2.0, number=2)]) == at(0.5, 1.0)
    with pytest.raises(NothingFits):
        knee([failed, at(0.9, 1.0, complete=False)])


def test_a_smaller_model_stands_on_the_front_where_size_counts() -> None:
    """Slower and less accurate, but smaller: kept only where the bytes are an objective."""
    subnet = SubnetConfig.uniform(hidden_size=64, depth=2, heads=2, ffn_size=64)

    def candidate(precision: str, ms: float, accuracy: float, model_bytes: int) -> Candidate:
        return Candidate(
            design=Design(subnet=subnet, precisions=(precision,)),
            flops=1,
            latencies=(Timing(ms=ms, ci_ms=(ms, ms)),),
            accuracy=accuracy,
            rows=10,
            model_bytes=model_bytes,
        )

    best, small = candidate("bf16", 1.0, 0.9, 1000), candidate("int8", 1.1, 0.8, 300)
    assert front([best, small]) == (best,)
    assert front([best, small], small=True) == (best, small)
