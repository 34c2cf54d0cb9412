"""The scenarios of MLPerf Inference, played to one engine: Offline and Server; SingleStream is `runtime.measure`.

As the benchmark defines them (Reddi et al. 2020, "MLPerf Inference Benchmark"): SingleStream sends the next query
when the last is answered and reports the 90th percentile; Offline has all samples at once and reports samples per
second; Server sends queries by a Poisson process at a set rate and reports the highest rate whose 99th percentile
keeps a bound. Runs here are far shorter than the benchmark's, so the numbers are none of its results.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Answer = Callable[[Sequence[int]], object]
"""Answers the queries of these numbers, all at once."""

_SPIN_NS = 300_000  # sleeping wakes up as much as this too late
_MOST_STEPS = 40
_SERVER_PERCENTILE = 0.99


class Time(Protocol):
    """A clock that can be waited for."""

    def now_ns(self) -> int:
        """Nanoseconds that never go back."""
        ...

    def wait_until(self, ns: int) -> None:
        """Returns once `now_ns` has reached `ns`."""
        ...


class SystemTime:
    """This machine's."""

    def now_ns(self) -> int:
        """Nanoseconds that never go back."""
        return time.perf_counter_ns()

    def wait_until(self, ns: int) -> None:
        """Sleeps, and spins at the end: a sleeper wakes up late, and that is no latency of the engine's."""
        while (left := ns - time.perf_counter_ns()) > 0:
            if left > _SPIN_NS:
                time.sleep((left - _SPIN_NS) / 1e9)


# --- Offline --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OfflineReport:
    """Samples answered and seconds taken, per round."""

    samples: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.samples or len(self.samples) != len(self.seconds):
            raise ValueError(f"each round has samples and seconds: got {len(self.samples)} and {len(self.seconds)}")
        if min(self.samples) < 1 or not min(self.seconds) > 0:
            raise ValueError("a round answers samples in some time: a throughput that was not measured is not reported")

    @property
    def per_round_s(self) -> tuple[float, ...]:
        """Samples per second of each round."""
        return tuple(n / s for n, s in zip(self.samples, self.seconds, strict=True))

    @property
    def samples_per_s(self) -> float:
        """The median round's, so that one disturbed round does not count."""
        return float(np.median(self.per_round_s))

    @property
    def range_per_s(self) -> tuple[float, float]:
        """The slowest and the fastest round's."""
        return min(self.per_round_s), max(self.per_round_s)

    def to_json(self) -> dict[str, Any]:
        """Plain data, without derived numbers."""
        return {"samples": list(self.samples), "seconds": list(self.seconds)}


def offline(answer: Answer, *, samples: int, least_s: float, time: Time) -> tuple[int, float]:
    """One round: `answer` gets all samples, over and over until `least_s` have passed.

    Whole passes only: who answers may order the samples by length. Returns (samples answered, seconds).
    """
    _check(samples=samples)
    everything = range(samples)
    done, begun = 0, time.now_ns()
    while True:
        answer(everything)
        done += samples
        seconds = (time.now_ns() - begun) / 1e9
        if seconds >= least_s:
            return done, seconds


