"""Measured with engines that take exactly as long as they are told, on a clock that they alone move."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import pytest

from runtime.engine import EngineBase
from runtime.measure import MeasurePlan, measure
from runtime.target import EngineTarget, Shape

Cost = Callable[["FakeEngine"], float]


class Clock:
    def __init__(self) -> None:
        self.now_ms = 0.0

    def __call__(self) -> int:
        return round(self.now_ms * 1e6)


class Lab:
    """A clock, and a log of who ran when."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.log: list[str] = []

    def engine(self, name: str, cost: float | Cost) -> FakeEngine:
        return FakeEngine(self, name, cost if callable(cost) else lambda _: cost)

    def runs(self) -> list[str]:
        """The log without repeats: the order of windows."""
        return [name for name, _ in groupby(self.log)]


class FakeEngine(EngineBase):
    effective_precision = "f32"
    inputs = ()

    def __init__(self, lab: Lab, name: str, cost: Cost) -> None:
        self.lab, self.name, self.cost = lab, name, cost
        self.calls = 0
        self.fed: set[int] = set()
        self.target = EngineTarget(backend=name, shape=Shape(batch=1, length=8))

    @property
    def now_ms(self) -> float:
        return self.lab.clock.now_ms

    def infer(self, feeds: Any) -> dict[str, Any]:
        self.fed.add(id(feeds))
        self.lab.log.append(self.name)
        self.lab.clock.now_ms += self.cost(self)
        self.calls += 1
        return {}

    def close(self) -> None: ...


def _measure(lab: Lab, *engines: FakeEngine, reference: str = "ref", **plan: Any) -> Any:
    by_name = {engine.name: engine for engine in engines}
    return measure(
        by_name,
        {name: {"input_ids": np.zeros((1, 8), np.int64)} for name in by_name},
        reference=reference,
        plan=MeasurePlan(**plan),
        clock=lab.clock,
    )


def test_every_engine_gets_its_samples() -> None:
    lab = Lab()
    reports = _measure(lab, lab.engine("ref", 4.0), lab.engine("a", 2.0), windows=3, window_ms=20)
    assert set(reports) == {"ref", "a"}
    assert set(reports["a"].samples_ms) == {2.0}
    assert reports["a"].windows == (10, 10, 10)
    assert reports["ref"].windows == (5, 5, 5)
    assert reports["a"].reference_windows == (10, 10, 10)  # five before and five after each window
    assert set(reports["a"].reference_samples_ms) == {4.0}
    assert reports["a"].ratio_to_reference == 0.5
    assert reports["ref"].ratio_to_reference == 1.0
    assert reports["a"].target == "a-CPU-auto-b1-l8-t1"
    assert reports["a"].reference == "ref-CPU-auto-b1-l8-t1"
    assert len(reports["a"].environment) == 12
    told = reports["a"].conditions
    assert set(told) == {"affinity", "pinned", "governor", "frequency_mhz", "load_average", "preemptions"}
    assert told["preemptions"] is None or told["preemptions"] >= 0
    assert json.loads(json.dumps(told)) == told


def test_windows_have_least_and_most_runs() -> None:
    lab = Lab()
    reports = _measure(
        lab,
        lab.engine("ref", 100.0),
        lab.engine("a", 0.001),
        windows=2,
        window_ms=20,
        min_runs=3,
        max_runs=50,
    )
    assert reports["ref"].windows == (3, 3)
    assert reports["a"].windows == (50, 50)


def test_the_reference_runs_beside_every_window_and_the_order_rotates() -> None:
    lab = Lab()
    names = ["ref", "a", "b", "c"]
    _measure(lab, *(lab.engine(name, 1.0) for name in names), windows=3)
    warmups, windows = lab.runs()[:4], lab.runs()[4:]
    assert warmups == names
    rounds = ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert windows == ["ref"] + [x for name in rounds for x in (name, "ref")]


