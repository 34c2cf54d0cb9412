"""A design with the numbers the search has about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from search.design import Design
from supernet.space import SubnetConfig

_Status = Literal["measured", "failed", "spared"]


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The measured time of one inference and its 95 % interval, milliseconds."""

    ms: float
    ci_ms: tuple[float, float]

    def __post_init__(self) -> None:
        _check(_is_number(self.ms) and self.ms > 0, f"a latency is a positive number of ms, got {self.ms!r}")
        good = len(self.ci_ms) == 2 and all(map(_is_number, self.ci_ms)) and 0 <= self.ci_ms[0] <= self.ci_ms[1]
        _check(good, f"ci_ms is a pair low <= high of milliseconds, got {self.ci_ms}")

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return {"ms": self.ms, "ci_ms": list(self.ci_ms)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Timing:
        """Raises `ValueError` where a field is missing, unknown or out of range."""
        _check(isinstance(data, Mapping) and set(data) == {"ms", "ci_ms"}, f"a timing has ms and ci_ms, got {data!r}")
        _check(isinstance(data["ci_ms"], list), f"ci_ms is a list, got {data['ci_ms']!r}")
        return cls(ms=data["ms"], ci_ms=tuple(data["ci_ms"]))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One evaluated design.

    `measured`: its engine was timed on every target (`latencies`, in the targets' order). `accuracy` (higher is
    better) is of `rows` rows; None where an engine was so far over its constraint that it was not asked for. Where
    the race was stopped early the candidate is not `complete`: its accuracy is of the first rows only, and it
    stands on no front. `failed`: `reason` says why, and there are no numbers. `spared`: its accuracy was asked first,
    and somebody is as accurate and as fast as it could be at best: no engine was built, there is no latency.
    `predicted_ms` is what the latency model had guessed before; `seconds` where the time went.
    """

    design: Design
    flops: int
    latencies: tuple[Timing, ...] = ()
    accuracy: float | None = None
    rows: int = 0
    complete: bool = True
    model_bytes: int | None = None
    generation: int = 0
    predicted_ms: tuple[float, ...] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    status: _Status = "measured"
    reason: str | None = None

    def __post_init__(self) -> None:
        statuses = get_args(_Status)
        _check(self.status in statuses, f"status is {', '.join(statuses)}, got {self.status!r}")
        for name in ("flops", "rows", "generation"):
            value = getattr(self, name)
            _check(type(value) is int and value >= 0, f"{name} is a count, got {value!r}")
        if self.status == "failed":
            numbers = (self.accuracy, self.latencies)
            _check(numbers == (None, ()), f"a failed candidate has no numbers, got {numbers}")
            _check(bool(self.reason), "a failed candidate says its reason")
            return
        _check(self.reason is None, f"only a failed candidate has a reason, got {self.reason!r}")
        targets = len(self.design.precisions) if self.is_measured else 0
        _check(
            len(self.latencies) == targets,
            f"one latency for each of {targets} engines timed, got {len(self.latencies)}",
        )
        unasked = self.accuracy is None and self.is_measured
        _check(unasked or _is_number(self.accuracy), f"accuracy is a number, got {self.accuracy!r}")
        _check(
            self.model_bytes is None or (type(self.model_bytes) is int and self.model_bytes > 0),
            f"model_bytes is a size, got {self.model_bytes!r}",
        )

    @property
    def subnet(self) -> SubnetConfig:
        """The design's architecture."""
        return self.design.subnet

    @property
    def is_measured(self) -> bool:
        """Whether its engines were timed."""
        return self.status == "measured"

    @property
    def has_failed(self) -> bool:
        """Whether it could not be built, verified, timed or asked."""
        return self.status == "failed"

    @property
    def is_scored(self) -> bool:
        """Whether it has all its numbers, so that it may stand on a front."""
        return self.is_measured and self.accuracy is not None and self.complete

    @property
    def ms(self) -> tuple[float, ...]:
        """Latency on every target; empty where no engine was timed."""
        return tuple(x.ms for x in self.latencies)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back to an equal object."""
        plain: dict[str, Any] = {x.name: getattr(self, x.name) for x in fields(self)}
        plain["design"] = self.design.to_json()
        plain["latencies"] = [x.to_json() for x in self.latencies]
        plain["predicted_ms"] = None if self.predicted_ms is None else list(self.predicted_ms)
        plain["seconds"] = dict(self.seconds)
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        """Raises `ValueError` where a field is missing, unknown or not what it should be."""
        names = {x.name for x in fields(cls)}
        _check(isinstance(data, Mapping), f"a candidate is an object, got {type(data).__name__}")
        _check(set(data) == names, f"a candidate has {sorted(names)}, got {sorted(map(str, data))}")
        for name in ("latencies", "predicted_ms"):
            _check(
                isinstance(data[name], list) or (name == "predicted_ms" and data[name] is None),
                f"{name} is a list, got {data[name]!r:.200}",
            )
        _check(type(data["complete"]) is bool, f"complete is true or false, got {data['complete']!r}")
        _check(
            isinstance(data["seconds"], Mapping) and all(map(_is_number, data["seconds"].values())),
            f"seconds are numbers by name, got {data['seconds']!r:.200}",
        )
        predicted = data["predicted_ms"]
        _check(predicted is None or all(map(_is_number, predicted)), f"predicted_ms are numbers, got {predicted!r}")
        values = dict(data)
        values["design"] = Design.from_json(data["design"])
        values["latencies"] = tuple(Timing.from_json(x) for x in data["latencies"])
        values["predicted_ms"] = None if predicted is None else tuple(predicted)
        return cls(**values)
