from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from runtime.buckets import choose_buckets
from runtime.engine import EngineBase, backend
from runtime.length_cost import LengthCost, full_feeds, grid, measure_length_cost
from runtime.measure import MeasurePlan
from runtime.target import EngineTarget, Shape
from runtime.tensors import TensorSpec

PLAN = MeasurePlan(windows=4, window_ms=5, min_runs=2)


class Lab:
    """Engines that take a tenth of a millisecond per token, on a clock that they alone move."""

    def __init__(self, busy_from: int = 10**9, change_ms: float = 0.0) -> None:
        self.now_ms = 0.0
        self.change_ms = change_ms
        self.runs = 0
        self.busy_from = busy_from
        self.order: list[int] = []
        self.closed: list[int] = []

    def clock(self) -> int:
        return round(self.now_ms * 1e6)

    def open(self, length: int) -> LabEngine:
        return LabEngine(self, length)


class LabEngine(EngineBase):
    effective_precision = "f32"

    def __init__(self, lab: Lab, length: int) -> None:
        self.lab, self.length = lab, length
        self.target = EngineTarget(backend="lab", shape=Shape(batch=2, length=length))
        self.inputs = tuple(
            TensorSpec(name=name, dtype="int64", shape=(2, length))
            for name in ("input_ids", "token_type_ids", "attention_mask")
        )

    def infer(self, feeds: Any) -> dict[str, Any]:
        assert {x.shape for x in feeds.values()} == {(2, self.length)}
        assert feeds["attention_mask"].all()
        self.lab.runs += 1
        if self.lab.order[-1:] not in ([], [self.length]):
            self.lab.now_ms += self.lab.change_ms
        self.lab.order.append(self.length)
        self.lab.now_ms += self.length / 10 * (3 if self.lab.runs >= self.lab.busy_from else 1)
        return {}

    def close(self) -> None:
        self.lab.closed.append(self.length)


def test_each_length_gets_its_time_and_every_engine_is_closed() -> None:
    lab = Lab()
    cost = measure_length_cost(lab.open, [32, 8, 16, 8], plan=PLAN, clock=lab.clock)
    assert cost.lengths == (8, 16, 32)
    assert cost.measured_ms == pytest.approx((0.8, 1.6, 3.2))
    assert sorted(lab.closed) == [8, 16, 32]


def test_what_a_change_to_another_length_takes_is_measured_beside_them() -> None:
    lab = Lab(change_ms=0.25)
    cost = measure_length_cost(lab.open, [8, 16, 32], plan=PLAN, clock=lab.clock)
    assert cost.change_ms == pytest.approx(0.25)
    assert LengthCost.from_json(cost.to_json()) == cost
    for lengths in ([8, 16, 32], [8]):
        plain = Lab()
        assert measure_length_cost(plain.open, lengths, plan=PLAN, clock=plain.clock).change_ms == 0
    with pytest.raises(ValueError, match="change_ms"):
        LengthCost(lengths=(8,), measured_ms=(1.0,), change_ms=-0.1)


@pytest.mark.parametrize("share", [0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65])
def test_a_machine_that_turns_slow_on_the_way_changes_no_ratio(share: float) -> None:
    runs = Lab()
    measure_length_cost(runs.open, [8, 16, 32], plan=PLAN, clock=runs.clock)
    lab = Lab(busy_from=round(runs.runs * share))
    cost = measure_length_cost(lab.open, [8, 16, 32], plan=PLAN, clock=lab.clock)
    ratios = np.array(cost.measured_ms) / cost.measured_ms[0]
    assert ratios == pytest.approx([1, 2, 4], rel=0.05)


def test_what_fails_leaves_no_engine_open() -> None:
    lab = Lab()

    def failing(length: int) -> LabEngine:
        if length == 32:
            raise RuntimeError("does not compile")
        return lab.open(length)

    with pytest.raises(RuntimeError, match="does not compile"):
        measure_length_cost(failing, [8, 16, 32], plan=PLAN, clock=lab.clock)
    assert sorted(lab.closed) == [8, 16]
    with pytest.raises(ValueError, match="no lengths"):
        measure_length_cost(lab.open, [], plan=PLAN)


def test_real_engines_lead_to_real_buckets(tiny: Any) -> None:
    pytest.importorskip("onnxruntime")
    at = backend("onnxruntime")

    def opened(length: int) -> Any:
        return at.open(tiny.onnx, EngineTarget(backend="onnxruntime", shape=Shape(batch=1, length=length)))

    cost = measure_length_cost(opened, grid(24), plan=MeasurePlan(windows=2, window_ms=1))
    assert cost.lengths == (8, 16, 24)
    assert choose_buckets([4, 12, 20], cost, max_length=24).lengths[-1] == 24


def test_between_lengths_the_cost_is_straight_and_never_falls() -> None:
    cost = LengthCost(lengths=(8, 16, 32), measured_ms=(1.0, 2.0, 6.0))
    assert [cost(x) for x in (1, 8, 12, 16, 24, 32)] == pytest.approx([1.0, 1.0, 1.5, 2.0, 4.0, 6.0])
    noisy = LengthCost(lengths=(8, 16, 24, 32, 48), measured_ms=(1.0, 3.0, 2.0, 1.0, 5.0))
    assert [noisy(x) for x in (8, 16, 24, 32, 48)] == pytest.approx([1.0, 2.0, 2.0, 2.0, 5.0])
    rng = np.random.default_rng(3)
    for _ in range(50):
        times = rng.uniform(1, 9, size=6)
        found = LengthCost(lengths=(1, 3, 7, 20, 21, 40), measured_ms=tuple(times))
        values = [found(x) for x in range(1, 41)]
        assert values == sorted(values)
        assert sum(found(x) for x in found.lengths) == pytest.approx(times.sum())


def test_beyond_the_longest_nothing_is_known() -> None:
    with pytest.raises(ValueError, match="up to 8, got 9"):
        LengthCost(lengths=(8,), measured_ms=(1.0,))(9)


@pytest.mark.parametrize(
    ("longest", "lengths"),
    [
        (1, (1,)),
        (8, (8,)),
        (20, (8, 16, 20)),
        (64, (8, 16, 24, 32, 48, 64)),
        (128, (8, 16, 24, 32, 48, 64, 96, 128)),
        (300, (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 300)),
    ],
)
def test_the_grid_ends_with_the_longest(longest: int, lengths: tuple[int, ...]) -> None:
    assert grid(longest) == lengths


def test_json_round_trip_and_what_is_refused() -> None:
    cost = LengthCost(lengths=(8, 16), measured_ms=(1.0, 2.0))
    assert LengthCost.from_json(json.loads(json.dumps(cost.to_json()))) == cost
    bad: list[tuple[Any, Any]] = [((), ()), ((8,), (1.0, 2.0)), ((16, 8), (1.0, 2.0)), ((0,), (1.0,)), ((8,), (0.0,))]
    for lengths, times in bad:
        with pytest.raises(ValueError, match=r"length|measured_ms"):
            LengthCost(lengths=lengths, measured_ms=times)
    with pytest.raises(ValueError, match="lengths, measured_ms and change_ms; got lengths"):
        LengthCost.from_json({"lengths": [8]})
    with pytest.raises(ValueError, match="max_length"):
        grid(0)


def test_full_feeds_are_small_ids_without_padding() -> None:
    feeds = full_feeds(Lab().open(40))
    assert feeds["input_ids"].shape == (2, 40)
    assert 1 < feeds["input_ids"].min() < feeds["input_ids"].max() < 40
    assert not feeds["token_type_ids"].any()