def test_the_first_runs_of_a_window_are_not_timed() -> None:
    lab = Lab()

    def cold_after_others(engine: FakeEngine) -> float:
        return 9.0 if engine.lab.log[-3:].count(engine.name) < 3 else 1.0

    reports = _measure(
        lab,
        lab.engine("ref", 1.0),
        lab.engine("a", cold_after_others),
        windows=2,
        settle_runs=2,
        window_ms=20,
    )
    assert set(reports["a"].samples_ms) == {1.0}
    lab = Lab()
    reports = _measure(
        lab,
        lab.engine("ref", 1.0),
        lab.engine("a", cold_after_others),
        windows=2,
        settle_runs=1,
        window_ms=20,
    )
    assert reports["a"].samples_ms.count(9.0) == 2


def test_warm_up_ends_when_two_batches_agree() -> None:
    lab = Lab()
    # Batches of two: 9, 5, 2.1, 2.0 ms; the last two agree within a tenth.
    steps = [9.0, 9.0, 5.0, 5.0, 2.1, 2.1]
    engine = lab.engine("a", lambda e: steps[e.calls] if e.calls < len(steps) else 2.0)
    reports = _measure(lab, lab.engine("ref", 1.0), engine, windows=2, warmup_runs=2, warmup_tolerance=0.1)
    assert reports["a"].warmup_runs == 8
    assert reports["ref"].warmup_runs == 4
    assert set(reports["a"].samples_ms) == {2.0}


