"""What is wanted: limits, violations, objectives."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from search.candidate import Candidate
from search.goals import Goals

TWO = Goals(constraints_ms=(2.0, 0.5))
HALF = Goals(constraints_ms=(2.0, None))


@pytest.mark.parametrize(
    ("ms", "violation", "load"),
    [
        ((1.0, 0.25), 0.0, 0.5),
        ((2.0, 0.5), 0.0, 1.0),
        ((3.0, 0.1), 0.5, 1.5),
        ((3.0, 1.0), 1.5, 2.0),
        ((0.1, 1.0), 1.0, 2.0),
    ],
)
def test_violations_add_up_and_loads_do_not(ms: tuple[float, ...], violation: float, load: float) -> None:
    assert TWO.violation(ms) == pytest.approx(violation)
    assert TWO.load(ms) == pytest.approx(load)


def test_a_target_without_a_limit_is_never_violated() -> None:
    assert HALF.violation((1.0, 1e9)) == 0
    assert HALF.load((1.0, 1e9)) == 0.5
    assert Goals(constraints_ms=(None,)).load((7.0,)) == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_load_of_one_at_most_is_no_violation(seed: int) -> None:
    rng = Random(seed)
    goals = Goals(constraints_ms=tuple(rng.choice((None, rng.uniform(0.1, 9))) for _ in range(rng.randint(1, 4))))
    for _ in range(50):
        ms = [rng.uniform(0.01, 12) for _ in goals.constraints_ms]
        assert (goals.violation(ms) == 0) == (goals.load(ms) <= 1)


def test_what_fits_was_timed_and_meets_every_limit(at: Any, failed: Candidate) -> None:
    assert TWO.fits(at(0.9, 2.0, 0.5))
    assert TWO.fits(at(None, 2.0, 0.5))
    assert not TWO.fits(at(0.9, 2.0, 0.500001))
    assert not TWO.fits(at(0.9, 2.1, 0.1))
    assert not Goals(constraints_ms=(9.0,)).fits(failed)


def test_objectives_are_made_small(at: Any) -> None:
    assert TWO.objectives(at(0.9, 1.5, 0.4)) == (-0.9, 1.5, 0.4)
    assert TWO.objectives(at(0.9, 0.1, 0.4)) == (-0.9, 1.0, 0.4)  # faster than half the limit buys nothing
    assert HALF.objectives(at(0.9, 1.5, 0.001)) == (-0.9, 1.5, 0.001)  # without a limit it always does
    assert replace(TWO, focus=0.0).objectives(at(0.9, 0.1, 0.4)) == (-0.9, 0.1, 0.4)
    assert replace(TWO, small=True).objectives(at(0.9, 1.5, 0.4, model_bytes=100)) == (-0.9, 1.5, 0.4, 100.0)
    with pytest.raises(ValueError, match="only a scored candidate has objectives"):
        TWO.objectives(at(None, 1.5, 0.4))


@pytest.mark.parametrize("ms", [(1.0,), (1.0, 0.1, 0.1), ()])
def test_there_is_one_latency_for_each_limit(at: Any, ms: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="zip"):
        TWO.violation(ms)
    with pytest.raises(ValueError, match="zip"):
        TWO.load(ms)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"constraints_ms": ()}, "at least one target"),
        ({"constraints_ms": (0.0,)}, "positive number of ms or None, got 0.0"),
        ({"constraints_ms": (1.0, -1.0)}, "positive number of ms or None, got -1.0"),
        ({"constraints_ms": (float("inf"),)}, "positive number of ms or None, got inf"),
        ({"constraints_ms": (float("nan"),)}, "positive number of ms or None, got nan"),
        ({"focus": 1.0}, r"focus must lie in \[0, 1\), got 1.0"),
        ({"focus": -0.1}, r"focus must lie in \[0, 1\), got -0.1"),
    ],
)
def test_refuses(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TWO, **wrong)
