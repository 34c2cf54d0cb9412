"""Uniform draws: the search every other one has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from search.candidate import Candidate
from search.design import Design, DesignSpace
from search.plan import SearchPlan
from search.strategy import Proposal, check_opening


class RandomSearch:
    """New designs, every dimension drawn uniformly; learns nothing."""

    name = "random"

    def __init__(self, space: DesignSpace, plan: SearchPlan, rng: Random, *, opening: Sequence[Design] = ()) -> None:
        self._space, self._plan, self._rng = space, plan, rng
        check_opening(opening, space)
        self._opening = list(dict.fromkeys(opening))[::-1]
        self._seen: set[Design] = set()

    def ask(self, count: int) -> list[Proposal]:
        """The opening first."""
        designs: list[Design] = []
        fruitless = 0
        while len(designs) < count and fruitless < self._plan.patience:
            design = self._opening.pop() if self._opening else self._space.sample(self._rng)
            if design in self._seen:
                fruitless += 1
                continue
            self._seen.add(design)
            designs.append(design)
        return [Proposal(design=x) for x in designs]

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Forgets them."""
