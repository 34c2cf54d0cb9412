"""The search itself: ask a strategy, evaluate a generation, record, tell; until the budget is spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from search.candidate import Candidate
from search.errors import NothingFits
from search.front import front, most_accurate
from search.goals import Goals
from search.plan import SearchPlan
from search.strategy import Proposal, Strategy

Stopped = Literal["engines", "seconds", "exhausted", "failures"]
Progress = Callable[[int, int, str], None]


class Evaluate(Protocol):
    """Measures and scores one generation; yields a candidate for each proposal, in order, as soon as it is known.

    `known` are the candidates of the generations before, nothing else, so that the order of evaluation within a
    generation changes nothing.
    """

    def __call__(self, proposals: Sequence[Proposal], known: Sequence[Candidate]) -> Iterator[Candidate]:
        """One candidate for each proposal, in order."""
        ...


class History(Protocol):
    """The evaluations of this search on disk, in the order they were made (`search.store`)."""

    def replay(self, position: int, **asked: Any) -> dict[str, Any] | None:
        """The evaluation at `position`, None past the end; raises `StoreError` where it is of another design."""
        ...

    def append(self, candidate: dict[str, Any]) -> None:
        """Adds one; it is on disk when this returns."""
        ...


@dataclass(frozen=True, kw_only=True)
class Result:
    """All evaluations in the order made, their front, the most accurate that fits, why the search ended."""

    candidates: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    best: Candidate
    stopped: Stopped
    generations: int

    @property
    def measured(self) -> tuple[Candidate, ...]:
        """Those whose engines were timed."""
        return tuple(x for x in self.candidates if x.is_measured)

    @property
    def failed(self) -> tuple[Candidate, ...]:
        """Those that could not be built, verified or timed."""
        return tuple(x for x in self.candidates if x.has_failed)


def search(
    strategy: Strategy,
    evaluate: Evaluate,
    *,
    goals: Goals,
    plan: SearchPlan,
    history: History,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Runs `strategy` within `plan`. To resume, pass the history of the killed search and a strategy in the state
    it began with: recorded evaluations are replayed, not made again; `engines` may have grown.

    `progress(measured, engines, text)` is called after every evaluation. Raises `NothingFits` where no measured
    engine meets the goals, `StoreError` where the history is another search's.
    """
    candidates: list[Candidate] = []
    begun, generation = clock(), 0
    stopped: Stopped | None = None
    while stopped is None:
        measured = sum(x.is_measured for x in candidates)
        if measured >= plan.engines:
            stopped = "engines"
        elif sum(x.has_failed for x in candidates) > plan.failures_per_engine * plan.engines:
            stopped = "failures"
        elif sum(x.status == "spared" for x in candidates) > plan.spared_per_engine * plan.engines:
            stopped = "exhausted"
        elif clock() - begun >= plan.seconds and history.replay(len(candidates)) is None:  # a record is never cut short
            stopped = "seconds"
        else:
            proposals = strategy.ask(plan.generation)
            if not proposals:
                stopped = "exhausted"
                continue
            told = []
            known = tuple(candidates)
            for candidate in _evaluated(proposals, evaluate, known, history, generation):
                told.append(candidate)
                candidates.append(candidate)
                if progress is not None:
                    done = sum(x.is_measured for x in candidates)
                    progress(done, plan.engines, _text(candidate, candidates, goals))
            strategy.tell(told)
            generation += 1
    if not any(x.is_measured for x in candidates):
        reason = next((x.reason for x in candidates), None)
        raise NothingFits(constraints_ms=goals.constraints_ms, nearest=None, reason=reason)
    return Result(
        candidates=tuple(candidates),
        front=front(candidates, small=goals.small),
        best=most_accurate(candidates, goals),
        stopped=stopped,
        generations=generation,
    )


def _evaluated(
    proposals: Sequence[Proposal],
    evaluate: Evaluate,
    known: Sequence[Candidate],
    history: History,
    generation: int,
) -> Iterator[Candidate]:
    """The generation's candidates: those on record first, the rest evaluated and recorded."""
    done = 0
    for proposal in proposals:
        row = history.replay(len(known) + done, design=proposal.design.to_json())
        if row is None:
            break
        done += 1
        yield Candidate.from_json(row)
    if done == len(proposals):
        return
    for proposal, candidate in zip(proposals[done:], evaluate(proposals[done:], known), strict=True):
        if candidate.design != proposal.design:
            raise ValueError(f"{proposal.design} was asked for, but {candidate.design} was evaluated")
        kept = replace(candidate, generation=generation)
        history.append(kept.to_json())
        yield kept


def _text(last: Candidate, candidates: Iterable[Candidate], goals: Goals) -> str:
    if last.has_failed:
        return f"failed: {last.reason}"
    score = "too slow" if last.accuracy is None else f"{last.accuracy:.4f}" + ("" if last.complete else ", stopped")
    text = f"{score} at {', '.join(f'{ms:.3g}' for ms in last.ms)} ms" if last.is_measured else f"{score}, spared"
    fitting = [x for x in candidates if x.is_scored and goals.fits(x)]
    if not fitting:
        return f"{text}; none fits yet"
    best = most_accurate(fitting, goals)
    return f"{text}; best {best.accuracy:.4f} at {', '.join(f'{ms:.3g}' for ms in best.ms)} ms"
