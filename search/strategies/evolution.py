"""NSGA-II under constraints (Deb et al. 2002), whose children are sifted by models before an engine is built.

One generation is: open, breed, sift, explore. Every step is a method of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from search.candidate import Candidate
from search.design import Design, DesignSpace
from search.goals import Goals
from search.guide import Guide, Known
from search.latency_model import weights
from search.plan import SearchPlan
from search.selection import best_first, tournament
from search.strategy import Proposal, check_opening
from supernet.space import SubnetConfig

_TRIES = 30
_DOUBTS = 2.0  # standard deviations a latency may lie below its guess


class Evolution:
    """Of each generation `explore` are children nobody sifted, the rest the most promising of a brood."""

    name = "nsga2"

    def __init__(
        self,
        space: DesignSpace,
        goals: Goals,
        plan: SearchPlan,
        rng: Random,
        *,
        opening: Sequence[Design] = (),
        known: Known | None = None,
        rough_load: Callable[[SubnetConfig], float] | None = None,
    ) -> None:
        """`opening` is asked for first: hand-made cuts, an earlier front. `known` are latencies from before.

        `rough_load(subnet)` is the share of the limit that its operations suggest. It chooses blindly among alike
        subnets, but steers the first generations, until there is a model.
        """
        self._rough_load = rough_load
        self._space, self._goals, self._plan, self._rng = space, goals, plan, rng
        self._known: Known = known or {}
        check_opening(opening, space)
        self._opening = [x for x in dict.fromkeys([*opening, space.smallest()])][::-1]
        self._seen: set[Design] = set()
        self._told: list[Candidate] = []
        self._population: list[Candidate] = []

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Lets measured candidates compete; the worst leave when there are more than the population.

        What was spared an engine only teaches the guess of accuracy.
        """
        measured = [x for x in candidates if x.is_measured]
        self._told += [x for x in candidates if not x.has_failed]
        self._population = best_first([*self._population, *measured], self._goals)[: self._plan.population]

    def ask(self, count: int) -> list[Proposal]:
        """The opening, then random designs up to a population, then children."""
        guide = Guide(self._space.subnets, self._goals, self._told, self._known, self._rough_load or weights)
        designs = self._open(count)
        missing = count - len(designs)
        if missing > 0:
            explored = round(missing * self._plan.explore) if guide.is_ready else missing
            if explored < missing:
                designs += self._sift(guide, self._breed(self._plan.brood), missing - explored)
            designs += self._breed(count - len(designs))
        timed = guide.latencies(designs) if designs else None
        if timed is None:
            return [Proposal(design=x) for x in designs]
        ms, spread = timed
        least = np.maximum(ms - _DOUBTS * spread, 0.0)
        return [
            Proposal(design=x, predicted_ms=tuple(guess), least_ms=tuple(low))
            for x, guess, low in zip(designs, ms.tolist(), least.tolist(), strict=True)
        ]

    def _take(self, design: Design) -> bool:
        """Whether the design is new; it will not be again."""
        new = design not in self._seen
        self._seen.add(design)
        return new

    def _open(self, count: int) -> list[Design]:
        designs: list[Design] = []
        while self._opening and len(designs) < count:
            if self._take(design := self._opening.pop()):
                designs.append(design)
        return designs

    def _breed(self, count: int) -> list[Design]:
        """New designs, each asked for once: random ones until there is a population, then children of it."""
        designs: list[Design] = []
        fruitless = 0
        while len(designs) < count and fruitless < self._plan.patience:
            # The second half of the patience goes to random ones: a population that converged draws only its own.
            if len(self._population) < self._plan.population or fruitless >= self._plan.patience / 2:
                design = self._plausible()
            else:
                design = self._child()
            if self._take(design):
                designs.append(design)
                fruitless = 0
            else:
                fruitless += 1
        return designs

    def _plausible(self) -> Design:
        """A random design, of a few the first that its operations do not call hopelessly slow."""
        design = self._space.sample(self._rng)
        for _ in range(_TRIES if self._rough_load is not None else 0):
            assert self._rough_load is not None
            if self._rough_load(design.subnet) <= self._plan.slack:
                break
            design = self._space.sample(self._rng)
        return design

    def _child(self) -> Design:
        mother, father = (tournament(self._population, self._rng).design for _ in range(2))
        child = self._space.crossover(mother, father, self._rng)
        return self._space.mutate(child, self._rng, rate=self._plan.mutation_rate)

    def _sift(self, guide: Guide, brood: Sequence[Design], count: int) -> list[Design]:
        """The most promising of the brood, half for the winner, half for the front; others may be drawn again."""
        kept = [brood[i] for i in guide.most_accurate(brood, count // 2)]
        rest = [x for x in brood if x not in kept]
        kept += [rest[i] for i in guide.choose(rest, count - len(kept))]
        self._seen.difference_update(brood)
        self._seen.update(kept)
        return kept