# --- Server ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ServerReport:
    """Queries that arrived by a Poisson process, in order of their arrival.

    `arrivals_ms` are when the process meant them to arrive, not when they were noticed; `starts_ms` when their batch
    began and `ends_ms` when it was answered: all since their round began. `rounds` are how many were answered in each;
    `unanswered` were still waiting, or had not arrived, when the run was given up.
    """

    rate_per_s: float
    batch: int
    arrivals_ms: tuple[float, ...]
    starts_ms: tuple[float, ...]
    ends_ms: tuple[float, ...]
    rounds: tuple[int, ...]
    unanswered: int = 0

    def __post_init__(self) -> None:
        if not self.rate_per_s > 0 or not math.isfinite(self.rate_per_s):
            raise ValueError(f"a rate is more than 0 queries per second, got {self.rate_per_s!r}")
        counts = {len(self.arrivals_ms), len(self.starts_ms), len(self.ends_ms), sum(self.rounds)}
        if counts == {0} or len(counts) != 1:
            raise ValueError("each answered query has an arrival, a start and an end, and there is at least one")
        if self.unanswered < 0:
            raise ValueError(f"unanswered is a count, got {self.unanswered}")

    @property
    def queries(self) -> int:
        """All, answered or not."""
        return len(self.ends_ms) + self.unanswered

    def quantile_ms(self, q: float) -> float:
        """The latency that a share `q` of all queries kept (nearest rank); infinite where too few were answered.

        A latency begins with the intended arrival, so time spent waiting for earlier queries counts.
        """
        rank = max(1, math.ceil(q * self.queries - 1e-9))
        return float(self._sorted_ms[rank - 1]) if rank <= len(self._sorted_ms) else math.inf

    @property
    def p50_ms(self) -> float:
        """The median."""
        return self.quantile_ms(0.5)

    @property
    def p90_ms(self) -> float:
        """Nine in ten queries took no longer."""
        return self.quantile_ms(0.9)

    @property
    def p99_ms(self) -> float:
        """Ninety-nine in a hundred queries took no longer."""
        return self.quantile_ms(_SERVER_PERCENTILE)

    @property
    def p99_range_ms(self) -> tuple[float, float]:
        """The lowest and the highest round's; infinite where queries stayed unanswered."""
        parts = np.split(self.latencies_ms, np.cumsum(self.rounds)[:-1])
        each = [float(np.quantile(part, _SERVER_PERCENTILE, method="inverted_cdf")) for part in parts if part.size]
        return min(each), math.inf if self.unanswered else max(each)

    @property
    def busy(self) -> float:
        """The share of the time that the engine was answering, 0..1."""
        ends = np.asarray(self.ends_ms)
        return sum(end - start for _, start, end in self._batches) / float(ends[self._lasts].sum())

    @property
    def mean_batch(self) -> float:
        """Queries that were answered at once, on average."""
        return len(self.starts_ms) / len(self._batches)

    @property
    def late_ms(self) -> float:
        """How late, at p99, a batch began though the engine was free: what of the latencies is the load generator's."""
        return float(np.quantile([start - could for could, start, _ in self._batches], _SERVER_PERCENTILE))

    @property
    def _lasts(self) -> list[int]:
        """The last answered query of each round."""
        return [int(at) - 1 for at, n in zip(np.cumsum(self.rounds), self.rounds, strict=True) if n]

    @cached_property
    def _batches(self) -> list[tuple[float, float, float]]:
        """(could have begun, began, ended) of each batch; queries of one batch share their start."""
        found: list[tuple[float, float, float]] = []
        firsts, free, start = {0, *(at + 1 for at in self._lasts)}, 0.0, -1.0
        for i, arrival in enumerate(self.arrivals_ms):
            if i in firsts:
                free, start = 0.0, -1.0
            if self.starts_ms[i] != start:
                start = self.starts_ms[i]
                found.append((max(arrival, free), start, self.ends_ms[i]))
                free = self.ends_ms[i]
        return found

    @cached_property
    def latencies_ms(self) -> NDArray[np.float64]:
        """Of the answered queries, in order of their arrival."""
        found: NDArray[np.float64] = np.asarray(self.ends_ms) - np.asarray(self.arrivals_ms)
        return found

    @cached_property
    def _sorted_ms(self) -> NDArray[np.float64]:
        return np.sort(self.latencies_ms)

    def to_json(self) -> dict[str, Any]:
        """Plain data, without derived numbers."""
        return {
            "rate_per_s": self.rate_per_s,
            "batch": self.batch,
            "arrivals_ms": list(self.arrivals_ms),
            "starts_ms": list(self.starts_ms),
            "ends_ms": list(self.ends_ms),
            "rounds": list(self.rounds),
            "unanswered": self.unanswered,
        }


def pooled(reports: Sequence[ServerReport]) -> ServerReport:
    """Rounds at one rate as one report. Raises `ValueError` where their rates or batches differ."""
    if len({(x.rate_per_s, x.batch) for x in reports}) != 1:
        raise ValueError("only rounds of one rate and batch are pooled")
    return ServerReport(
        rate_per_s=reports[0].rate_per_s,
        batch=reports[0].batch,
        arrivals_ms=tuple(ms for x in reports for ms in x.arrivals_ms),
        starts_ms=tuple(ms for x in reports for ms in x.starts_ms),
        ends_ms=tuple(ms for x in reports for ms in x.ends_ms),
        rounds=tuple(n for x in reports for n in x.rounds),
        unanswered=sum(x.unanswered for x in reports),
    )


def poisson_arrivals_ns(*, rate_per_s: float, queries: int, rng: Random) -> list[int]:
    """Nanoseconds of `queries` arrivals since a start: gaps are exponential with a mean of 1 / `rate_per_s`."""
    at, arrivals = 0.0, []
    for _ in range(queries):
        at += rng.expovariate(rate_per_s)
        arrivals.append(round(at * 1e9))
    return arrivals


