"""AutoTinyBERT's evolver: half random, half mutated, all in the band of a predictor, and never without end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from search.design import Design
from search.plan import SearchPlan
from search.strategies.autotinybert import BAND, POPULATION, AutoTinyBert
from search.strategy import Proposal
from supernet.space import SubnetConfig


class Draws:
    """A space that counts how its designs were made."""

    def __init__(self, space: Any) -> None:
        self.space = space
        self.sampled: list[Design] = []
        self.mutated: list[tuple[Design, Design]] = []

    def sample(self, rng: Random) -> Design:
        self.sampled.append(self.space.sample(rng))
        return self.sampled[-1]

    def mutate(self, design: Design, rng: Random, *, rate: float) -> Design:
        child: Design = self.space.mutate(design, rng, rate=rate)
        self.mutated.append((design, child))
        return child


def made(problem: Any, seed: int = 1, space: Any = None, predict: Any = None, plan: Any = None) -> AutoTinyBert:
    def first_ms(subnet: SubnetConfig) -> float:
        return float(problem.ms(problem.space.of(subnet))[0])

    return AutoTinyBert(
        space or problem.space, plan or problem.plan, Random(seed), predict=predict or first_ms, constraint_ms=1.0
    )


def in_band(problem: Any, design: Design) -> bool:
    ms: float = problem.ms(problem.space.of(design.subnet))[0]
    return BAND[0] <= ms <= BAND[1]


def tell(problem: Any, strategy: AutoTinyBert, proposals: list[Proposal]) -> None:
    strategy.tell([problem.candidate(x) for x in proposals])


def test_every_design_is_in_the_band_and_new(make_problem: Any) -> None:
    problem = make_problem()
    strategy = made(problem)
    asked: list[Design] = []
    for _ in range(5):
        proposals = strategy.ask(8)
        assert len(proposals) == 8
        asked += [x.design for x in proposals]
        tell(problem, strategy, proposals)
    assert all(in_band(problem, x) for x in asked)
    assert all(map(problem.space.contains, asked))
    assert len(set(asked)) == 40


def test_half_is_random_and_half_mutated(make_problem: Any) -> None:
    problem = make_problem()
    draws = Draws(problem.space)
    strategy = made(problem, space=draws)
    first = strategy.ask(POPULATION)
    assert draws.mutated == []  # nobody to mutate yet
    tell(problem, strategy, first)
    proposals = strategy.ask(9)
    children = {child for _, child in draws.mutated}
    assert [x.design in children for x in proposals] == [True] * 4 + [False] * 5
    assert all(x.design in draws.sampled for x in proposals[4:])


def test_parents_are_the_most_accurate_of_all_so_far(make_problem: Any, at: Any, failed: Any) -> None:
    problem = make_problem()
    draws = Draws(problem.space)
    strategy = made(problem, space=draws)
    told = []
    for _ in range(8):
        proposals = strategy.ask(8)
        told += [problem.candidate(x) for x in proposals]
        strategy.tell([*told[-8:], failed, at(0.99, 1.0, complete=False), at(None, 1.0)])
    draws.mutated.clear()
    strategy.ask(8)
    best = sorted(told, key=lambda x: -(x.accuracy or 0))[:POPULATION]
    assert {parent for parent, _ in draws.mutated} <= {x.design for x in best}


def test_before_anything_was_scored_all_is_random(make_problem: Any, failed: Any) -> None:
    problem = make_problem()
    draws = Draws(problem.space)
    strategy = made(problem, space=draws)
    strategy.tell([failed])
    assert len(strategy.ask(6)) == 6
    assert draws.mutated == []


def test_the_roulette_prefers_the_better(make_problem: Any) -> None:
    """As in the public code, the least accurate parent has no chance, and the others in proportion to the gap."""
    problem = make_problem()
    draws = Draws(problem.space)
    strategy = made(problem, space=draws)
    proposals = strategy.ask(10)
    told = sorted((problem.candidate(x) for x in proposals), key=lambda x: -(x.accuracy or 0))
    strategy.tell(told)
    for _ in range(40):
        strategy.ask(8)
    parents = [parent for parent, _ in draws.mutated]
    assert told[-1].design not in parents
    assert parents.count(told[0].design) > 1.5 * len(parents) / 10


def test_parents_that_are_all_alike_have_the_same_chance(make_problem: Any) -> None:
    problem = make_problem()
    draws = Draws(problem.space)
    strategy = made(problem, space=draws)
    told = [replace(problem.candidate(x), accuracy=0.0) for x in strategy.ask(4)]
    strategy.tell(told)
    for _ in range(20):
        strategy.ask(8)
    assert {parent for parent, _ in draws.mutated} == {x.design for x in told}


def test_draws_are_bounded(make_problem: Any) -> None:
    problem = make_problem(plan=SearchPlan(engines=8, patience=10))
    asked: list[SubnetConfig] = []

    def never(subnet: SubnetConfig) -> float:
        asked.append(subnet)
        return 99.0

    assert made(problem, predict=never).ask(8) == []
    assert 0 < len(asked) <= 20 * 10


@pytest.mark.parametrize("share", [BAND[0] - 1e-9, BAND[1] + 1e-9])
def test_the_band_has_edges(make_problem: Any, share: float) -> None:
    def at_edge(_: SubnetConfig) -> float:
        return share

    inside: Callable[[SubnetConfig], float] = lambda _: BAND[0]  # noqa: E731
    problem = make_problem(plan=SearchPlan(engines=8, patience=5))
    assert made(problem, predict=at_edge).ask(1) == []
    assert len(made(problem, predict=inside).ask(3)) == 3


def test_the_rng_decides(make_problem: Any) -> None:
    problem = make_problem()
    drawn = [made(problem, seed).ask(5) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(x.predicted_ms is None for x in drawn[0])


def test_it_finds_what_fits(make_problem: Any) -> None:
    problem = make_problem()
    result = problem.search(made(problem))
    assert len(result.measured) == 40
    assert result.best.accuracy is not None
    assert problem.goals.fits(result.best)
