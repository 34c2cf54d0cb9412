"""A subnet with the numbers the search has about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from supernet.space import SubnetConfig

_FIELDS = ("subnet", "accuracy", "latency_ms", "latency_ci_ms", "flops", "status", "reason")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One evaluated subnet.

    `measured`: its compiled engine was timed; `accuracy` (higher is better) is None where the engine was so
    far over the constraint that it was not asked for. `failed`: `reason` says why, and there are no numbers.
    """

    subnet: SubnetConfig
    accuracy: float | None = None
    latency_ms: float | None = None
    latency_ci_ms: tuple[float, float] | None = None
    flops: int
    status: Literal["measured", "failed"] = "measured"
    reason: str | None = None

    def __post_init__(self) -> None:
        _check(self.status in {"measured", "failed"}, f"status is measured or failed, got {self.status!r}")
        _check(type(self.flops) is int and self.flops >= 0, f"flops is a count, got {self.flops!r}")
        if self.status == "failed":
            numbers = (self.accuracy, self.latency_ms, self.latency_ci_ms)
            _check(numbers == (None, None, None), f"a failed candidate has no numbers, got {numbers}")
            _check(bool(self.reason), "a failed candidate says its reason")
            return
        _check(self.reason is None, f"a measured candidate has no reason, got {self.reason!r}")
        _check(
            _is_number(self.latency_ms) and (self.latency_ms or 0) > 0,
            f"latency_ms is a positive number, got {self.latency_ms!r}",
        )
        low_high = self.latency_ci_ms
        _check(
            low_high is None
            or (len(low_high) == 2 and all(map(_is_number, low_high)) and 0 <= low_high[0] <= low_high[1]),
            f"latency_ci_ms is a pair low <= high of milliseconds, got {low_high}",
        )
        _check(self.accuracy is None or _is_number(self.accuracy), f"accuracy is a number, got {self.accuracy!r}")

    @property
    def is_measured(self) -> bool:
        """Whether its engine was timed."""
        return self.status == "measured"

    @property
    def point(self) -> tuple[float, float] | None:
        """(accuracy, latency_ms) where both are known."""
        if self.accuracy is None or self.latency_ms is None:
            return None
        return self.accuracy, self.latency_ms

    def fits(self, constraint_ms: float) -> bool:
        """Whether its engine was timed and takes at most `constraint_ms`."""
        return self.latency_ms is not None and self.latency_ms <= constraint_ms

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back to an equal object."""
        return {
            "subnet": self.subnet.to_json(),
            "accuracy": self.accuracy,
            "latency_ms": self.latency_ms,
            "latency_ci_ms": None if self.latency_ci_ms is None else list(self.latency_ci_ms),
            "flops": self.flops,
            "status": self.status,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        """Raises `ValueError` where a field is missing, unknown or not what it should be."""
        _check(isinstance(data, Mapping), f"a candidate is an object, got {type(data).__name__}")
        _check(set(data) == set(_FIELDS), f"a candidate has {sorted(_FIELDS)}, got {sorted(data)}")
        interval = data["latency_ci_ms"]
        _check(interval is None or isinstance(interval, list), f"latency_ci_ms is a list, got {interval!r}")
        return cls(
            subnet=SubnetConfig.from_json(data["subnet"]),
            accuracy=data["accuracy"],
            latency_ms=data["latency_ms"],
            latency_ci_ms=None if interval is None else tuple(interval),
            flops=data["flops"],
            status=data["status"],
            reason=data["reason"],
        )
