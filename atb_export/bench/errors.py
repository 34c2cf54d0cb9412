"""What a benchmark refuses."""

from __future__ import annotations

from atb_export.errors import AtbError


class BenchError(AtbError):
    """Something is no subject of a benchmark, or cannot be timed as asked."""
