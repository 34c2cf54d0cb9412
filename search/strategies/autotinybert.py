"""AutoTinyBERT's evolver (Yin et al., ACL 2021), as its public code does it.

A generation is half random designs, half mutations of parents drawn by roulette over their accuracy. A design is only
evaluated where a predictor puts its latency in a band around the limit. Our one change: draws are bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from search.candidate import Candidate
from search.design import Design, DesignSpace
from search.plan import SearchPlan
from search.strategy import Proposal
from supernet.space import SubnetConfig

POPULATION = 25
BAND = (0.85, 1.10)


class AutoTinyBert:
    """`predict(subnet)` is its latency in ms on the first target, by whatever the method trusts."""

    name = "autotinybert"

    def __init__(
        self,
        space: DesignSpace,
        plan: SearchPlan,
        rng: Random,
        *,
        predict: Callable[[SubnetConfig], float],
        constraint_ms: float,
    ) -> None:
        self._space, self._plan, self._rng, self._predict = space, plan, rng, predict
        self._low_ms, self._high_ms = (share * constraint_ms for share in BAND)
        self._parents: list[Candidate] = []
        self._seen: set[Design] = set()

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Keeps the most accurate of all so far as parents."""
        scored = [x for x in candidates if x.is_scored]
        self._parents = sorted([*self._parents, *scored], key=lambda x: -(x.accuracy or 0.0))[:POPULATION]

    def ask(self, count: int) -> list[Proposal]:
        """Half random, half mutated, all within the band."""
        mutated = count // 2 if self._parents else 0
        designs = self._draw(mutated, lambda: self._space.mutate(self._parent(), self._rng, rate=0.5))
        designs += self._draw(count - len(designs), lambda: self._space.sample(self._rng))
        return [Proposal(design=x, predicted_ms=None) for x in designs]

    def _draw(self, count: int, draw: Callable[[], Design]) -> list[Design]:
        designs: list[Design] = []
        fruitless = 0
        while len(designs) < count and fruitless < 20 * self._plan.patience:
            design = draw()
            if design in self._seen or not self._low_ms <= self._predict(design.subnet) <= self._high_ms:
                fruitless += 1
                continue
            self._seen.add(design)
            designs.append(design)
            fruitless = 0
        return designs

    def _parent(self) -> Design:
        # Chances are those of the public code: by how much a parent is better than the worst of them.
        least = min(x.accuracy or 0.0 for x in self._parents)
        weights = [(x.accuracy or 0.0) - least for x in self._parents]
        if sum(weights) <= 0:
            return self._rng.choice(self._parents).design
        return self._rng.choices(self._parents, weights=weights)[0].design
