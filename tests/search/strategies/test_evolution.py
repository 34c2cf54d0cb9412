"""NSGA-II as an asker: what it proposes, in which order, and on what ground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from search.candidate import Candidate
from search.design import Design
from search.goals import Goals
from search.guide import Guide
from search.plan import SearchPlan
from search.strategies.evolution import Evolution
from search.strategy import Proposal


def told(problem: Any, strategy: Evolution, generations: int) -> list[Candidate]:
    """Asks and answers so many generations."""
    found: list[Candidate] = []
    for _ in range(generations):
        candidates = [problem.candidate(x) for x in strategy.ask(problem.plan.generation)]
        strategy.tell(candidates)
        found += candidates
    return found


@pytest.mark.parametrize("seed", range(10))
def test_it_asks_for_designs_of_any_space_each_once(make_problem: Any, random_space: Any, seed: int) -> None:
    rng = Random(seed)
    problem = make_problem(plan=SearchPlan(engines=60, population=6, brood=30, patience=300))
    problem.space = random_space(rng)
    problem.goals = Goals(constraints_ms=(0.3,) * len(problem.space.precisions))
    problem.ms = lambda x: tuple(0.05 + problem.flops(x.subnet) / 1e6 for _ in x.precisions)
    strategy, asked = problem.evolution(seed), list[Design]()
    for count in (1, 8, 3, 0, 20, 8, 8, 8):
        proposals = strategy.ask(count)
        assert len(proposals) <= count
        asked += [x.design for x in proposals]
        strategy.tell([problem.candidate(x) for x in proposals])
    assert all(map(problem.space.contains, asked))
    assert len(set(asked)) == len(asked)
    assert len(asked) == 56 or problem.space.size() < 1000


def test_the_opening_then_the_smallest_then_random_ones(make_problem: Any) -> None:
    problem = make_problem()
    opening = [problem.space.sample(Random(i)) for i in range(4)]
    strategy = problem.evolution(opening=[*opening, opening[1]])
    assert [x.design for x in strategy.ask(3)] == opening[:3]
    assert [x.design for x in strategy.ask(8)][:2] == [opening[3], problem.space.smallest()]
    again = problem.evolution(opening=[problem.space.smallest(), opening[0]])
    assert [x.design for x in again.ask(2)] == [problem.space.smallest(), opening[0]]


def test_an_opening_outside_the_space_is_refused(make_problem: Any) -> None:
    problem = make_problem()
    stranger = replace(problem.space.smallest(), precisions=("int8",))
    with pytest.raises(ValueError, match="in the space"):
        problem.evolution(opening=[stranger])


def test_guesses_come_with_what_was_measured(make_problem: Any) -> None:
    problem = make_problem(targets=2, precisions=("bf16",))
    problem.space = replace(problem.space, precisions=(("bf16",), ("fp16",)))
    strategy = problem.evolution()
    (first, *_) = told(problem, strategy, 1)
    assert first.predicted_ms is None
    told(problem, strategy, 1)
    later = told(problem, strategy, 4)
    assert all(x.predicted_ms is not None and len(x.predicted_ms) == 2 for x in later)
    errors = [abs(a / b - 1) for x in later for a, b in zip(x.predicted_ms or (), x.ms, strict=True)]
    assert sum(errors) / len(errors) < 0.15


def test_what_the_store_knows_gives_guesses_from_the_first_generation(make_problem: Any) -> None:
    problem = make_problem(precisions=("bf16",))
    drawn = [problem.space.sample(Random(i)) for i in range(40)]
    known = {(0, "bf16"): [(x.subnet, problem.ms(x)[0]) for x in drawn]}
    proposals = problem.evolution(known=known).ask(8)
    for x in proposals:
        assert x.predicted_ms is not None
        assert x.predicted_ms[0] == pytest.approx(problem.ms(x.design)[0], rel=0.5)
    plain = problem.evolution().ask(8)
    assert [x.design for x in plain] == [x.design for x in proposals]  # accuracies are not known yet: nothing is sifted


@pytest.mark.parametrize(("explore", "sifted"), [(0.25, 6), (0.0, 8), (1.0, 0), (0.5, 4)])
def test_so_many_of_a_generation_are_sifted_from_a_brood(
    make_problem: Any, monkeypatch: pytest.MonkeyPatch, explore: float, sifted: int
) -> None:
    problem = make_problem(precisions=("bf16",), plan=SearchPlan(engines=40, population=8, brood=50, explore=explore))
    strategy = problem.evolution()
    told(problem, strategy, 3)
    broods: dict[str, list[Design]] = {}

    def watch(name: str) -> None:
        real = getattr(Guide, name)

        def watched(self: Guide, designs: Sequence[Design], count: int) -> list[int]:
            broods[name] = list(designs)
            assert count == sifted // 2  # half for the winner, half for the front
            found: list[int] = real(self, designs, count)
            return found

        monkeypatch.setattr(Guide, name, watched)

    watch("choose")
    watch("most_accurate")
    asked = [x.design for x in strategy.ask(8)]
    assert len(set(asked)) == 8
    if sifted:
        assert len(broods["most_accurate"]) == 50
        assert len(broods["choose"]) == 50 - sifted // 2
        assert all(x in broods["most_accurate"] for x in asked[:sifted])


def test_what_was_bred_and_not_chosen_may_come_again(make_problem: Any) -> None:
    """A brood larger than the space must not use it up."""
    problem = make_problem(precisions=("bf16",), per_layer=False, plan=SearchPlan(engines=400, brood=500))
    subnets = replace(problem.space.subnets, layer_sets=((0,), (0, 1)), hidden_sizes=(96,), ffn_sizes=(64, 96, 768))
    problem.space = replace(problem.space, subnets=subnets)
    assert problem.space.size() == 60
    asked = [x.design for x in told(problem, problem.evolution(), 9)]
    assert len(asked) == len(set(asked)) == 60


def test_children_are_of_the_population(make_problem: Any) -> None:
    """Told that only one corner of the space is any good, it looks there."""
    problem = make_problem(plan=SearchPlan(engines=40, population=8, brood=1, explore=1.0, mutation_rate=0.05))
    strategy = problem.evolution()
    corner = [problem.space.largest()] + [problem.space.sample(Random(i)) for i in range(60)]
    corner = [x for x in corner if x.subnet.depth == 4][:10]
    strategy.tell([replace(problem.candidate(Proposal(design=x)), accuracy=0.9) for x in corner])
    strategy.ask(1)  # the smallest
    depths = [x.design.subnet.depth for x in strategy.ask(60)]
    assert depths.count(4) > 45  # of random ones it would be a quarter


def test_failed_ones_have_no_children(make_problem: Any, failed: Candidate) -> None:
    problem = make_problem()
    strategy = problem.evolution()
    first = strategy.ask(8)
    strategy.tell([replace(failed, design=x.design) for x in first])
    assert len(told(problem, strategy, 3)) == 24


def test_generations_of_any_size_work(make_problem: Any) -> None:
    for generation in (1, 2, 5, 40):
        problem = make_problem(plan=SearchPlan(engines=30, population=4, generation=generation))
        result = problem.search()
        assert len(result.measured) >= 30
        assert result.generations == -(-30 // generation)


def test_its_own_rng_alone_decides(make_problem: Any) -> None:
    problem = make_problem()

    def asked(seed: int) -> list[Design]:
        return [x.design for x in told(problem, problem.evolution(seed), 5)]

    assert asked(1) == asked(1)
    assert asked(1) != asked(2)


def test_operations_spare_the_first_generations_what_is_hopelessly_slow(make_problem: Any) -> None:
    """The opening is asked for whatever it costs; random designs are not, where there are some."""
    problem = make_problem()
    designs = [problem.space.sample(Random(i)) for i in range(400)]
    typical = sorted(problem.flops(x.subnet) for x in designs)[100]

    def load(subnet: Any) -> float:
        return float(problem.flops(subnet) / typical)

    strategy = Evolution(problem.space, problem.goals, problem.plan, Random(1), rough_load=load)
    drawn = [x.design for x in strategy.ask(12)][1:]
    assert all(load(x.subnet) <= problem.plan.slack for x in drawn)
    hopeless = Evolution(problem.space, problem.goals, problem.plan, Random(1), rough_load=lambda _: 9.0)
    assert len(hopeless.ask(12)) == 12
