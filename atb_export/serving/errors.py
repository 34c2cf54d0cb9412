"""What load on a server is refused for."""

from __future__ import annotations

from atb_export.errors import AtbError


class ServingError(AtbError):
    """A server that cannot be reached or understood, or a native program that is not there."""
