"""What a search wants: accurate, fast enough on every target, and small where size counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from search.candidate import Candidate


@dataclass(frozen=True, kw_only=True)
class Goals:
    """Limits and objectives.

    `constraints_ms` holds each target's limit, in the targets' order; a target without one (None) is an objective
    only. Latencies below `focus` x the limit count as equal to it: being faster than that buys nothing, so the
    search spends its engines on the feasible side close to the limit. With `small` the bytes of the model count.
    """

    constraints_ms: tuple[float | None, ...]
    focus: float = 0.5
    small: bool = False

    def __post_init__(self) -> None:
        if not self.constraints_ms:
            raise ValueError("a search has at least one target")
        for limit in self.constraints_ms:
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise ValueError(f"a constraint is a positive number of ms or None, got {limit}")
        if not 0 <= self.focus < 1:
            raise ValueError(f"focus must lie in [0, 1), got {self.focus}")

    def violation(self, ms: Sequence[float]) -> float:
        """How far latencies exceed their limits, as the sum of the fractions; 0 where all are met."""
        pairs = zip(ms, self.constraints_ms, strict=True)
        return sum(max(0.0, value / limit - 1.0) for value, limit in pairs if limit is not None)

    def fits(self, candidate: Candidate) -> bool:
        """Whether its engines were timed and meet every limit."""
        return candidate.is_measured and self.violation(candidate.ms) == 0.0

    def load(self, ms: Sequence[float]) -> float:
        """The largest share of a limit that is used: at most 1 where all are met. Unlimited targets do not count."""
        pairs = zip(ms, self.constraints_ms, strict=True)
        return max((value / limit for value, limit in pairs if limit is not None), default=0.0)

    def objectives(self, candidate: Candidate) -> tuple[float, ...]:
        """What is made small: accuracy negated, each latency (clipped by `focus`), and the bytes where they count."""
        if candidate.accuracy is None:
            raise ValueError(f"only a scored candidate has objectives, {candidate.design} is not")
        pairs = zip(candidate.ms, self.constraints_ms, strict=True)
        clipped = (ms if limit is None else max(ms, self.focus * limit) for ms, limit in pairs)
        size = (float(candidate.model_bytes or 0),) if self.small else ()
        return (-candidate.accuracy, *clipped, *size)
