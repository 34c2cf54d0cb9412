"""Jobs done here, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from atb_export.jobs import Failed, Measured, MeasureJob, Scored, ScoreJob
from atb_export.work import Work, WorkInputs


class LocalExecutor:
    """Every job is done when its result is asked for."""

    def __init__(self, inputs: WorkInputs) -> None:
        self._work = Work(inputs)

    def measure(self, jobs: Sequence[MeasureJob]) -> Iterator[Measured | Failed]:
        """In order."""
        return map(self._work.measure, jobs)

    def score(self, jobs: Sequence[ScoreJob]) -> Iterator[Scored | Failed]:
        """In order."""
        return map(self._work.score, jobs)

    def close(self) -> None:
        """Closes the reference engines."""
        self._work.close()
