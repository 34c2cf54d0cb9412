"""The engine world: compile, run, measure and read bundles of tiny BERTs. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.native_classifier import Classifier

__all__ = ["Classifier"]


def __getattr__(name: str) -> Any:
    """`runtime.Classifier`, imported when it is asked for."""
    if name == "Classifier":
        from runtime.native_classifier import Classifier

        return Classifier
    raise AttributeError(f"module 'runtime' has no attribute {name!r}")
