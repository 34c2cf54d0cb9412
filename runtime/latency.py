"""What was timed, under which conditions: raw samples in time order; every derived number is a property."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.target import Shape

_RESAMPLES = 1000
_SEED = 20240229  # any fixed number: the same samples always give the same interval


@dataclass(frozen=True, kw_only=True)
class LatencyReport:
    """The measurement of one compiled engine.

    `samples_ms` are single inferences in time order, cut into `windows` of these sizes, each run in one go.
    `reference_samples_ms`, cut by `reference_windows`, are the reference engine's runs just before and after
    the window of the same index. `repeated_windows` were thrown away because the reference drifted;
    `disturbed_windows` drifted too, but the bound on repeats was reached and they are kept. `target` and
    `reference` are labels, `environment` is an `environment_id`.
    """

    target: str
    effective_precision: str
    shape: Shape
    threads: int
    samples_ms: tuple[float, ...]
    windows: tuple[int, ...]
    reference: str
    reference_samples_ms: tuple[float, ...]
    reference_windows: tuple[int, ...]
    warmup_runs: int
    repeated_windows: int
    disturbed_windows: int
    environment: str

    def __post_init__(self) -> None:
        _check_samples("samples_ms", self.samples_ms, "windows", self.windows)
        _check_samples("reference_samples_ms", self.reference_samples_ms, "reference_windows", self.reference_windows)
        if len(self.windows) != len(self.reference_windows):
            raise ValueError(
                f"each window has one beside it: got {len(self.windows)} and {len(self.reference_windows)}"
            )
        for name in ("warmup_runs", "repeated_windows", "disturbed_windows"):
            if type(value := getattr(self, name)) is not int or value < 0:
                raise ValueError(f"{name} is a count, got {value!r}")

    def quantile_ms(self, q: float) -> float:
        """The latency that a share `q` (0..1) of the inferences stayed within; linear between samples."""
        return float(np.quantile(self._samples, q))

    @property
    def p50_ms(self) -> float:
        """The median."""
        return self.quantile_ms(0.5)

    @property
    def p90_ms(self) -> float:
        """Nine in ten inferences took no longer."""
        return self.quantile_ms(0.9)

    @property
    def p99_ms(self) -> float:
        """Ninety-nine in a hundred inferences took no longer."""
        return self.quantile_ms(0.99)

    @property
    def mean_ms(self) -> float:
        """The arithmetic mean."""
        return float(self._samples.mean())

    @property
    def throughput_per_s(self) -> float:
        """Rows per second of one caller that sends the next batch when the last is answered."""
        return self.shape.batch * 1000.0 / self.mean_ms

    @cached_property
    def ci_ms(self) -> tuple[float, float]:
        """95 % interval of `p50_ms`: percentile bootstrap over whole windows (Efron 1979), seeded.

        Neighbouring inferences share their luck, windows much less, so windows are what is drawn again. A
        single window says nothing about drift: the interval is then the range of its samples.
        """
        if len(self.windows) == 1:
            return min(self.samples_ms), max(self.samples_ms)
        parts = _cut(self._samples, self.windows)
        rng = np.random.default_rng(_SEED)
        picks = rng.integers(len(parts), size=(_RESAMPLES, len(parts)))
        medians = [np.median(np.concatenate([parts[i] for i in pick])) for pick in picks]
        low, high = np.quantile(medians, (0.025, 0.975))
        return float(low), float(high)

    @property
    def ratio_to_reference(self) -> float:
        """Median over windows of (window's median / its reference's): the machine's mood cancels out."""
        mine = _cut(self._samples, self.windows)
        theirs = _cut(np.asarray(self.reference_samples_ms), self.reference_windows)
        return float(np.median([np.median(a) / np.median(b) for a, b in zip(mine, theirs, strict=True)]))

    @cached_property
    def _samples(self) -> NDArray[np.float64]:
        return np.asarray(self.samples_ms, dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back. Derived numbers are not in it."""
        plain: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            plain[field.name] = list(value) if isinstance(value, tuple) else value
        plain["shape"] = self.shape.to_json()
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencyReport:
        """Raises `ValueError` where a field is missing, unknown or out of range."""
        names = {field.name for field in fields(cls)}
        if set(data) != names:
            wrong = sorted(names ^ set(data))
            raise ValueError(f"a latency report has {', '.join(sorted(names))}; missing or unknown: {', '.join(wrong)}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        values["shape"] = Shape.from_json(data["shape"])
        return cls(**values)


def _check_samples(name: str, samples: Sequence[float], windows_name: str, windows: Sequence[int]) -> None:
    if not samples:
        raise ValueError(f"{name} is empty: a latency that was not measured is not reported")
    for value in samples:
        if not math.isfinite(value) or value <= 0:
            raise ValueError(f"{name} are positive milliseconds, got {value!r}")
    if any(type(size) is not int or size < 1 for size in windows) or sum(windows) != len(samples):
        raise ValueError(f"{windows_name} must add up to the {len(samples)} {name}, got {list(windows)}")


def _cut(samples: NDArray[np.float64], windows: Sequence[int]) -> list[NDArray[np.float64]]:
    return np.split(samples, np.cumsum(windows)[:-1])
