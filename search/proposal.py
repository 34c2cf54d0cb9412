"""What to measure next: the opening, then random subnets, then children of the best."""

from __future__ import annotations

from collections.abc import Container, Sequence
from random import Random

from search.candidate import Candidate
from search.plan import SearchPlan
from search.selection import best_first, tournament
from search.surrogate import Ridge, features
from supernet.space import SearchSpace, SubnetConfig


class Proposer:
    """Draws the next subnet to try: of the opening, at random, or a child of two of the population."""

    def __init__(
        self,
        space: SearchSpace,
        plan: SearchPlan,
        rng: Random,
        constraint_ms: float,
        *,
        opening: list[SubnetConfig],
    ) -> None:
        self._space, self._plan, self._rng, self._constraint_ms = space, plan, rng, constraint_ms
        self._opening = opening[::-1]
        self._population: list[Candidate] = []
        self._measured: list[Candidate] = []

    def add(self, candidate: Candidate) -> None:
        """Lets a measured candidate compete; the worst leaves when there are more than the population."""
        self._measured.append(candidate)
        ordered = best_first([*self._population, candidate], constraint_ms=self._constraint_ms, focus=self._plan.focus)
        self._population = ordered[: self._plan.population]

    def propose(self, duplicates: int, seen: Container[SubnetConfig]) -> SubnetConfig:
        """A subnet of the space, perhaps one of `seen`; `duplicates` draws before this one were."""
        if self._opening:
            return self._opening.pop()
        # The second half of the patience goes to random ones: a population that converged draws only its own.
        if len(self._population) < self._plan.population or duplicates >= self._plan.patience / 2:
            return self._space.sample(self._rng)
        # Half the children are chosen by a guess, half not: a wrong guess must not choose them all.
        if len(self._measured) % 2 == 0:
            return self._child()
        brood = [child for child in (self._child() for _ in range(self._plan.brood)) if child not in seen]
        return self._most_promising(brood) if brood else self._child()

    def _child(self) -> SubnetConfig:
        mother, father = (tournament(self._population, self._rng) for _ in range(2))
        child = self._space.crossover(mother.subnet, father.subnet, self._rng)
        return self._space.mutate(child, self._rng, rate=self._plan.mutation_rate)

    def _most_promising(self, brood: Sequence[SubnetConfig]) -> SubnetConfig:
        """Of several children the one guessed most accurate within the constraint, else guessed fastest."""
        timed = [(features(self._space, x.subnet), x.latency_ms) for x in self._measured if x.latency_ms]
        scored = [(features(self._space, x.subnet), x.accuracy) for x in self._measured if x.accuracy is not None]
        if not scored:
            return brood[0]
        guess_ms = Ridge([row for row, _ in timed], [ms for _, ms in timed])
        guess_accuracy = Ridge([row for row, _ in scored], [score for _, score in scored])

        def promise(subnet: SubnetConfig) -> tuple[float, float]:
            row = features(self._space, subnet)
            return -max(0.0, guess_ms(row) - self._constraint_ms), guess_accuracy(row)

        return max(brood, key=promise)
