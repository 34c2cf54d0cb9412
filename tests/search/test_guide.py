"""What the models guess together, and which designs that makes worth an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from search.candidate import Candidate
from search.design import Design
from search.goals import Goals
from search.guide import FEW, Guide
from search.strategy import Proposal


def told(problem: Any, count: int, seed: int = 0) -> list[Candidate]:
    rng = Random(seed)
    return [problem.candidate(Proposal(design=problem.space.sample(rng))) for _ in range(count)]


def guide_of(problem: Any, candidates: Sequence[Candidate], known: Any = None) -> Guide:
    return Guide(problem.space.subnets, problem.goals, candidates, known or {})


def test_it_is_not_ready_before_it_was_told_enough(make_problem: Any) -> None:
    problem = make_problem(precisions=("bf16",))
    designs = [x.design for x in told(problem, 5, seed=9)]
    for few in ([], told(problem, FEW - 1)):
        guide = guide_of(problem, few)
        assert not guide.is_ready
        assert guide.latencies(designs) is None
        assert guide.choose(designs, 2) == []
    assert guide_of(problem, told(problem, 40)).is_ready
    unscored = [replace(x, accuracy=None) for x in told(problem, 40)]
    assert not guide_of(problem, unscored).is_ready
    assert guide_of(problem, unscored).choose(designs, 2) == []
    assert guide_of(problem, unscored).latencies(designs) is not None
    stopped = [replace(x, complete=False) for x in told(problem, 40)]
    assert not guide_of(problem, stopped).is_ready  # an accuracy of the first rows only teaches nothing


def test_every_target_needs_its_model(make_problem: Any) -> None:
    problem = make_problem(targets=2)
    scored = [x for x in told(problem, 24) if x.accuracy is not None]
    some = [replace(x, status="spared", latencies=()) for x in scored]  # never timed
    pairs = [(x.subnet, problem.ms(problem.space.of(x.subnet))[0]) for x in told(problem, 60, seed=4)]
    assert not guide_of(problem, some, {(0, "bf16"): pairs}).is_ready
    assert guide_of(problem, some, {(0, "bf16"): pairs, (1, "fp16"): pairs}).is_ready


def test_a_few_engines_scale_what_the_operations_suggest(make_problem: Any) -> None:
    """With a doubt that operations deserve; a precision of few engines is another's model times a factor."""
    problem = make_problem(precisions=("bf16",))
    new = [x.design for x in told(problem, 30, seed=5)]
    truth = np.array([problem.ms(x)[0] for x in new])
    timed = guide_of(problem, told(problem, FEW)).latencies(new)
    assert timed is not None
    assert np.abs(timed[0][:, 0] / truth - 1).mean() < 0.5
    assert (timed[1] >= 0.149 * timed[0]).all()


@pytest.mark.parametrize("count", [2 * FEW, 3 * FEW, 60])
def test_precisions_share_what_they_have_in_common(make_problem: Any, count: int) -> None:
    problem = make_problem(precisions=("f32", "bf16"))
    known = {}
    for precision, factor, much in (("f32", 2.0, count), ("bf16", 1.0, FEW)):
        designs = [x.design for x in told(problem, much, seed=len(precision))]
        known[0, precision] = [(x.subnet, factor * x.subnet.hidden_size) for x in designs]
    subnets = [x.subnet for x in told(problem, 20, seed=5)]
    guesses = []
    for precision in ("f32", "bf16"):
        timed = guide_of(problem, [], known).latencies([Design(subnet=x, precisions=(precision,)) for x in subnets])
        assert timed is not None
        guesses.append(timed[0][:, 0])
    assert np.median(guesses[0] / guesses[1]) == pytest.approx(2.0, rel=0.25)


def test_what_the_store_knows_is_guessed_from_the_start(make_problem: Any) -> None:
    problem = make_problem(precisions=("bf16",))
    designs = [x.design for x in told(problem, 60)]
    known = {(0, "bf16"): [(x.subnet, problem.ms(x)[0]) for x in designs]}
    new = [x.design for x in told(problem, 30, seed=5)]
    timed = guide_of(problem, [], known).latencies(new)
    assert timed is not None
    truth = np.array([problem.ms(x)[0] for x in new])
    assert np.abs(timed[0][:, 0] / truth - 1).mean() < 0.1


