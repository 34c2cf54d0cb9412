"""Staircases that are known are recovered; engines whose cost is known are timed on a clock that they alone move."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from atb_export.alignment import MULTIPLES, Alignment, Staircase, find_multiples, sized
from runtime.engine import EngineBase
from runtime.measure import MeasurePlan
from runtime.target import EngineTarget, Shape
from supernet.presets import aligned, preset
from supernet.subnet import SubnetConfig

SIZES = tuple(range(100, 165, 4))
TARGET = EngineTarget(backend="openvino", precision="f32", shape=Shape(batch=1, length=16))


def up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def staircase(cost: Callable[[int], float], *, noise: float = 0.0, seed: int = 0) -> Staircase:
    rng = np.random.default_rng(seed)
    ms = tuple(cost(size) * (1 + noise * float(rng.normal())) for size in SIZES)
    return Staircase(dimension="ffn_sizes", sizes=SIZES, ms=ms, noise=noise)


@pytest.mark.parametrize("multiple", MULTIPLES)
@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_a_staircase_is_recovered(multiple: int, noise: float) -> None:
    for seed in range(5):
        found = staircase(lambda size: 0.3 + 0.002 * up(size, multiple), noise=noise, seed=seed)
        if noise == 0.0:
            assert found.errors[multiple] == pytest.approx(0, abs=1e-9)
        assert found.multiple == multiple


def test_where_noise_hides_the_steps_the_smallest_multiple_is_said() -> None:
    cost: Callable[[int], float] = lambda size: 1.0 + 0.0001 * up(size, 32)  # noqa: E731
    assert staircase(cost).multiple == 32
    assert staircase(cost, noise=0.03).multiple == 4


def test_a_penalty_for_ragged_sizes_is_seen_as_steps_too() -> None:
    """What tiles of 16 do in bf16: a ragged size costs more than the next full one."""
    for penalty in (0.02, 0.06, 0.1):
        found = staircase(lambda size, more=penalty: 0.4 + 0.003 * up(size, 16) + more * (size % 16 != 0), noise=0.002)
        assert found.multiple == 16


def test_one_time_that_is_off_does_not_decide() -> None:
    cost: Callable[[int], float] = lambda size: (0.3 + 0.002 * up(size, 16)) * (0.93 if size == 160 else 1.0)  # noqa: E731
    assert staircase(cost, noise=0.003).multiple <= 16


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sizes": (4, 8, 12)}, "at least 4 ascending sizes"),
        ({"sizes": (8, 4, 12, 16)}, "at least 4 ascending sizes"),
        ({"ms": (1.0, 1.0, 0.0, 1.0)}, "positive milliseconds"),
        ({"noise": float("nan")}, "noise is a fraction"),
    ],
)
def test_impossible_evidence_is_refused(changes: dict[str, Any], says: str) -> None:
    good = {"dimension": "ffn_sizes", "sizes": (4, 8, 12, 16), "ms": (1.0, 1.0, 1.0, 1.0), "noise": 0.01}
    Staircase(**good)
    with pytest.raises(ValueError, match=says):
        Staircase(**{**good, **changes})


class Machine:
    """A clock, and engines that pay for whole tiles of their own in each dimension."""

    tiles = {"hidden_sizes": 32, "head_sizes": 8, "ffn_sizes": 16}  # noqa: RUF012

    def __init__(self) -> None:
        self.now_ns = 0
        self.open = 0
        self.rng = np.random.default_rng(1)

    def clock(self) -> int:
        return self.now_ns

    def build(self, subnet: SubnetConfig, target: EngineTarget) -> Any:
        layer = subnet.layers[0]
        sizes = {"hidden_sizes": subnet.hidden_size, "head_sizes": layer.head_size, "ffn_sizes": layer.ffn_size}
        ms = 0.1 + sum(0.004 * up(size, self.tiles[name]) for name, size in sizes.items())
        machine = self
        machine.open += 1

        class Fake(EngineBase):
            effective_precision = "bf16"
            inputs = ()

            def infer(self, feeds: Any) -> dict[str, Any]:
                machine.now_ns += round(ms * 1e6 * machine.rng.normal(1.0, 0.01))
                return {}

            def close(self) -> None:
                machine.open -= 1

        engine = Fake()
        engine.target = target  # type: ignore[attr-defined]
        return engine


def test_the_tiles_of_a_machine_are_found() -> None:
    machine, steps = Machine(), []
    found = find_multiples(
        TARGET,
        progress=lambda *x: steps.append(x),
        build=machine.build,
        clock=machine.clock,
        plan=MeasurePlan(windows=6),
    )
    assert found.multiples == machine.tiles
    assert found.effective_precision == "bf16"
    assert machine.open == 0
    assert [done for done, _, _ in steps] == list(range(len(steps)))
    assert {total for _, total, _ in steps} == {len(steps) - 1}
    again = Alignment.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert again.holds_for(TARGET)
    assert not again.holds_for(EngineTarget(backend="openvino", precision="f32", shape=Shape(batch=1, length=17)))
    space = aligned(preset("per-layer"), found.multiples)
    assert space.hidden_sizes[:2] == (128, 160)
    assert space.head_sizes[:2] == (16, 24)


def test_engines_are_closed_where_one_cannot_be_built() -> None:
    machine = Machine()

    def build(subnet: SubnetConfig, target: EngineTarget) -> Any:
        if machine.open == 3:
            raise RuntimeError("no more memory")
        return machine.build(subnet, target)

    with pytest.raises(RuntimeError, match="no more memory"):
        find_multiples(TARGET, progress=lambda *_: None, build=build, clock=machine.clock)
    assert machine.open == 0


def test_a_size_changes_its_dimension_alone() -> None:
    for dimension, of in (
        ("hidden_sizes", lambda x: x.hidden_size),
        ("head_sizes", lambda x: x.layers[0].head_size),
        ("ffn_sizes", lambda x: x.layers[2].ffn_size),
    ):
        assert of(sized(dimension, 20)) == 20
        assert sized(dimension, 20) != sized(dimension, 24)
    with pytest.raises(ValueError, match="multiples are found for hidden_sizes"):
        sized("heads", 4)


def test_int8_is_refused() -> None:
    target = EngineTarget(backend="openvino", precision="int8", shape=Shape(batch=1, length=16))
    with pytest.raises(ValueError, match="float precisions"):
        find_multiples(target, progress=lambda *_: None)


def test_real_engines_are_timed_and_random_numbers_left_alone() -> None:
    state = torch.random.get_rng_state()
    plan = MeasurePlan(windows=2, window_ms=0.5, min_runs=2, max_repeats=0, warmup_runs=1, max_warmups=2)
    found = find_multiples(TARGET, progress=lambda *_: None, plan=plan, dimensions=["head_sizes"])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert set(found.multiples) == {"head_sizes"}
    assert set(found.multiples.values()) <= set(MULTIPLES)
    assert all(len(x.ms) == 17 and x.sizes[-1] - x.sizes[0] == 64 for x in found.staircases)
    assert found.effective_precision == "f32"
    assert found.runtime.startswith("openvino ")
