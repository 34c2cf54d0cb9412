"""What a search hands out to be done, and what comes back: plain values, so that any machine can do it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from runtime.target import EngineTarget
from search.store import EngineKey
from supernet.space import SubnetConfig


@dataclass(frozen=True, kw_only=True)
class MeasureJob:
    """Build, verify and time one engine. Without `subnet` it is the reference, which every other is timed beside.

    `reference` is the target of the reference's engine, `reference_ms` its calm time; None where it is measured now.
    `hardware` is the machine the numbers must come from (`runtime.environment.hardware_id`); None where any will do.
    """

    subnet: SubnetConfig | None
    target: EngineTarget
    reference: EngineTarget
    reference_ms: float | None = None
    hardware: str | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A timed engine: `ms` and its 95 % interval on the scale of a calm machine, and the raw report."""

    key: EngineKey
    ms: float
    ci_ms: tuple[float, float]
    model_bytes: int
    report: Mapping[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    """Ask the inherited weights of a subnet on the search's rows.

    With `quantised` the weights are those of the int8 engine of that target. `rival`, a bitmap of the rows that a
    better candidate got right, ends the race as soon as this one is surely worse.
    """

    subnet: SubnetConfig
    quantised: EngineTarget | None = None
    rival: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """`accuracy` over the first `rows` rows; `correct` is a bitmap of them (bit i % 8 of byte i // 8)."""

    accuracy: float
    rows: int
    complete: bool
    correct: bytes | None
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why a job came to nothing. What is not `lasting` (a lost worker, a time limit) may be tried again."""

    reason: str
    lasting: bool = True


class Executor(Protocol):
    """Does jobs somewhere and yields what came of them, in the jobs' order."""

    def measure(self, jobs: Sequence[MeasureJob]) -> Iterator[Measured | Failed]:
        """One at a time on each device."""
        ...

    def score(self, jobs: Sequence[ScoreJob]) -> Iterator[Scored | Failed]:
        """Anywhere."""
        ...

    def close(self) -> None:
        """Frees what it holds; may be called twice."""
        ...
