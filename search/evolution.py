"""The search: steady-state NSGA-II under a latency constraint, on engines measured in the loop.

Every decision is the `rng`'s and the measured numbers', so a search that is replayed from its record takes
the same path. Steady-state (each child competes as soon as it is measured), for budgets are tens of engines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol

from search.candidate import Candidate
from search.errors import CandidateFailed, NothingFits, RecordError
from search.front import front, pick
from search.plan import SearchPlan
from search.proposal import Proposer
from search.record import Record
from supernet.space import SearchSpace, SubnetConfig

__all__ = ["Latency", "Progress", "Result", "SearchPlan", "Stopped", "evolve"]

Stopped = Literal["engines", "exhausted", "duplicates", "failures"]
Progress = Callable[[int, int, str], None]


class Latency(Protocol):
    """What `latency(subnet)` returns: the time of one inference and its 95 % interval."""

    @property
    def ms(self) -> float:
        """Milliseconds of one inference."""
        ...

    @property
    def ci_ms(self) -> tuple[float, float]:
        """Low and high end, milliseconds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Result:
    """All evaluations in the order made, their front, the most accurate that fits, why the search ended."""

    candidates: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    best: Candidate
    stopped: Stopped

    @property
    def measured(self) -> tuple[Candidate, ...]:
        """Those whose engine was timed."""
        return tuple(x for x in self.candidates if x.is_measured)

    @property
    def failed(self) -> tuple[Candidate, ...]:
        """Those that could not be built, verified or timed."""
        return tuple(x for x in self.candidates if not x.is_measured)


def evolve(
    space: SearchSpace,
    *,
    accuracy: Callable[[SubnetConfig], float],
    latency: Callable[[SubnetConfig], Latency],
    flops: Callable[[SubnetConfig], int],
    constraint_ms: float,
    plan: SearchPlan,
    rng: Random,
    record: Record,
    seeds: Sequence[SubnetConfig] = (),
    progress: Progress | None = None,
) -> Result:
    """Searches `space` for accurate subnets whose engines take at most `constraint_ms`.

    `seeds` and the smallest subnet are tried first. Of each subnet `latency` is asked before `accuracy`;
    either may raise `CandidateFailed`. To resume, pass the record of the killed search and an `rng` in the
    state it began with: recorded evaluations are replayed, not made again; `engines` may have grown.
    `progress(measured, engines, text)` is called after every evaluation.

    Raises `NothingFits` where no measured engine meets the constraint, `RecordError` where the record is
    another search's, `ValueError` where a seed is not in the space.
    """
    if not (math.isfinite(constraint_ms) and constraint_ms > 0):
        raise ValueError(f"constraint_ms must be a positive number, got {constraint_ms}")
    record.require(space=space, constraint_ms=constraint_ms)
    evaluate = _Evaluation(accuracy, latency, flops, record, limit_ms=plan.slack * constraint_ms)
    proposer = Proposer(space, plan, rng, constraint_ms, opening=_opening(space, seeds))
    size = space.size()
    seen: set[SubnetConfig] = set()
    candidates: list[Candidate] = []
    measured = duplicates = 0
    stopped: Stopped | None = None
    while stopped is None:
        subnet = proposer.propose(duplicates, seen)
        if subnet in seen:
            duplicates += 1
        else:
            duplicates = 0
            seen.add(subnet)
            candidate = evaluate(subnet)
            candidates.append(candidate)
            if candidate.is_measured:
                measured += 1
                proposer.add(candidate)
            if progress is not None:
                progress(measured, plan.engines, _text(candidate, candidates, constraint_ms))
        if measured >= plan.engines:
            stopped = "engines"
        elif len(seen) >= size:
            stopped = "exhausted"
        elif len(candidates) - measured > plan.failures_per_engine * plan.engines:
            stopped = "failures"
        elif duplicates >= plan.patience:
            stopped = "duplicates"
    if measured == 0:
        raise NothingFits(constraint_ms=constraint_ms, fastest=None, reason=candidates[0].reason)
    return Result(
        candidates=tuple(candidates),
        front=front(candidates),
        best=pick(candidates, constraint_ms),
        stopped=stopped,
    )


def _opening(space: SearchSpace, seeds: Sequence[SubnetConfig]) -> list[SubnetConfig]:
    for seed in seeds:
        if not space.contains(seed):
            raise ValueError(f"a seed must be in the search space, got {seed}; drop it or widen the space")
    return list(dict.fromkeys([*seeds, space.smallest()]))


class _Evaluation:
    """Asks the callables for new subnets, and the record, in its order, for those it already holds."""

    def __init__(
        self,
        accuracy: Callable[[SubnetConfig], float],
        latency: Callable[[SubnetConfig], Latency],
        flops: Callable[[SubnetConfig], int],
        record: Record,
        *,
        limit_ms: float,
    ) -> None:
        self._accuracy, self._latency, self._flops = accuracy, latency, flops
        self._record, self._known = record, record.candidates
        self._limit_ms = limit_ms
        self._asked = 0

    def __call__(self, subnet: SubnetConfig) -> Candidate:
        self._asked += 1
        if self._asked > len(self._known):
            candidate = self._evaluate(subnet)
            self._record.append(candidate)
            return candidate
        known = self._known[self._asked - 1]
        # A replay that leaves the recorded path would mix two searches into one front.
        if known.subnet != subnet:
            raise RecordError(
                f"{self._record.path} is the record of another search: its evaluation {self._asked} is "
                f"{known.subnet}, this search asks for {subnet}. Resume with the same seed, seeds and plan, "
                f"or delete it to begin anew"
            )
        return known

    def _evaluate(self, subnet: SubnetConfig) -> Candidate:
        cost = int(self._flops(subnet))
        try:
            timed = self._latency(subnet)
            low, high = timed.ci_ms
            ms = _finite("the latency in ms", timed.ms)
            if ms <= 0:
                raise CandidateFailed(f"the latency must be positive, got {ms} ms")
            interval = (_finite("the latency's low end in ms", low), _finite("its high end in ms", high))
            # Too slow to matter: its latency still steers the search, its accuracy could not.
            score = _finite("the accuracy", self._accuracy(subnet)) if ms <= self._limit_ms else None
        except CandidateFailed as error:
            reason = error.reason or "no reason given"
            return Candidate(subnet=subnet, flops=cost, status="failed", reason=reason)
        return Candidate(subnet=subnet, accuracy=score, latency_ms=ms, latency_ci_ms=interval, flops=cost)


def _finite(what: str, value: float) -> float:
    if not math.isfinite(value):
        raise CandidateFailed(f"{what} must be finite, got {value}")
    return float(value)


def _text(last: Candidate, candidates: Iterable[Candidate], constraint_ms: float) -> str:
    if not last.is_measured:
        return f"failed: {last.reason}"
    score = "too slow" if last.accuracy is None else f"{last.accuracy:.4f}"
    text = f"{score} at {last.latency_ms:.3g} ms"
    if not any(x.fits(constraint_ms) for x in candidates):
        return f"{text}; none fits yet"
    best = pick(candidates, constraint_ms)
    return f"{text}; best {best.accuracy:.4f} at {best.latency_ms:.3g} ms"
