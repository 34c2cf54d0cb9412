"""Uniform draws, each once."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from search.plan import SearchPlan
from search.strategies.random_search import RandomSearch

PLAN = SearchPlan(engines=10)


@pytest.mark.parametrize("seed", range(10))
def test_it_asks_for_designs_of_the_space_each_once(random_space: Any, seed: int) -> None:
    space = random_space(Random(seed))
    strategy = RandomSearch(space, PLAN, Random(seed))
    asked = []
    for count in (1, 8, 3, 0, 20):
        proposals = strategy.ask(count)
        assert len(proposals) <= count
        assert all(x.predicted_ms is None for x in proposals)
        asked += [x.design for x in proposals]
        strategy.tell([])
    assert all(map(space.contains, asked))
    assert len(set(asked)) == len(asked)
    assert len(asked) == min(32, space.size())


def test_the_opening_goes_first_and_once(make_problem: Any) -> None:
    space = make_problem().space
    opening = [space.sample(Random(i)) for i in range(5)]
    strategy = RandomSearch(space, PLAN, Random(1), opening=[*opening, opening[0]])
    first = [x.design for x in strategy.ask(3)]
    assert first == opening[:3]
    then = [x.design for x in strategy.ask(6)]
    assert then[:2] == opening[3:]
    assert not set(then) & set(first)


def test_the_rng_decides(make_problem: Any) -> None:
    space = make_problem().space
    drawn = [RandomSearch(space, PLAN, Random(seed)).ask(5) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_no_depth_crowds_out_another(make_problem: Any) -> None:
    drawn = RandomSearch(make_problem().space, PLAN, Random(0)).ask(2000)
    depths = Counter(x.design.subnet.depth for x in drawn)
    assert all(400 < depths[d] < 600 for d in (1, 2, 3, 4))


def test_a_space_that_is_used_up_ends_the_draws(make_problem: Any, random_space: Any, all_designs: Any) -> None:
    rng = Random(0)
    space = random_space(rng)
    while not 1 < space.size() < 60:
        space = random_space(rng)
    strategy = RandomSearch(space, PLAN, Random(0))
    asked = [x.design for _ in range(70) for x in strategy.ask(3)]
    assert set(asked) == all_designs(space)
    assert len(asked) == space.size()
    assert strategy.ask(3) == []
