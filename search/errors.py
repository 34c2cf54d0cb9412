"""What can go wrong in a search. One tree, so that a caller can catch all of it by `SearchError`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.candidate import Candidate


class SearchError(Exception):
    """The search cannot go on, or cannot answer."""


class CandidateFailed(SearchError):  # noqa: N818 (says what happened to the candidate; no fault of the search)
    """Raised by `latency` or `accuracy`: this subnet cannot be built, verified or timed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NothingFits(SearchError):  # noqa: N818
    """No measured engine meets the constraint; `fastest` is None where no engine could be measured at all."""

    def __init__(self, *, constraint_ms: float, fastest: Candidate | None, reason: str | None = None) -> None:
        if fastest is None:
            message = (
                f"no engine could be measured, so none meets the constraint of {constraint_ms:g} ms"
                + (f"; the first failure was: {reason}" if reason else "")
                + "; mend that, then search again"
            )
        else:
            message = (
                f"no engine may take more than {constraint_ms:g} ms, but the fastest measured takes "
                f"{fastest.latency_ms:.4g} ms ({fastest.subnet}); "
                f"raise the constraint above that, or let the space hold smaller subnets"
            )
        super().__init__(message)
        self.constraint_ms = constraint_ms
        self.fastest = fastest


class RecordError(SearchError):
    """A record on disk is damaged, or belongs to another search."""
