"""What was timed, under which conditions: raw samples in time order; every derived number is a property."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.target import Shape

WINDOW_QUANTILE = 0.25
"""What stands for a window where engines are compared.

Compared on 16 engines (0.3 to 2 ms, bf16, 1 and 2 threads of 2), calm and with one or two processes beside that
multiply matrices. Calm, all quantiles up to the median repeat within about 1 %. On a full machine those up to 0.25
rank engines as on a calm one (Spearman 0.98 to 0.997); the median breaks down where two neighbours leave an engine of
two threads half of its time (0.89, single engines wrong by a factor of 2), the upper quartile already with one (0.85).
Smaller quantiles gain nothing, flatter engines that jitter by themselves, and of the few runs of a slow engine are its
minimum. What no estimator removes: when neighbours take memory bandwidth for a while, large engines slow down more than
small ones, and ratios to one reference move by about 5 %.
"""

_RESAMPLES = 1000
_SEED = 20240229  # any fixed number: the same samples always give the same interval


@dataclass(frozen=True, kw_only=True)
class LatencyReport:
    """The measurement of one compiled engine.

    `samples_ms` are single inferences in time order, cut into `windows` of these sizes, each run in one go.
    `reference_samples_ms`, cut by `reference_windows`, are the reference engine's runs just before and after
    the window of the same index. `repeated_windows` were thrown away because the reference drifted;
    `disturbed_windows` drifted too, but the bound on repeats was reached and they are kept. `target` and
    `reference` are labels, `environment` is an `environment_id`. `conditions` is plain data: what
    `runtime.environment.conditions` says, and `preemptions`, how often others took a CPU meanwhile. Reports written
    before there were conditions have none.
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
    conditions: Mapping[str, Any] = field(default_factory=dict, hash=False)

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
        if not isinstance(self.conditions, Mapping):
            raise ValueError(f"conditions is an object, got {type(self.conditions).__name__}")

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
        return _interval(_medians_of_resamples(self._samples, self.windows))

    @cached_property
    def ratio_to_reference(self) -> float:
        """Median over windows of (the window's lower quartile / its reference's): the machine's mood cancels out."""
        return float(np.median(self._ratios))

    @cached_property
    def ratio_ci(self) -> tuple[float, float]:
        """95 % interval of `ratio_to_reference`: percentile bootstrap over windows, seeded.

        A single window says nothing about drift: the interval then spans the ratios of its extreme samples.
        """
        if len(self.windows) == 1:
            beside = self.reference_samples_ms
            return min(self.samples_ms) / max(beside), max(self.samples_ms) / min(beside)
        ratios = self._ratios
        picks = np.random.default_rng(_SEED).integers(len(ratios), size=(_RESAMPLES, len(ratios)))
        return _interval(np.median(ratios[picks], axis=1))

    @property
    def _ratios(self) -> NDArray[np.float64]:
        """One per window."""
        mine = _quantiles(self._samples, self.windows)
        return mine / _quantiles(np.asarray(self.reference_samples_ms), self.reference_windows)

    @cached_property
    def _samples(self) -> NDArray[np.float64]:
        return np.asarray(self.samples_ms, dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back. Derived numbers are not in it."""
        plain: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            plain[entry.name] = list(value) if isinstance(value, tuple) else value
        plain["conditions"] = dict(self.conditions)
        plain["shape"] = self.shape.to_json()
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencyReport:
        """Raises `ValueError` where a field is missing, unknown or out of range; only `conditions` may be missing."""
        names = {entry.name for entry in fields(cls)}
        if wrong := sorted((names ^ set(data)) - ({"conditions"} - set(data))):
            raise ValueError(f"a latency report has {', '.join(sorted(names))}; missing or unknown: {', '.join(wrong)}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        values["shape"] = Shape.from_json(data["shape"])
        return cls(**values)


def _check_samples(name: str, samples: Sequence[float], windows_name: str, windows: Sequence[int]) -> None:
    if not samples:
        raise ValueError(f"{name} is empty: a latency that was not measured is not reported")
    values = np.asarray(samples, dtype=np.float64)
    if not (good := np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"{name} are positive milliseconds, got {samples[int(np.argmin(good))]!r}")
    if any(type(size) is not int or size < 1 for size in windows) or sum(windows) != len(samples):
        raise ValueError(f"{windows_name} must add up to the {len(samples)} {name}, got {list(windows)}")


def _quantiles(samples: NDArray[np.float64], windows: Sequence[int]) -> NDArray[np.float64]:
    """Of each window."""
    parts = np.split(samples, np.cumsum(windows)[:-1])
    return np.array([np.quantile(part, WINDOW_QUANTILE) for part in parts])


def _interval(resamples: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(resamples, (0.025, 0.975))
    return float(low), float(high)


def _medians_of_resamples(samples: NDArray[np.float64], windows: Sequence[int]) -> NDArray[np.float64]:
    """The medians of `_RESAMPLES` times as many windows, drawn with replacement, their samples pooled.

    No sample is moved: with all of them sorted once, how many of a resample come before a place is a sum over windows,
    and the place of the median is found for all resamples at once by halving.
    """
    count = len(windows)
    order = np.argsort(samples)
    before = np.zeros((len(samples) + 1, count))  # [place, window]: samples of the window up to the place
    before[np.arange(1, len(samples) + 1), np.repeat(np.arange(count), windows)[order]] = 1
    np.cumsum(before, axis=0, out=before)
    times = np.random.default_rng(_SEED).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    totals = times @ np.asarray(windows)

    def sample_of_rank(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        low, high = np.zeros(_RESAMPLES, dtype=np.int64), np.full(_RESAMPLES, len(samples))
        while (low < high - 1).any():
            middle = (low + high) // 2
            enough = np.einsum("rw,rw->r", before[middle], times) >= ranks
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        found: NDArray[np.float64] = samples[order[high - 1]]
        return found

    return (sample_of_rank((totals + 1) // 2) + sample_of_rank(totals // 2 + 1)) / 2
