"""Which sizes a target's tiles like, found by measurement: the multiples of the `aligned` space.

A matrix product is computed in tiles; where a size is no multiple of a tile's edge, the last tile is paid for in full
or goes through slower code. So of each dimension a small net is built in all sizes of one period of 64, in steps of 4,
its engines are timed side by side, and the multiple is taken whose staircase (a line over the size rounded up to it)
foretells an engine best that it was not fitted to.

A ragged size often costs even more than the next full one; nobody would choose it, so before staircases are fitted the
times are made never to fall. On an AVX-512 CPU with bf16 that cut the error of the best staircase to a third, and
hidden sizes came out at 16 in ten measurements of ten, where they had been 8 or 16 as chance had it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atb_export.onnx.graph import graph_bytes
from runtime.engine import Engine, backend
from runtime.environment import environment, hardware_id, runtime_version
from runtime.measure import Clock, MeasurePlan, measure
from runtime.target import EngineTarget
from supernet.facts import ModelFacts
from supernet.model import Supernet
from supernet.subnet import LayerConfig, SubnetConfig

MULTIPLES = (4, 8, 16, 32, 64)
PLAN = MeasurePlan(windows=12, window_ms=8.0, max_repeats=12)
_STEP, _PERIOD = 4, 64
# The smallest sizes: so that every step within the period has all its sizes, and the one step of 64 is in the middle.
_FIRST = {"hidden_sizes": 100, "head_sizes": 36, "ffn_sizes": 100}

Progress = Callable[[int, int, str], None]
"""Done, of how many, and what is being done."""


@dataclass(frozen=True, kw_only=True)
class Staircase:
    """The evidence for one dimension, named as in `SearchSpace`: milliseconds by size.

    `noise` is how uncertain the times are: the root mean square of their relative standard errors.
    """

    dimension: str
    sizes: tuple[int, ...]
    ms: tuple[float, ...]
    noise: float

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.ms) or len(set(self.sizes)) < 4 or list(self.sizes) != sorted(self.sizes):
            raise ValueError(f"a staircase is at least 4 ascending sizes, each with its ms; got {self.sizes}")
        if any(not (math.isfinite(x) and x > 0) for x in self.ms) or not (
            math.isfinite(self.noise) and self.noise >= 0
        ):
            raise ValueError(f"times are positive milliseconds and noise is a fraction, got {self.ms}, {self.noise}")

    @cached_property
    def errors(self) -> Mapping[int, float]:
        """By multiple, how far the staircase through all other sizes misses a size: root mean square over sizes,
        as a fraction of the mean time."""
        rising = _never_falling(self.ms)
        return {multiple: _left_out(self.sizes, rising, multiple) for multiple in MULTIPLES}

    @property
    def multiple(self) -> int:
        """The smallest multiple that cannot be told from the best.

        Beyond the noise of the times, a tenth of the error is allowed: staircases are not all there is to a latency,
        and in two measurements of one target, multiples closer than that change places.
        """
        best = min(self.errors.values())
        allowed = max(math.hypot(best, self.noise), 1.1 * best)
        return min(multiple for multiple, error in self.errors.items() if error <= allowed)

    def to_json(self) -> dict[str, Any]:
        """Plain data without derived numbers; `from_json` reads it back."""
        return {
            "dimension": self.dimension,
            "sizes": list(self.sizes),
            "ms": list(self.ms),
            "noise": self.noise,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Staircase:
        """Raises `ValueError`, `KeyError` or `TypeError` where it is not one."""
        return cls(dimension=data["dimension"], sizes=tuple(data["sizes"]), ms=tuple(data["ms"]), noise=data["noise"])


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """What was found for one target on one machine with one version of its runtime."""

    target: EngineTarget
    effective_precision: str
    hardware: str
    runtime: str
    staircases: tuple[Staircase, ...]

    @property
    def multiples(self) -> dict[str, int]:
        """By dimension, as `supernet.presets.aligned` takes them."""
        return {x.dimension: x.multiple for x in self.staircases}

    def holds_for(self, target: EngineTarget) -> bool:
        """Whether it was measured on such a target, on this machine and with the runtime that is installed."""
        here = (target, hardware_id(environment()), runtime_version(target.backend))
        return here == (self.target, self.hardware, self.runtime)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return {
            "target": self.target.to_json(),
            "effective_precision": self.effective_precision,
            "hardware": self.hardware,
            "runtime": self.runtime,
            "staircases": [x.to_json() for x in self.staircases],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Alignment:
        """Raises `ValueError`, `KeyError` or `TypeError` where it is not one."""
        return cls(
            target=EngineTarget.from_json(data["target"]),
            effective_precision=data["effective_precision"],
            hardware=data["hardware"],
            runtime=data["runtime"],
            staircases=tuple(Staircase.from_json(x) for x in data["staircases"]),
        )


def _never_falling(ms: Sequence[float]) -> NDArray[np.float64]:
    """The nearest sequence that never falls: neighbours in the wrong order become their mean (isotonic regression)."""
    blocks: list[tuple[float, int]] = []
    for value in ms:
        mean, count = value, 1
        while blocks and blocks[-1][0] >= mean:
            before, many = blocks.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        blocks.append((mean, count))
    return np.array([mean for mean, count in blocks for _ in range(count)])


def _left_out(sizes: Sequence[int], y: NDArray[np.float64], multiple: int) -> float:
    x = np.array([-(-size // multiple) * multiple for size in sizes], dtype=np.float64)
    missed = []
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        dx, dy = x[rest] - x[rest].mean(), y[rest] - y[rest].mean()
        slope = (dx @ dy) / (dx @ dx) if dx.any() else 0.0
        missed.append(y[i] - y[rest].mean() - slope * (x[i] - x[rest].mean()))
    return float(np.sqrt(np.mean(np.square(missed))) / y.mean())


def sized(dimension: str, size: int) -> SubnetConfig:
    """A net of three layers most of whose time goes where that dimension counts.

    Five heads, an odd number: heads of 4 dims are not to fill tiles together that they do not fill alone.
    """
    if dimension == "hidden_sizes":
        hidden, heads, head_size, ffn_size, stack = size, 4, 32, 256, 1
    elif dimension == "head_sizes":
        hidden, heads, head_size, ffn_size, stack = 128, 5, size, 64, 1
    elif dimension == "ffn_sizes":
        hidden, heads, head_size, ffn_size, stack = 128, 1, 32, size, 4
    else:
        raise ValueError(f"multiples are found for {', '.join(_FIRST)}; got {dimension!r}")
    layers = (
        LayerConfig(source=i, heads=heads, head_size=head_size, ffn_size=ffn_size, ffn_stack=stack) for i in range(3)
    )
    return SubnetConfig(hidden_size=hidden, layers=tuple(layers))


def build_engine(subnet: SubnetConfig, target: EngineTarget) -> Engine:
    """An engine of that shape; latency does not depend on weights, so they are random."""
    facts = ModelFacts(vocab_size=64, max_position_embeddings=target.shape.length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Supernet(shape=subnet, facts=facts).eval()
    return backend(target.backend).open(graph_bytes(net), target)


def find_multiples(
    target: EngineTarget,
    *,
    progress: Progress,
    dimensions: Sequence[str] = tuple(_FIRST),
    plan: MeasurePlan = PLAN,
    build: Callable[[SubnetConfig, EngineTarget], Engine] = build_engine,
    clock: Clock = time.perf_counter_ns,
) -> Alignment:
    """Builds and times 17 engines and a reference for each dimension; about 20 seconds on a CPU.

    `dimensions` are of `hidden_sizes`, `head_sizes` and `ffn_sizes`. Raises `AtbRuntimeError` where an engine cannot be
    built. int8 targets take quantised models, which these nets are not: ask for the float precision beside it.
    """
    if target.precision == "int8":
        raise ValueError("multiples are found in float precisions; a target in int8 has those of its f32 or bf16")
    total = len(dimensions) * (_PERIOD // _STEP + 2)
    done, staircases, precision = 0, [], ""
    for dimension in dimensions:
        sizes = tuple(range(_FIRST[dimension], _FIRST[dimension] + _PERIOD + 1, _STEP))
        engines: dict[str, Engine] = {}
        try:
            for size in (*sizes, None):
                progress(done, total, f"{dimension} {size or 'timed'}")
                done += 1
                engines[str(size or "reference")] = build(sized(dimension, size or sizes[len(sizes) // 2]), target)
            precision = engines["reference"].effective_precision
            staircases.append(_timed(dimension, sizes, engines, plan, clock))
        finally:
            for engine in engines.values():
                engine.close()
    progress(total, total, "done")
    return Alignment(
        target=target,
        effective_precision=precision,
        hardware=hardware_id(environment()),
        runtime=runtime_version(target.backend),
        staircases=tuple(staircases),
    )


def _timed(
    dimension: str, sizes: tuple[int, ...], engines: Mapping[str, Engine], plan: MeasurePlan, clock: Clock
) -> Staircase:
    ones = np.ones(engines["reference"].target.shape.dims, dtype=np.int64)
    feeds = {name: {x.name: ones for x in engine.inputs} for name, engine in engines.items()}
    reports = measure(engines, feeds, reference="reference", plan=plan, clock=clock)
    calm_ms = reports["reference"].p50_ms
    timed = [reports[str(size)] for size in sizes]
    errors = [(x.ratio_ci[1] - x.ratio_ci[0]) / (2 * 1.96) / x.ratio_to_reference for x in timed]
    return Staircase(
        dimension=dimension,
        sizes=sizes,
        ms=tuple(x.ratio_to_reference * calm_ms for x in timed),
        noise=float(np.sqrt(np.mean(np.square(errors)))),
    )