def server(
    answer: Answer,
    *,
    rate_per_s: float,
    queries: int,
    rng: Random,
    time: Time,
    batch: int = 1,
    max_ms: float | None = None,
    patience_s: float = 2.0,
) -> ServerReport:
    """One round: an engine answers first come, first served, and takes up to `batch` of those that wait at once.

    The loop is open: queries arrive at `rate_per_s` whether or not earlier ones are answered. A run that cannot end
    well is given up: when so many queries took longer than `max_ms` that the 99th percentile must, or when the engine
    is `patience_s` behind the last arrival. The first query is always answered.
    """
    if not rate_per_s > 0 or not math.isfinite(rate_per_s):
        raise ValueError(f"a rate is more than 0 queries per second, got {rate_per_s!r}")
    _check(queries=queries, batch=batch)
    arrivals = poisson_arrivals_ns(rate_per_s=rate_per_s, queries=queries, rng=rng)
    forgiven = queries - math.ceil(_SERVER_PERCENTILE * queries - 1e-9)
    end_of_patience = arrivals[-1] + round(patience_s * 1e9)
    starts: list[int] = []
    ends: list[int] = []
    late, begun, now = 0, time.now_ns(), 0
    while len(ends) < queries:
        first = len(ends)
        if first and (now > end_of_patience or late > forgiven):
            break
        if arrivals[first] > now:
            time.wait_until(begun + arrivals[first])
        start = time.now_ns() - begun
        after = first + 1
        while after < queries and after - first < batch and arrivals[after] <= start:
            after += 1
        answer(range(first, after))
        now = time.now_ns() - begun
        starts += [start] * (after - first)
        ends += [now] * (after - first)
        if max_ms is not None:
            late += sum(now - arrivals[i] > max_ms * 1e6 for i in range(first, after))
    answered = len(ends)
    return ServerReport(
        rate_per_s=rate_per_s,
        batch=batch,
        arrivals_ms=tuple(ns / 1e6 for ns in arrivals[:answered]),
        starts_ms=tuple(ns / 1e6 for ns in starts),
        ends_ms=tuple(ns / 1e6 for ns in ends),
        rounds=(answered,),
        unanswered=queries - answered,
    )


class RateSearch:
    """The highest rate that is kept, by bisection on a logarithmic scale and a last confirmation.

    Ask `rate_per_s`, run it, `tell` whether its bound was kept, until `rate_per_s` is None. A rate that fails is tried
    once more before it counts as failed: machines have bad moments, and none makes an engine faster. While
    `confirming`, the rate found must be kept by a run of its own; else it is lowered by two tolerances and tried again.
    Nothing is found where a hundredth of the guess fails, nor where no rate does.
    """

    def __init__(self, *, guess_per_s: float, tolerance: float = 0.04) -> None:
        """`tolerance` is the fraction between the highest rate kept and the lowest that failed."""
        if not guess_per_s > 0 or not math.isfinite(guess_per_s):
            raise ValueError(f"a rate is more than 0 queries per second, got {guess_per_s!r}")
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance is a fraction between 0 and 1, got {tolerance!r}")
        self.rate_per_s: float | None = guess_per_s
        self.found_per_s: float | None = None
        self.confirming = False
        self._tolerance = tolerance
        self._least = guess_per_s / 100
        self._kept: float | None = None
        self._failed: float | None = None
        self._doubted: float | None = None
        self._steps = 0

    def tell(self, kept: bool) -> None:
        """Whether `rate_per_s` kept the bound. Raises `ValueError` when the search is over."""
        rate = self.rate_per_s
        if rate is None:
            raise ValueError("the search is over")
        self._steps += 1
        if self.confirming:
            if kept:
                self.found_per_s, self.rate_per_s = rate, None
            else:
                self.rate_per_s = rate * (1 - 2 * self._tolerance)
        elif kept:
            self._kept, self._doubted = rate, None
            self._go_on()
        elif self._doubted == rate:
            self._failed, self._doubted = rate, None
            self._go_on()
        else:
            self._doubted = rate
        if self._steps >= _MOST_STEPS:
            self.rate_per_s = None

    def _go_on(self) -> None:
        if self._failed is None:
            self.rate_per_s = (self._kept or 0.0) * 2
        elif self._kept is None:
            # Where so few queries meet another, it is the engine itself that takes longer than the bound.
            self.rate_per_s = self._failed / 2 if self._failed > self._least else None
        elif self._failed <= self._kept * (1 + self._tolerance):
            self.confirming, self.rate_per_s = True, self._kept
        else:
            self.rate_per_s = math.sqrt(self._kept * self._failed)


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a whole number of 1 or more, got {value!r}")
