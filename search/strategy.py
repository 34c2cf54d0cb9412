"""What every way of searching fulfils: it is asked for designs, and told what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from search.candidate import Candidate
from search.design import Design, DesignSpace


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A design to evaluate, and the latencies a model guesses for it, if there is a model already.

    `least_ms` are the lowest that the model thinks possible: what is hopeless even so needs no engine.
    """

    design: Design
    predicted_ms: tuple[float, ...] | None = None
    least_ms: tuple[float, ...] | None = None


def check_opening(opening: Sequence[Design], space: DesignSpace) -> None:
    """Raises `ValueError` for a design that could not be drawn."""
    for x in opening:
        if not space.contains(x):
            raise ValueError(f"an opening holds designs that lie in the space, {x} does not")


class Strategy(Protocol):
    """Decides from what it is told and its own `rng` alone, so that a replayed search takes the same path."""

    @property
    def name(self) -> str:
        """As a recipe names it."""
        ...

    def ask(self, count: int) -> list[Proposal]:
        """At most `count` designs that were never asked for before; none where it finds no more."""
        ...

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """What came of the designs asked for last, in their order."""
        ...