def test_what_the_search_measured_itself_counts_more_than_what_was_known(make_problem: Any) -> None:
    problem = make_problem(precisions=("bf16",))
    mine = told(problem, 40)
    stale = {(0, "bf16"): [(x.subnet, 3 * x.ms[0]) for x in mine]}  # the same engines, thrice as slow in their time
    timed, plain = (guide_of(problem, mine, x).latencies([mine[0].design]) for x in (stale, {}))
    assert timed is not None
    assert plain is not None
    assert timed[0] == pytest.approx(plain[0])


def test_each_precision_is_guessed_by_its_own_model(make_problem: Any) -> None:
    problem = make_problem(noise=0.0)
    guide = guide_of(problem, told(problem, 120))
    subnets = [x.subnet for x in told(problem, 20, seed=3)]
    fast, slow = ([Design(subnet=x, precisions=(p,)) for x in subnets] for p in ("bf16", "f32"))
    timed = guide.latencies([*fast, *slow])
    assert timed is not None
    ratio = timed[0][20:, 0] / timed[0][:20, 0]
    assert ratio == pytest.approx(np.full(20, 1 / 0.6), rel=0.15)
    assert timed[0].shape == timed[1].shape == (40, 1)
    shuffled = guide.latencies([*slow, *fast])
    assert shuffled is not None
    assert shuffled[0][:20] == pytest.approx(timed[0][20:])


def test_a_precision_nobody_measured_is_hoped_to_be_as_fast_as_the_fastest(make_problem: Any) -> None:
    problem = make_problem(precisions=("bf16", "f32", "int8"))
    seen = [x for x in told(problem, 150) if x.design.precisions != ("int8",)]
    subnet = problem.space.sample(Random(77)).subnet
    timed = guide_of(problem, seen).latencies([Design(subnet=subnet, precisions=(p,)) for p in ("bf16", "f32", "int8")])
    assert timed is not None
    ms, spread = timed[0][:, 0], timed[1][:, 0]
    assert ms[2] == min(ms[:2])
    assert spread[2] == 0.5 * ms[2]
    assert spread[0] < 0.2 * ms[0]


class Sure:
    """A model that guesses these values, whatever it is asked about."""

    def __init__(self, values: list[float], doubt: float) -> None:
        self.values, self.doubt = np.array(values), doubt

    def __call__(self, subnets: Sequence[Any]) -> tuple[Any, Any]:
        return self.values[: len(subnets)], np.full(len(subnets), self.doubt)


# --- choosing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 7, 500])
def test_it_chooses_so_many_different_ones(make_problem: Any, targets: int, count: int) -> None:
    problem = make_problem(targets=targets)
    designs = [x.design for x in told(problem, 60, seed=2)]
    chosen = guide_of(problem, told(problem, 60)).choose(designs, count)
    assert len(chosen) == len(set(chosen)) == min(count, 60)
    assert all(0 <= i < 60 for i in chosen)
    assert guide_of(problem, told(problem, 60)).choose([], 3) == []


@pytest.mark.parametrize("targets", [1, 2])
def test_the_chosen_are_better_than_the_drawn(make_problem: Any, targets: int) -> None:
    problem = make_problem(targets=targets)
    better = fitting = 0
    for seed in range(5):
        designs = [x.design for x in told(problem, 200, seed=50 + seed)]
        chosen = guide_of(problem, told(problem, 60, seed=seed)).choose(designs, 8)
        fit = [problem.goals.violation(problem.ms(designs[i])) < 0.05 for i in chosen]
        fitting += sum(fit)
        feasible = [x for x in designs if problem.goals.violation(problem.ms(x)) == 0]
        mean = np.mean([problem.accuracy(x) for x in feasible])
        better += sum(problem.accuracy(designs[i]) > mean for i in chosen)
    assert fitting >= 34  # of 40
    assert better >= 34


def test_what_is_far_over_a_limit_is_chosen_last(make_problem: Any) -> None:
    problem = make_problem(precisions=("bf16",), constraints_ms=(0.6,))
    seen = told(problem, 80)
    designs = [x.design for x in told(problem, 100, seed=3)]
    loads = [problem.goals.load(problem.ms(x)) for x in designs]
    hopeless = {i for i, x in enumerate(loads) if x > 1.5}
    assert hopeless
    order = guide_of(problem, seen).choose(designs, len(designs))
    assert not hopeless & set(order[:8])
    assert set(order) == set(range(100))


