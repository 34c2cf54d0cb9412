"""Times engines side by side, so that a busy machine shows as spread and repeats, not as a lie."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from runtime.engine import Engine, Feeds
from runtime.environment import conditions, environment, environment_id, preemptions
from runtime.latency import WINDOW_QUANTILE, LatencyReport

Clock = Callable[[], int]
"""Nanoseconds that never go back, such as `time.perf_counter_ns`."""


@dataclass(frozen=True, kw_only=True)
class MeasurePlan:
    """How much is timed, and when a window counts as disturbed.

    Each engine gets `windows` windows. A window runs for `window_ms`, within `min_runs` and `max_runs`, after
    `settle_runs` that are not timed and bring the engine's weights back into the caches. Before the first
    window an engine warms up in batches of `warmup_runs` until two in a row differ by at most
    `warmup_tolerance`, or `max_warmups` batches are over. A window is repeated when the reference beside it
    ran slower than usual by more than `drift_tolerance`; at most `max_repeats` times per engine. How slow a window
    is, is its lower quartile here as in the report. Tolerances are fractions.
    """

    windows: int = 10
    window_ms: float = 20.0
    min_runs: int = 5
    max_runs: int = 1000
    settle_runs: int = 1
    warmup_runs: int = 5
    warmup_tolerance: float = 0.1
    max_warmups: int = 20
    drift_tolerance: float = 0.15
    max_repeats: int = 10

    def __post_init__(self) -> None:
        for name, least in (
            ("windows", 2),
            ("min_runs", 1),
            ("max_runs", 1),
            ("settle_runs", 0),
            ("warmup_runs", 1),
            ("max_warmups", 2),
            ("max_repeats", 0),
        ):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be a whole number of {least} or more, got {value!r}")
        if self.max_runs < self.min_runs:
            raise ValueError(f"max_runs must be at least min_runs = {self.min_runs}, got {self.max_runs}")
        for name in ("window_ms", "warmup_tolerance", "drift_tolerance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name)!r}")


@dataclass(kw_only=True)
class _Series:
    """What was gathered for one engine so far; windows in milliseconds, in time order."""

    windows: list[list[float]] = field(default_factory=list)
    beside: list[list[float]] = field(default_factory=list)
    warmup_runs: int = 0
    repeated: int = 0
    disturbed: int = 0


def measure(
    engines: Mapping[str, Engine],
    feeds: Mapping[str, Feeds],
    *,
    reference: str,
    plan: MeasurePlan | None = None,
    clock: Clock = time.perf_counter_ns,
) -> dict[str, LatencyReport]:
    """A report for each engine, `reference` included; keys as in `engines`.

    `feeds[name]` is what `engines[name]` is run on. In every round each engine has one window with a window
    of the reference before and after it, and the order moves on by one. The reference's own windows are those
    after the kept ones. Raises `ValueError` for an unknown reference or missing feeds; what an engine raises
    passes through.
    """
    if reference not in engines:
        raise ValueError(f"the reference {reference!r} is not among the engines: {', '.join(engines)}")
    if missing := [name for name in engines if name not in feeds]:
        raise ValueError(f"no feeds for {', '.join(missing)}; there are feeds for {', '.join(feeds) or 'none'}")
    plan = plan or MeasurePlan()
    around, taken = conditions(), preemptions()
    with _no_collection():
        series = _Session(engines, feeds, reference, plan, clock).run()
    around |= _after(taken)
    here = environment_id(environment())
    return {
        name: LatencyReport(
            target=engine.target.label,
            effective_precision=engine.effective_precision,
            shape=engine.target.shape,
            threads=engine.target.threads,
            samples_ms=_flat(series[name].windows),
            windows=tuple(map(len, series[name].windows)),
            reference=engines[reference].target.label,
            reference_samples_ms=_flat(series[name].beside),
            reference_windows=tuple(map(len, series[name].beside)),
            warmup_runs=series[name].warmup_runs,
            repeated_windows=series[name].repeated,
            disturbed_windows=series[name].disturbed,
            environment=here,
            conditions=around,
        )
        for name, engine in engines.items()
    }


class _Session:
    def __init__(
        self,
        engines: Mapping[str, Engine],
        feeds: Mapping[str, Feeds],
        reference: str,
        plan: MeasurePlan,
        clock: Clock,
    ) -> None:
        self.engines, self.feeds, self.reference, self.plan, self.clock = (
            engines,
            feeds,
            reference,
            plan,
            clock,
        )
        self.series = {name: _Series() for name in engines}
        # The speed of every reference window, thrown away or not: what is usual for it on this machine.
        self.usual_ms: list[float] = []

    def run(self) -> dict[str, _Series]:
        for name in self.engines:
            self._warm_up(name)
        others = [name for name in self.engines if name != self.reference]
        before = self._reference_window()
        for turn in range(self.plan.windows):
            if not others:
                before = self._round(None, before)
            for i in range(len(others)):
                before = self._round(others[(turn + i) % len(others)], before)
        own = self.series[self.reference]
        own.beside = list(own.windows)
        return self.series

    def _round(self, name: str | None, before: list[float]) -> list[float]:
        """Keeps one window of `name` (None: of the reference); returns the reference window after it."""
        own = self.series[self.reference]
        series = own if name is None else self.series[name]
        while True:
            window = [] if name is None else self._window(name)
            after = self._reference_window()
            drifted = self._drifted(before, after)
            if not drifted or series.repeated >= self.plan.max_repeats:
                break
            series.repeated += 1
            before = after
        series.disturbed += drifted
        own.windows.append(after)
        if name is not None:
            series.windows.append(window)
            series.beside.append(before + after)
        return after

    def _drifted(self, before: list[float], after: list[float]) -> bool:
        """Whether the reference on either side ran slower than usual: the lower quartile of all its windows."""
        usual = sorted(self.usual_ms)[(len(self.usual_ms) - 1) // 4]
        return max(_speed(before), _speed(after)) > usual * (1 + self.plan.drift_tolerance)

    def _reference_window(self) -> list[float]:
        window = self._window(self.reference)
        self.usual_ms.append(_speed(window))
        return window

    def _warm_up(self, name: str) -> None:
        """Runs batches until two in a row agree, or the bound is reached."""
        infer, feeds, clock = self.engines[name].infer, self.feeds[name], self.clock
        last = None
        for _ in range(self.plan.max_warmups):
            times = []
            for _ in range(self.plan.warmup_runs):
                start = clock()
                infer(feeds)
                times.append(clock() - start)
            self.series[name].warmup_runs += self.plan.warmup_runs
            now = median(times)
            if last is not None and abs(now - last) <= self.plan.warmup_tolerance * last:
                return
            last = now

    def _window(self, name: str) -> list[float]:
        """Single inferences in milliseconds."""
        infer, feeds, clock, plan = self.engines[name].infer, self.feeds[name], self.clock, self.plan
        for _ in range(plan.settle_runs):
            infer(feeds)
        end = clock() + round(plan.window_ms * 1e6)
        times: list[float] = []
        now = 0
        while len(times) < plan.min_runs or (now < end and len(times) < plan.max_runs):
            start = clock()
            infer(feeds)
            now = clock()
            times.append((now - start) / 1e6)
        return times


def _after(taken_before: int | None) -> dict[str, Any]:
    """The conditions that are known when all is done: engines start and bind their threads with their first runs."""
    found = conditions()
    taken = preemptions()
    told = {name: found[name] for name in ("pinned", "frequency_mhz")}
    return {**told, "preemptions": None if taken is None or taken_before is None else taken - taken_before}


def _speed(window: list[float]) -> float:
    """In milliseconds; what `LatencyReport.ratio_to_reference` compares."""
    return float(np.quantile(window, WINDOW_QUANTILE))


def _flat(windows: list[list[float]]) -> tuple[float, ...]:
    return tuple(sample for window in windows for sample in window)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps the garbage collector out of the samples, as `timeit` does."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
