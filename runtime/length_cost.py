"""What one inference costs by length, measured here: the cost that `runtime.buckets` weighs texts with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engine import Engine, Feeds
from runtime.measure import Clock, MeasurePlan, measure

PLAN = MeasurePlan(windows=6)
"""Costs are compared with one another, not reported: fewer windows than for a `LatencyReport` that is."""

_ROUNDS = 50
_FIRST = (8, 16, 24, 32, 48, 64)


@dataclass(frozen=True, kw_only=True)
class LengthCost:
    """`cost(length)` in milliseconds, from measured lengths (ascending): never falling, straight between them.

    Where a longer one was measured as quicker, both get their mean (pool adjacent violators: Ayer et al. 1955), so that
    noise is no reason to prefer a length. Shorter ones than the first cost what the first costs. `change_ms` is what an
    inference takes more where the one before was of another length.
    """

    lengths: tuple[int, ...]
    measured_ms: tuple[float, ...]
    change_ms: float = 0.0

    def __post_init__(self) -> None:
        if not self.lengths or len(self.lengths) != len(self.measured_ms):
            raise ValueError(f"each length has its time, got {len(self.lengths)} and {len(self.measured_ms)}")
        if any(type(x) is not int or x < 1 for x in self.lengths) or list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"lengths are whole numbers that ascend and differ, got {self.lengths}")
        if wrong := [x for x in self.measured_ms if not (isfinite(x) and x > 0)]:
            raise ValueError(f"measured_ms are positive milliseconds, got {wrong[0]!r}")
        if not (isfinite(self.change_ms) and self.change_ms >= 0):
            raise ValueError(f"change_ms is 0 or more milliseconds, got {self.change_ms!r}")

    def __call__(self, length: int) -> float:
        """Raises `ValueError` beyond the longest measured length: nothing is known there."""
        if length > self.lengths[-1]:
            raise ValueError(f"lengths were measured up to {self.lengths[-1]}, got {length}: measure it as well")
        return float(np.interp(length, self.lengths, self._rising))

    @cached_property
    def _rising(self) -> NDArray[np.float64]:
        blocks: list[tuple[float, int]] = []  # mean, lengths in it
        for value in self.measured_ms:
            mean, size = value, 1
            while blocks and blocks[-1][0] > mean:
                other, many = blocks.pop()
                mean, size = (mean * size + other * many) / (size + many), size + many
            blocks.append((mean, size))
        return np.repeat([mean for mean, _ in blocks], [size for _, size in blocks])

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return {"lengths": list(self.lengths), "measured_ms": list(self.measured_ms), "change_ms": self.change_ms}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LengthCost:
        """Raises `ValueError` where a field is missing, unknown or impossible."""
        if set(data) - {"change_ms"} != {"lengths", "measured_ms"}:
            raise ValueError(f"a cost by length has lengths, measured_ms and change_ms; got {', '.join(sorted(data))}")
        times = tuple(data["measured_ms"])
        return cls(lengths=tuple(data["lengths"]), measured_ms=times, change_ms=data.get("change_ms", 0.0))


def grid(max_length: int) -> tuple[int, ...]:
    """Lengths to measure: 8, 16, 24, 32, 48, 64, 96, 128, 192, ... and `max_length`."""
    if type(max_length) is not int or max_length < 1:
        raise ValueError(f"max_length is a whole number of 1 or more, got {max_length!r}")
    found = [x for x in _FIRST if x < max_length]
    power = _FIRST[-1]
    while power < max_length:
        found += [x for x in (power * 3 // 2, power * 2) if x < max_length]
        power *= 2
    return (*found, max_length)


def full_feeds(engine: Engine) -> Feeds:
    """Rows of the target's whole shape without padding; the ids are small enough for any vocabulary."""
    dims = engine.target.shape.dims
    ids = (np.arange(dims[0] * dims[1]).reshape(dims) % 31 + 2).astype(np.int64)
    values = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {x.name: values.get(x.name, np.zeros_like(ids)) for x in engine.inputs}


def measure_length_cost(
    open_engine: Callable[[int], Engine],
    lengths: Sequence[int],
    *,
    plan: MeasurePlan = PLAN,
    feeds: Callable[[Engine], Feeds] = full_feeds,
    clock: Clock = time.perf_counter_ns,
) -> LengthCost:
    """Opens an engine of each length, times them in one interleaved run, then asks them in turn, and closes them.

    The times are ratios to the middle length's engine, timed before and after each window, times its own usual time:
    a busy second is not mistaken for a long text. What an engine raises passes through. With tiny models it takes about
    a third of a second per length:

        target = EngineTarget(backend="openvino", precision="bf16", shape=Shape(batch=1, length=128))
        at = lambda length: replace(target, shape=Shape(batch=1, length=length))
        cost = measure_length_cost(lambda length: backend("openvino").open(onnx, at(length)), grid(128))
        lengths = [len(ids) for ids in texts]
        buckets = choose_buckets(lengths, cost, max_length=128, most=4, change_ms=cost.change_ms)
        targets = [at(length) for length in buckets.lengths]
    """
    ordered = sorted(set(lengths))
    if not ordered:
        raise ValueError("there are no lengths to measure")
    with ExitStack() as stack:
        engines = {str(length): stack.enter_context(open_engine(length)) for length in ordered}
        middle = str(ordered[len(ordered) // 2])
        fed = {name: feeds(engine) for name, engine in engines.items()}
        reports = measure(engines, fed, reference=middle, plan=plan, clock=clock)
        change_ms = _change_ms(engines, fed, clock)
    usual_ms = reports[middle].p50_ms
    times = [usual_ms * (1.0 if name == middle else reports[name].ratio_to_reference) for name in engines]
    return LengthCost(lengths=tuple(ordered), measured_ms=tuple(times), change_ms=change_ms)


def _change_ms(engines: Mapping[str, Engine], feeds: Mapping[str, Feeds], clock: Clock) -> float:
    """By how much an inference is slower in turn with the others than after itself: a median over rounds of both.

    A round asks every engine twice; the first call follows another engine's, the second its own.
    """
    if len(engines) == 1:
        return 0.0
    found = []
    for _ in range(_ROUNDS):
        slower = 0
        for name, engine in engines.items():
            begun = clock()
            engine.infer(feeds[name])
            between = clock()
            engine.infer(feeds[name])
            slower += (between - begun) - (clock() - between)
        found.append(slower / len(engines) / 1e6)
    return max(0.0, statistics.median(found))
