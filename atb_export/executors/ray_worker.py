"""What runs on the nodes of a Ray cluster: one job in one task, and the note of when it began."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from atb_export.jobs import Failed, Measured, MeasureJob, Scored, ScoreJob


class Does(Protocol):
    """What does the jobs in a worker process, one at a time: `atb_export.work.Work`."""

    def measure(self, job: MeasureJob) -> Measured | Failed:
        """What is `Failed` but not lasting is a job for another machine."""
        ...

    def score(self, job: ScoreJob) -> Scored | Failed:
        """The accuracy of inherited weights."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


# This process's own `Work` by the id of its inputs: making one takes longer than most jobs.
_works: dict[str, Does] = {}


class Starts:
    """An actor: which tasks have begun, by the number of their submission, and how long ago."""

    def __init__(self) -> None:
        self._begun: dict[int, float] = {}

    def note(self, number: int) -> None:
        """The task of that number begins now."""
        self._begun[number] = time.monotonic()

    def ages_s(self, numbers: list[int]) -> dict[int, float]:
        """Seconds since those of `numbers` began that have; all others are forgotten."""
        self._begun = {n: self._begun[n] for n in numbers if n in self._begun}
        now = time.monotonic()
        return {n: now - begun for n, begun in self._begun.items()}


def do(
    job: MeasureJob | ScoreJob,
    number: int,
    threads: int,
    held: tuple[Any, Any],
    make: Callable[[Any], Does],
) -> Measured | Scored | Failed:
    """The body of a task. `held` are the references to the inputs and to the actor `Starts`."""
    import torch

    inputs, starts = held
    # The process may have been started for a task of another size.
    torch.set_num_threads(threads)
    starts.note.remote(number)
    work = _work(inputs, make)
    return work.measure(job) if isinstance(job, MeasureJob) else work.score(job)


def _work(inputs: Any, make: Callable[[Any], Does]) -> Does:
    """Made once per process; another executor's is closed first."""
    import ray

    key = inputs.hex()
    if key not in _works:
        for other in _works.values():
            other.close()
        _works.clear()
        _works[key] = make(ray.get(inputs))
    return _works[key]
