"""Scenarios played to engines that take exactly as long as they are told, on a clock that they alone move."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
import pytest

from runtime.scenarios import (
    OfflineReport,
    RateSearch,
    ServerReport,
    SystemTime,
    offline,
    poisson_arrivals_ns,
    pooled,
    server,
)


class Clock:
    def __init__(self) -> None:
        self.ns = 5_000_000_000  # no clock begins at zero

    def now_ns(self) -> int:
        return self.ns

    def wait_until(self, ns: int) -> None:
        assert ns > self.ns
        self.ns = ns


class FakeEngine:
    """Takes `cost_ms(number of the call)` for whatever it is given."""

    def __init__(self, cost_ms: float | Callable[[int], float]) -> None:
        self.clock = Clock()
        self.calls: list[list[int]] = []
        self._cost: Callable[[int], float] = cost_ms if callable(cost_ms) else lambda _: cost_ms

    def __call__(self, queries: Sequence[int]) -> None:
        self.clock.ns += round(self._cost(len(self.calls)) * 1e6)
        self.calls.append(list(queries))


def serve(engine: FakeEngine, rate: float, queries: int = 400, *, seed: int = 0, **rest: Any) -> ServerReport:
    return server(engine, rate_per_s=rate, queries=queries, rng=Random(seed), time=engine.clock, **rest)


# --- Offline --------------------------------------------------------------------------------------------------------


def test_offline_answers_all_samples_in_whole_passes_until_the_time_is_over() -> None:
    engine = FakeEngine(30.0)
    assert offline(engine, samples=6, least_s=0.1, time=engine.clock) == (24, pytest.approx(0.12))
    assert engine.calls == [list(range(6))] * 4
    assert offline(engine, samples=6, least_s=0.001, time=engine.clock)[0] == 6


def test_one_disturbed_round_does_not_move_the_throughput() -> None:
    report = OfflineReport(samples=(100, 100, 100), seconds=(1.0, 9.0, 1.25))
    assert report.samples_per_s == 80
    assert report.range_per_s == (pytest.approx(11.11, abs=0.01), 100)
    for wrong in ((), (0,), (1, 2)):
        with pytest.raises(ValueError, match="round"):
            OfflineReport(samples=wrong, seconds=(1.0,))


# --- Server ---------------------------------------------------------------------------------------------------------


def test_arrivals_are_a_poisson_process() -> None:
    gaps = np.diff([0, *poisson_arrivals_ns(rate_per_s=200, queries=20_000, rng=Random(3))]) / 1e6
    assert gaps.mean() == pytest.approx(5.0, rel=0.03)
    assert gaps.std() == pytest.approx(5.0, rel=0.03)  # of an exponential distribution both are equal
    assert np.mean(gaps > 5.0) == pytest.approx(math.exp(-1), abs=0.02)


def test_an_idle_engine_answers_each_query_when_it_arrives() -> None:
    engine = FakeEngine(0.001)
    report = serve(engine, 10)
    assert report.starts_ms == report.arrivals_ms
    assert report.p99_ms == pytest.approx(0.001)
    assert report.busy < 0.001
    assert report.late_ms == 0
    assert engine.calls == [[i] for i in range(400)]


def test_latency_counts_from_the_intended_arrival_and_no_query_waits_to_be_sent() -> None:
    """One stall of half a second: a closed loop would see it once, here all that arrive meanwhile pay."""
    engine = FakeEngine(lambda call: 500.0 if call == 100 else 0.1)
    report = serve(engine, 200)
    arrivals = np.array(report.arrivals_ms)
    during = (arrivals >= arrivals[100]) & (arrivals < report.ends_ms[100])
    assert during.sum() > 80
    waited = report.ends_ms[100] - arrivals[during]
    assert (report.latencies_ms[during] >= waited).all()
    assert report.p90_ms > 250
    assert report.p50_ms < 1
    # What the engine does changes nothing about when queries arrive.
    assert report.arrivals_ms == serve(FakeEngine(0.1), 200).arrivals_ms


def test_queueing_is_that_of_theory() -> None:
    """M/D/1 at half load: the mean wait is half of the service time (Pollaczek and Khinchine)."""
    report = serve(FakeEngine(10.0), 50, 40_000)
    waits = np.array(report.starts_ms) - np.array(report.arrivals_ms)
    assert waits.mean() == pytest.approx(5.0, rel=0.05)
    assert report.busy == pytest.approx(0.5, rel=0.02)


def test_waiting_queries_are_answered_together_up_to_a_batch() -> None:
    engine = FakeEngine(10.0)
    report = serve(engine, 300, batch=4)
    assert [i for call in engine.calls for i in call] == list(range(400))
    assert {len(call) for call in engine.calls} == {1, 2, 3, 4}
    for call in engine.calls:
        assert len({report.starts_ms[i] for i in call}) == len({report.ends_ms[i] for i in call}) == 1
        assert all(report.arrivals_ms[i] <= report.starts_ms[i] for i in call)
    assert report.mean_batch == pytest.approx(400 / len(engine.calls))
    assert report.busy == pytest.approx(10 * len(engine.calls) / report.ends_ms[-1])
    assert report.p99_ms < serve(FakeEngine(10.0), 300).p99_ms


def test_the_same_seed_gives_the_same_report() -> None:
    assert serve(FakeEngine(3.0), 100, seed=1) == serve(FakeEngine(3.0), 100, seed=1)
    assert serve(FakeEngine(3.0), 100, seed=1) != serve(FakeEngine(3.0), 100, seed=2)


def test_an_overloaded_engine_is_given_up_and_says_how_many_wait() -> None:
    engine = FakeEngine(100.0)
    report = serve(engine, 1000, patience_s=1.0)
    assert len(engine.calls) < 20
    assert report.unanswered == 400 - len(engine.calls)
    assert report.queries == 400
    assert report.p99_ms == math.inf
    assert report.p99_range_ms[1] == math.inf


def test_a_hopeless_run_ends_as_soon_as_its_percentile_is_lost() -> None:
    engine = FakeEngine(10.0)
    report = serve(engine, 1000, max_ms=30.0)
    late = int((report.latencies_ms > 30.0).sum())
    assert late == 5  # 4 of 400 may be late
    assert len(engine.calls) < 20
    assert report.p99_ms > 30.0
    # One that keeps its bound is played to its end.
    assert serve(FakeEngine(10.0), 20, max_ms=30.0).unanswered == 0


def test_percentiles_are_nearest_ranks_and_the_unanswered_are_the_slowest() -> None:
    arrivals = tuple(float(i) for i in range(99))
    report = ServerReport(
        rate_per_s=1.0,
        batch=1,
        arrivals_ms=arrivals,
        starts_ms=arrivals,
        ends_ms=tuple(a + 1 + i for i, a in enumerate(arrivals)),
        rounds=(99,),
        unanswered=1,
    )
    assert (report.p50_ms, report.p90_ms, report.p99_ms) == (50.0, 90.0, 99.0)
    assert report.quantile_ms(1.0) == math.inf
    assert json.loads(json.dumps(report.to_json()))["unanswered"] == 1


def test_rounds_are_pooled_and_their_clocks_kept_apart() -> None:
    parts = [serve(FakeEngine(10.0), 50, seed=i) for i in range(3)]
    whole = pooled(parts)
    assert whole.rounds == (400, 400, 400)
    assert whole.queries == 1200
    assert sorted(whole.latencies_ms) == sorted(x for part in parts for x in part.latencies_ms)
    assert whole.p99_range_ms == (min(x.p99_ms for x in parts), max(x.p99_ms for x in parts))
    assert whole.busy == pytest.approx(sum(len(x.ends_ms) * 10 for x in parts) / sum(x.ends_ms[-1] for x in parts))
    assert whole.late_ms == 0
    with pytest.raises(ValueError, match="one rate"):
        pooled([parts[0], serve(FakeEngine(10.0), 60)])


@pytest.mark.parametrize("rate", [0, -1, math.inf, math.nan])
def test_a_rate_is_more_than_nothing(rate: float) -> None:
    with pytest.raises(ValueError, match="more than 0 queries per second"):
        serve(FakeEngine(1.0), rate)
    with pytest.raises(ValueError, match="more than 0 queries per second"):
        RateSearch(guess_per_s=rate)


@pytest.mark.parametrize("wrong", [{"queries": 0}, {"batch": 0}])
def test_counts_are_counts(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a whole number of 1 or more"):
        serve(FakeEngine(1.0), 10.0, **{"queries": 5, **wrong})


# --- the highest rate -----------------------------------------------------------------------------------------------


def play(search: RateSearch, keeps: Callable[[float], bool]) -> list[float]:
    asked = []
    while (rate := search.rate_per_s) is not None:
        asked.append(rate)
        search.tell(keeps(rate))
    return asked


@pytest.mark.parametrize("guess", [1.0, 130.0, 137.0, 9000.0])
def test_bisection_finds_the_edge_from_either_side(guess: float) -> None:
    search = RateSearch(guess_per_s=guess, tolerance=0.02)
    asked = play(search, lambda rate: rate <= 137.0)
    assert search.found_per_s is not None
    assert 137.0 / 1.02 <= search.found_per_s <= 137.0
    assert asked[-1] == search.found_per_s  # the last run confirms what is reported
    assert len(asked) <= 40
    with pytest.raises(ValueError, match="over"):
        search.tell(True)


def test_one_bad_moment_does_not_end_a_rate() -> None:
    calls = itertools.count()
    search = RateSearch(guess_per_s=100.0, tolerance=0.02)
    play(search, lambda rate: rate <= 137.0 and next(calls) != 1)
    assert search.found_per_s is not None
    assert search.found_per_s >= 137.0 / 1.02


def test_what_is_not_confirmed_is_lowered() -> None:
    search = RateSearch(guess_per_s=100.0, tolerance=0.02)
    play(search, lambda rate: rate <= (120.0 if search.confirming else 137.0))
    assert search.found_per_s is not None
    assert 120.0 * 0.95 <= search.found_per_s <= 120.0


@pytest.mark.parametrize("answer", [True, False])
def test_a_search_without_an_edge_ends(answer: bool) -> None:
    search = RateSearch(guess_per_s=100.0)
    assert len(play(search, lambda _: answer)) <= 40
    assert search.found_per_s is None


def test_the_highest_rate_of_an_engine_is_that_of_theory() -> None:
    """M/D/1: one query in a hundred waits for four services where the load is about 0.64."""
    search = RateSearch(guess_per_s=10.0)
    play(search, lambda rate: serve(FakeEngine(10.0), rate, 2000, max_ms=50.0).p99_ms <= 50.0)
    assert search.found_per_s is not None
    assert 55 < search.found_per_s < 72


# --- this machine's clock -------------------------------------------------------------------------------------------


def test_waiting_ends_when_the_clock_says_so() -> None:
    time = SystemTime()
    until = time.now_ns() + 2_000_000
    time.wait_until(until)
    assert time.now_ns() >= until
    time.wait_until(until)  # what is over is not waited for