def test_warm_up_is_bounded() -> None:
    lab = Lab()
    never = lab.engine("a", lambda e: 1.0 + (e.calls // 2 % 2))
    assert _measure(lab, lab.engine("ref", 1.0), never, windows=2, warmup_runs=2, max_warmups=7)["a"].warmup_runs == 14


def _busy(start_ms: float, end_ms: float, cost: float) -> Cost:
    """Three times slower while a neighbour is busy."""
    return lambda engine: cost * (3 if start_ms <= engine.now_ms < end_ms else 1)


def test_disturbed_windows_are_repeated() -> None:
    lab = Lab()
    reports = _measure(
        lab,
        lab.engine("ref", _busy(200, 300, 1.0)),
        lab.engine("a", _busy(200, 300, 2.0)),
        windows=10,
        max_repeats=20,
    )
    assert set(reports["a"].samples_ms) == {2.0}
    assert len(reports["a"].windows) == 10
    assert 1 <= reports["a"].repeated_windows < 10
    assert reports["a"].disturbed_windows == 0
    # A kept window had a quiet reference on both sides.
    assert max(np.median(part) for part in np.split(np.array(reports["a"].reference_samples_ms), 10)) == 1.0
    assert set(reports["ref"].samples_ms) == {1.0}


def test_a_disturbance_before_the_window_counts_too() -> None:
    lab = Lab()
    slow_until = {"ms": 0.0}

    def ref(engine: FakeEngine) -> float:
        return 3.0 if engine.now_ms < slow_until["ms"] else 1.0

    def a(engine: FakeEngine) -> float:
        if engine.calls == 10 + 2 * 11:  # in its third window a burst begins that outlasts it
            slow_until["ms"] = engine.now_ms + 60
        return 2.0

    reports = _measure(lab, lab.engine("ref", ref), lab.engine("a", a), windows=6, max_repeats=20)
    assert reports["a"].repeated_windows >= 2
    assert set(reports["a"].reference_samples_ms) == {1.0}


def test_repeats_are_bounded_and_what_is_kept_is_told() -> None:
    lab = Lab()
    # From 150 ms on the machine stays three times slower, more than the bound can wait for.
    reports = _measure(
        lab,
        lab.engine("ref", _busy(150, 1e9, 1.0)),
        lab.engine("a", _busy(150, 1e9, 2.0)),
        windows=10,
        max_repeats=4,
    )
    assert reports["a"].repeated_windows == 4
    assert len(reports["a"].windows) == 10
    assert reports["a"].disturbed_windows >= 5
    assert {2.0, 6.0} <= set(reports["a"].samples_ms)


def test_no_repeats_when_none_are_allowed() -> None:
    lab = Lab()
    reports = _measure(lab, lab.engine("ref", _busy(150, 1e9, 1.0)), lab.engine("a", 2.0), windows=10, max_repeats=0)
    assert reports["a"].repeated_windows == 0
    assert reports["a"].disturbed_windows > 0


def test_drift_below_the_tolerance_is_kept() -> None:
    lab = Lab()
    reports = _measure(
        lab,
        lab.engine("ref", lambda e: 1.0 + e.now_ms * 1e-4),
        lab.engine("a", 2.0),
        windows=5,
        drift_tolerance=0.2,
    )
    assert reports["a"].repeated_windows == reports["a"].disturbed_windows == 0


def test_the_ratio_survives_a_machine_that_slows_down() -> None:
    lab = Lab()
    slowing: Callable[[float], Cost] = lambda cost: lambda e: cost * (1 + e.now_ms / 500)  # noqa: E731
    reports = _measure(
        lab, lab.engine("ref", slowing(1.0)), lab.engine("a", slowing(2.0)), windows=10, drift_tolerance=100.0
    )
    samples = reports["a"].samples_ms
    assert max(samples) > 1.5 * min(samples)
    assert reports["a"].ratio_to_reference == pytest.approx(2.0, rel=0.03)


def test_the_reference_alone() -> None:
    lab = Lab()
    reports = _measure(lab, lab.engine("ref", _busy(64, 180, 2.0)), windows=5, window_ms=20)
    assert reports["ref"].windows == (10,) * 5
    assert set(reports["ref"].samples_ms) == {2.0}
    assert reports["ref"].repeated_windows > 0
    assert reports["ref"].ratio_to_reference == 1.0


def test_each_engine_gets_its_own_feeds() -> None:
    lab = Lab()
    engines = {"ref": lab.engine("ref", 1.0), "a": lab.engine("a", 1.0)}
    feeds = {name: {"input_ids": np.zeros((1, 8), np.int64)} for name in engines}
    measure(engines, feeds, reference="ref", plan=MeasurePlan(windows=2), clock=lab.clock)
    assert engines["a"].fed == {id(feeds["a"])}
    assert engines["ref"].fed == {id(feeds["ref"])}


def test_garbage_is_not_collected_while_timing() -> None:
    lab = Lab()
    seen = set()

    def cost(_: FakeEngine) -> float:
        seen.add(gc.isenabled())
        return 1.0

    assert gc.isenabled()
    _measure(lab, lab.engine("ref", cost), windows=2)
    assert seen == {False}
    assert gc.isenabled()

    def broken(_: FakeEngine) -> float:
        raise RuntimeError("engine fell over")

    with pytest.raises(RuntimeError, match="fell over"):
        _measure(lab, lab.engine("ref", broken), windows=2)
    assert gc.isenabled()


def test_collection_stays_off_for_a_caller_who_turned_it_off() -> None:
    lab = Lab()
    gc.disable()
    try:
        _measure(lab, lab.engine("ref", 1.0), windows=2)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_unknown_reference_and_missing_feeds() -> None:
    lab = Lab()
    with pytest.raises(ValueError, match="'other' is not among the engines: ref"):
        _measure(lab, lab.engine("ref", 1.0), reference="other")
    with pytest.raises(ValueError, match="no feeds for ref"):
        measure({"ref": lab.engine("ref", 1.0)}, {}, reference="ref", clock=lab.clock)
    assert lab.log == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("windows", 1),
        ("min_runs", 0),
        ("max_runs", 4),
        ("settle_runs", -1),
        ("warmup_runs", 0),
        ("max_warmups", 1),
        ("max_repeats", -1),
        ("windows", 2.0),
        ("window_ms", 0),
        ("warmup_tolerance", 0.0),
        ("drift_tolerance", -0.1),
    ],
)
def test_impossible_plans_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        MeasurePlan(**{name: value})  # type: ignore[arg-type]