def test_one_of_two_twins_is_enough(make_problem: Any) -> None:
    """The second choice looks elsewhere: a design chosen is counted as if its hope had come true."""
    problem = make_problem(precisions=("bf16",))
    designs = [x.design for x in told(problem, 30, seed=4)]
    best = designs[guide_of(problem, told(problem, 60)).choose(designs, 1)[0]]
    chosen = guide_of(problem, told(problem, 60)).choose([best, best, *designs], 3)
    assert [[best, best, *designs][i] == best for i in chosen] == [True, False, False]


def test_twins_slightly_over_the_limit_are_twins_as_well(make_problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem(precisions=("bf16",), noise=0.0)
    guide = guide_of(problem, told(problem, 60))
    monkeypatch.setattr(guide, "_front", [(0.2, 0.5), (0.99, 0.6)])
    monkeypatch.setattr(guide, "_accuracy", Sure([0.9, 0.9, 0.61], 0.0))
    monkeypatch.setattr(guide, "_latency", {(0, "bf16"): Sure([1.001, 1.001, 0.98], 0.1)})
    three = [x.design for x in told(problem, 3, seed=8)]
    assert guide.choose(three, 2) == [0, 2]


def test_what_gains_nothing_goes_by_accuracy(make_problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a front that nothing can add to, the most accurate goes first even where another is surer to fit."""
    problem = make_problem(precisions=("bf16",), noise=0.0)
    problem.goals = Goals(constraints_ms=(1.0,))
    seen = told(problem, 60)
    perfect = replace(seen[0], accuracy=1.0, latencies=(replace(seen[0].latencies[0], ms=0.1, ci_ms=(0.1, 0.1)),))
    guide = guide_of(problem, [*seen, perfect])

    monkeypatch.setattr(guide, "_accuracy", Sure([0.6, 0.9], 0.0))
    monkeypatch.setattr(guide, "_latency", {(0, "bf16"): Sure([0.6, 0.98], 0.05)})
    pair = [x.design for x in told(problem, 2, seed=8)]
    assert guide.choose(pair, 2) == [1, 0]


def test_what_was_told_far_over_the_limit_is_on_no_front(make_problem: Any) -> None:
    problem = make_problem(precisions=("bf16",))
    seen = told(problem, 60)
    over = [replace(x, accuracy=1.0) for x in seen if problem.goals.violation(x.ms) > 0]
    assert over
    designs = [x.design for x in told(problem, 40, seed=3)]
    assert len(guide_of(problem, [*seen, *over]).choose(designs, 3)) == 3


def test_unlimited_targets_make_no_design_unfit(make_problem: Any) -> None:
    problem = make_problem(targets=2, constraints_ms=(1.0, None))
    designs = [x.design for x in told(problem, 60, seed=2)]
    guide = guide_of(problem, told(problem, 80))
    assert guide.is_ready
    chosen = guide.choose(designs, 5)
    assert all(problem.goals.load(problem.ms(designs[i])) < 1.1 for i in chosen)


def test_it_uses_no_chance(make_problem: Any) -> None:
    problem = make_problem(targets=2)
    designs = [x.design for x in told(problem, 60, seed=2)]
    one, two = (guide_of(problem, told(problem, 60)) for _ in range(2))
    assert one.choose(designs, 8) == two.choose(designs, 8)


def test_the_most_accurate_go_by_hope_and_by_how_likely_they_fit(
    make_problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = make_problem(precisions=("bf16",), noise=0.0)
    problem.goals = Goals(constraints_ms=(1.0,))
    guide = guide_of(problem, told(problem, 60))
    monkeypatch.setattr(guide, "_accuracy", Sure([0.7, 0.9, 0.95, 0.8], 0.0))
    monkeypatch.setattr(guide, "_latency", {(0, "bf16"): Sure([0.5, 0.9, 1.5, 0.6], 0.01)})
    four = [x.design for x in told(problem, 4, seed=8)]
    assert guide.most_accurate(four, 2) == [1, 3]  # the best of all is too slow
    assert guide.most_accurate([], 2) == []
