"""What a report refuses."""

from __future__ import annotations


class ReportError(ValueError):
    """The result is not one that a report can be made of."""
