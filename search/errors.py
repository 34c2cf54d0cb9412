"""What can go wrong in a search. One tree, so that a caller can catch all of it by `SearchError`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.candidate import Candidate


class SearchError(Exception):
    """The search cannot go on, or cannot answer."""


class NothingFits(SearchError):  # noqa: N818
    """No scored design is what was asked for; `nearest` is None where no engine could be measured at all."""

    def __init__(
        self,
        *,
        constraints_ms: tuple[float | None, ...],
        nearest: Candidate | None,
        accuracy: float | None = None,
        reason: str | None = None,
    ) -> None:
        if accuracy is not None:
            wanted, mend = f"an accuracy of {accuracy:g}", "ask for less, or search longer"
        else:
            limits = ", ".join("any" if x is None else f"{x:g} ms" for x in constraints_ms)
            wanted, mend = f"the limits of {limits or 'none'}", "raise them, or let the space hold smaller subnets"
        if nearest is None:
            message = (
                f"no engine could be measured, so none meets {wanted}"
                + (f"; the first failure was: {reason}" if reason else "")
                + "; mend that, then search again"
            )
        else:
            times = ", ".join(f"{ms:.4g} ms" for ms in nearest.ms)
            score = "" if nearest.accuracy is None else f" with an accuracy of {nearest.accuracy:.4f}"
            message = f"nothing meets {wanted}: nearest is {nearest.design} at {times}{score}; {mend}"
        super().__init__(message)
        self.constraints_ms = constraints_ms
        self.nearest = nearest


class StoreError(SearchError):
    """A store on disk cannot be used as asked: it is damaged, foreign, full, busy, or holds another search."""
