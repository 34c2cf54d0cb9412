"""The search as a whole: its laws, its budget, and what ends it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from search.candidate import Candidate
from search.errors import NothingFits, StoreError
from search.front import front, hypervolume
from search.loop import Result
from search.plan import SearchPlan
from search.selection import dominates
from search.store import Store
from search.strategies.autotinybert import AutoTinyBert
from search.strategies.random_search import RandomSearch
from search.strategy import Proposal, Strategy

HEADER = {"seed": 1}
KINDS: list[dict[str, Any]] = [
    {},
    {"failing": 4, "races": True},
    {"targets": 2, "races": True, "failing": 5},
    {"per_layer": False, "targets": 2, "constraints_ms": (1.0, None)},
]


def strategies(problem: Any, seed: int = 1) -> dict[str, Strategy]:
    """Every way to search, in the state it begins with."""

    def first_ms(subnet: Any) -> float:
        return float(problem.ms(problem.space.of(subnet))[0])

    space, plan = problem.space, problem.plan
    return {
        "nsga2": problem.evolution(seed),
        "random": RandomSearch(space, plan, Random(seed)),
        "autotinybert": AutoTinyBert(space, plan, Random(seed), predict=first_ms, constraint_ms=1.0),
    }


class Killed(BaseException):
    """Stands for a kill: nothing in the search knows it."""


def dying(evaluate: Any, after: int) -> Callable[..., Iterator[Candidate]]:
    """`evaluate` until so many evaluations were made."""
    left = iter(range(after))

    def evaluated(proposals: Sequence[Proposal], known: Sequence[Candidate]) -> Iterator[Candidate]:
        for candidate in evaluate(proposals, known):
            if next(left, None) is None:
                raise Killed
            yield candidate

    return evaluated


# --- what a search does -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_it_measures_so_many_distinct_designs(make_problem: Any, kind: dict[str, Any]) -> None:
    problem = make_problem(**kind)
    result: Result = problem.search()
    assert 40 <= len(result.measured) < 48  # the generation is finished
    assert result.stopped == "engines"
    assert [x.design for x in result.candidates] == problem.asked
    assert len(set(problem.asked)) == len(problem.asked)
    assert all(map(problem.space.contains, problem.asked))
    assert result.front == front(result.candidates)
    assert len(result.measured) + len(result.failed) == len(result.candidates)
    assert bool(result.failed) == ("failing" in kind)
    assert problem.goals.fits(result.best)
    fitting = [x for x in result.candidates if x.is_scored and problem.goals.fits(x)]
    assert result.best.accuracy == max(x.accuracy or 0 for x in fitting)
    assert [x.generation for x in result.candidates] == [i // 8 for i in range(len(result.candidates))]
    assert result.generations == result.candidates[-1].generation + 1


def test_law_5_same_seed_same_front(make_problem: Any) -> None:
    def found(seed: int) -> Result:
        problem = make_problem(targets=2, races=True)
        result: Result = problem.search(problem.evolution(seed))
        return result

    assert found(3) == found(3)
    assert found(3).candidates != found(4).candidates


def test_the_rng_decides_everything(make_problem: Any) -> None:
    problem = make_problem()
    strategy = problem.evolution(3)
    strategy._rng.random()
    assert problem.search(strategy).candidates != problem.search(problem.evolution(3)).candidates


@pytest.mark.parametrize("name", ["nsga2", "random", "autotinybert"])
@pytest.mark.parametrize("kind", KINDS)
def test_law_5_killed_and_resumed_is_uninterrupted(
    make_problem: Any, tmp_path: Path, kind: dict[str, Any], name: str
) -> None:
    """Killed anywhere, also in the middle of a generation, once or over and over."""
    problem = make_problem(**kind, plan=SearchPlan(engines=32, population=8))
    with Store.open(tmp_path / "store.sqlite") as store:
        history = store.history("whole", HEADER)
        whole = problem.search(strategies(problem)[name], history=history)
        text = [json.dumps(x) for x in store.recorded("whole").candidates]
        assert text == [json.dumps(json.loads(json.dumps(x.to_json(), sort_keys=True))) for x in whole.candidates]
        for k in (0, 1, 8, 11, 23, 29):
            with pytest.raises(Killed):
                problem.search(
                    strategies(problem)[name],
                    history=store.history(f"killed {k}", HEADER),
                    evaluate=dying(problem.evaluate, k),
                )
            assert len(store.recorded(f"killed {k}")) == k
            problem.asked.clear()
            resumed = problem.search(strategies(problem)[name], history=store.history(f"killed {k}", HEADER))
            assert resumed == whole
            assert [json.dumps(x) for x in store.recorded(f"killed {k}").candidates] == text
            assert problem.asked == [x.design for x in whole.candidates[k:]]  # nothing is measured again


def test_law_5_killed_over_and_over(make_problem: Any, tmp_path: Path) -> None:
    problem = make_problem(failing=5, races=True)
    whole = problem.search()
    path, finished = tmp_path / "store.sqlite", False
    for _ in range(20):
        with Store.open(path) as store:  # a new process each time
            try:
                result = problem.search(history=store.history("s", HEADER), evaluate=dying(problem.evaluate, 5))
                finished = True
            except Killed:
                continue
        break
    assert finished
    assert result == whole


@pytest.mark.parametrize("engines", [8, 17, 24])
def test_law_5_a_resumed_search_may_go_on_for_longer(make_problem: Any, tmp_path: Path, engines: int) -> None:
    problem = make_problem(targets=2, failing=6)
    whole = problem.search()
    with Store.open(tmp_path / "store.sqlite") as store:
        first = problem.search(history=store.history("s", HEADER), plan=replace(problem.plan, engines=engines))
        assert engines <= len(first.measured) < len(whole.measured)
        problem.asked.clear()
        assert problem.search(history=store.history("s", HEADER)) == whole
        assert len(problem.asked) == len(whole.candidates) - len(first.candidates)


def test_a_finished_search_asks_nothing_again(make_problem: Any, tmp_path: Path) -> None:
    problem = make_problem(races=True)
    with Store.open(tmp_path / "store.sqlite") as store:
        whole = problem.search(history=store.history("s", HEADER))
        problem.asked.clear()
        assert problem.search(history=store.history("s", HEADER)) == whole
        assert problem.asked == []


def test_a_record_of_another_path_is_refused(make_problem: Any, tmp_path: Path) -> None:
    problem = make_problem()
    with Store.open(tmp_path / "store.sqlite") as store:
        whole = problem.search(history=store.history("s", HEADER))
        others = [
            problem.evolution(2),
            problem.evolution(opening=[problem.space.largest()]),
            RandomSearch(problem.space, problem.plan, Random(1)),
        ]
        for other in others:
            with pytest.raises(StoreError, match=r"took another path: design of its evaluation \d+ is"):
                problem.search(other, history=store.history("s", HEADER))
        assert len(store.recorded("s")) == len(whole.candidates)


def test_the_order_of_evaluation_within_a_generation_changes_nothing(make_problem: Any) -> None:
    """Whoever evaluates may do it in any order, as long as candidates come back in the order asked."""
    problem = make_problem(races=True, failing=5, targets=2)
    whole = problem.search()
    rng = Random(0)

    def shuffled(proposals: Sequence[Proposal], known: Sequence[Candidate]) -> Iterator[Candidate]:
        order = rng.sample(range(len(proposals)), len(proposals))
        done = {i: problem.candidate(proposals[i], known) for i in order}
        yield from (done[i] for i in range(len(proposals)))

    assert problem.search(evaluate=shuffled) == whole


def test_an_evaluation_is_shown_the_generations_before_and_nothing_else(make_problem: Any, tmp_path: Path) -> None:
    """Whether it is resumed in the middle of one or not: a race must have the same rivals."""
    problem = make_problem(failing=5)
    whole = problem.search()
    shown: list[tuple[int, Sequence[Candidate]]] = []

    def watching(proposals: Sequence[Proposal], known: Sequence[Candidate]) -> Iterator[Candidate]:
        shown.append((len(proposals), tuple(known)))
        return problem.evaluate(proposals, known)  # type: ignore[no-any-return]

    with Store.open(tmp_path / "store.sqlite") as store:
        with pytest.raises(Killed):
            problem.search(history=store.history("s", HEADER), evaluate=dying(problem.evaluate, 11))
        problem.search(history=store.history("s", HEADER), evaluate=watching)
    assert [count for count, _ in shown][:3] == [5, 8, 8]
    for i, (_, known) in enumerate(shown):
        assert known == whole.candidates[: 8 * (i + 1)]


def test_law_6_a_guess_is_never_a_latency(make_problem: Any) -> None:
    """Engines that come out thrice as slow as anybody would guess are reported as they came out."""
    problem = make_problem(targets=2)
    told: dict[Any, tuple[float, ...]] = {}

    def slow_machine(proposals: Sequence[Proposal], known: Sequence[Candidate]) -> Iterator[Candidate]:
        for proposal in proposals:
            found = problem.candidate(proposal)
            guessed = proposal.predicted_ms or found.ms
            ms = tuple(
                max(3 * a, 3 * b) if i % 2 else 0.3 * a for i, (a, b) in enumerate(zip(guessed, found.ms, strict=True))
            )
            told[proposal.design] = ms
            timed = tuple(replace(x, ms=m, ci_ms=(m, m)) for x, m in zip(found.latencies, ms, strict=True))
            yield replace(found, latencies=timed, accuracy=problem.accuracy(proposal.design))

    problem.goals = replace(problem.goals, constraints_ms=(1.0, 3.0))
    result = problem.search(evaluate=slow_machine)
    guessed = [x for x in result.candidates if x.predicted_ms is not None]
    assert guessed
    for x in guessed:
        assert not set(x.predicted_ms or ()) & set(x.ms)
    for x in (*result.candidates, *result.front, result.best):
        assert x.ms == told[x.design]


def test_law_6_models_that_lie_change_what_is_asked_not_what_is_said(
    make_problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = make_problem()

    def nonsense(self: Any, subnets: Sequence[Any]) -> tuple[Any, Any]:
        return np.full(len(subnets), 1e-3), np.full(len(subnets), 1e-3)

    honest = {x.design: x for x in problem.search().candidates}
    monkeypatch.setattr("search.guide.LatencyModel.__call__", nonsense)
    misled = problem.search().candidates
    assert any(x.predicted_ms == (1e-3,) for x in misled)
    assert [x.design for x in misled] != list(honest)
    for x in misled:
        truth = problem.candidate(Proposal(design=x.design))
        assert x.latencies == truth.latencies


# --- better than chance, and never behind what it was given -----------------------------------------------------------


@pytest.mark.parametrize("kind", [{}, {"targets": 2}, {"per_layer": False}], ids=["one", "two", "alike"])
def test_it_beats_random_search(make_problem: Any, kind: dict[str, Any]) -> None:
    ahead, gains, picks = 0, [], 0
    for seed in range(6):
        problem = make_problem(**kind, plan=SearchPlan(engines=96))
        mine, chance = (problem.search(x) for x in itertools.islice(strategies(problem, seed).values(), 2))
        fitting = ([x for x in r.candidates if problem.goals.fits(x)] for r in (mine, chance))
        a, b = (hypervolume(x, accuracy=0.5, latency_ms=1.0) for x in fitting)
        ahead += a > b
        gains.append(a / b)
        picks += problem.accuracy(mine.best.design) > problem.accuracy(chance.best.design)
    assert ahead >= 5
    assert sum(gains) / len(gains) > 1.02
    assert picks >= 5


def test_many_generations_are_worth_more_than_few(make_problem: Any) -> None:
    problem = make_problem(plan=SearchPlan(engines=96))
    accuracies = []
    for seed in range(3):
        result = problem.search(problem.evolution(seed))
        by_generation = [
            max(x.accuracy or 0 for x in result.candidates if problem.goals.fits(x) and x.generation <= g)
            for g in range(result.generations)
        ]
        assert by_generation == sorted(by_generation)
        accuracies.append((by_generation[2], by_generation[-1]))
    assert all(late > early + 0.01 for early, late in accuracies)


@pytest.mark.parametrize("name", ["nsga2", "random"])
def test_a_warm_start_is_asked_first_and_never_fallen_behind(make_problem: Any, name: str) -> None:
    """A search that ends behind a plain cut it was given has failed."""
    problem = make_problem()
    drawn = [problem.space.sample(Random(i)) for i in range(400)]
    good = [x for x in drawn if problem.ms(x)[0] < 0.97]
    cuts = sorted(good, key=problem.accuracy)[-6:]  # better than what 40 engines find alone
    plain = problem.search()
    made = (
        problem.evolution if name == "nsga2" else lambda **x: RandomSearch(problem.space, problem.plan, Random(1), **x)
    )
    result = problem.search(made(opening=[*cuts, cuts[0]]))
    assert [x.design for x in result.candidates[:6]] == cuts
    assert len({x.design for x in result.candidates}) == len(result.candidates)
    begun = result.candidates[:6]
    assert result.best.accuracy >= max(x.accuracy for x in begun)
    assert result.best.accuracy >= plain.best.accuracy - 0.01
    for cut in begun:
        here = (-(cut.accuracy or 0), *cut.ms)
        assert cut in result.front or any(dominates((-(x.accuracy or 0), *x.ms), here) for x in result.front)


def test_an_opening_longer_than_a_generation_is_asked_over_several(make_problem: Any) -> None:
    problem = make_problem()
    opening = [problem.space.sample(Random(i)) for i in range(19)]
    result = problem.search(problem.evolution(opening=opening))
    assert [x.design for x in result.candidates[:20]] == [*opening, problem.space.smallest()]


# --- several targets --------------------------------------------------------------------------------------------------


def test_the_best_meets_every_limit(make_problem: Any) -> None:
    problem = make_problem(targets=2, constraints_ms=(1.0, 0.25))
    result = problem.search()
    assert all(ms <= limit for ms, limit in zip(result.best.ms, (1.0, 0.25), strict=True))
    loose = make_problem(targets=2, constraints_ms=(1.0, None))
    other = loose.search()
    assert other.best.ms[1] > 0.25  # alone, the first target would choose one that is too slow for the second
    assert other.best.accuracy > result.best.accuracy


def test_the_front_keeps_what_is_best_on_any_target(make_problem: Any) -> None:
    result = make_problem(targets=2).search()
    for target in (0, 1):
        scored = [x for x in result.candidates if x.is_scored]
        assert min(x.ms[target] for x in scored) in {x.ms[target] for x in result.front}
    alike = replace(result.front[0].latencies[1], ms=1.0, ci_ms=(1.0, 1.0))
    by_first = front(replace(x, latencies=(x.latencies[0], alike)) for x in result.front)
    assert len(by_first) < len(result.front)  # some stand there for the second target alone


# --- what ends it -----------------------------------------------------------------------------------------------------


def test_failures_are_kept_never_counted_and_never_asked_again(make_problem: Any) -> None:
    problem = make_problem(failing=2)
    result = problem.search()
    assert len(result.measured) >= 40
    assert len(result.failed) > 20
    assert {x.reason for x in result.failed} == {"verification found a difference of 0.3"}
    assert len({x.design for x in result.candidates}) == len(result.candidates)
    assert not any(x in result.front for x in result.failed)


@pytest.mark.parametrize("name", ["nsga2", "random", "autotinybert"])
def test_where_all_fail_the_first_reason_is_told(make_problem: Any, name: str) -> None:
    problem = make_problem(failing=1)
    with pytest.raises(NothingFits, match=r"the first failure was: verification found a difference of 0.3; mend that"):
        problem.search(strategies(problem)[name])
    assert 80 < len(problem.asked) <= 88  # twice the engines, up to the end of the generation


def test_failures_are_bounded(make_problem: Any) -> None:
    problem = make_problem(failing=1)

    def few_work(proposals: Sequence[Proposal], known: Sequence[Candidate]) -> Iterator[Candidate]:
        problem.failing = 0 if not known else 1  # the first generation works
        return problem.evaluate(proposals, known)  # type: ignore[no-any-return]

    result = problem.search(evaluate=few_work, plan=replace(problem.plan, failures_per_engine=0.5))
    assert result.stopped == "failures"
    assert 20 < len(result.failed) <= 28
    assert len(result.measured) == 8


def test_what_is_spared_an_engine_costs_none_and_stands_nowhere(make_problem: Any) -> None:
    problem = make_problem(spares=True)
    result = problem.search()
    spared = [x for x in result.candidates if x.status == "spared"]
    assert spared
    assert len(result.measured) >= 40
    assert not any(x in result.front for x in spared)
    assert result.failed == ()
    for x in spared:  # with its real latency it would have stood on no front either
        ms = problem.ms(x.design)
        assert any((y.accuracy or 0) >= (x.accuracy or 0) and y.ms[0] <= 1.1 * ms[0] for y in result.front)


def test_what_is_spared_is_bounded(make_problem: Any) -> None:
    problem = make_problem(spares=True)
    result = problem.search(plan=replace(problem.plan, engines=10**6, spared_per_engine=20 / 10**6))
    assert result.stopped == "exhausted"
    assert 20 < sum(x.status == "spared" for x in result.candidates) <= 28


def test_where_nothing_fits_the_nearest_is_named(make_problem: Any) -> None:
    problem = make_problem(constraints_ms=(0.01,))
    with pytest.raises(NothingFits, match=r"the limits of 0.01 ms: nearest is .*; raise them") as caught:
        problem.search()
    assert caught.value.nearest is not None
    assert caught.value.nearest.ms[0] < 0.2


def test_a_stopped_race_is_on_no_front_and_never_the_best(make_problem: Any) -> None:
    problem = make_problem(races=True)

    def promising(proposals: Sequence[Proposal], known: Sequence[Candidate]) -> Iterator[Candidate]:
        for x in problem.evaluate(proposals, known):
            yield x if x.complete else replace(x, accuracy=0.999)  # of its first rows

    result = problem.search(evaluate=promising)
    stopped = [x for x in result.candidates if not x.complete]
    assert stopped
    assert all(x.rows == 100 for x in stopped)
    assert not set(stopped) & set(result.front)
    assert result.best.complete
    assert result == problem.search(evaluate=promising)


@pytest.mark.parametrize("seed", range(6))
def test_a_tiny_space_is_exhausted(make_problem: Any, random_space: Any, all_designs: Any, seed: int) -> None:
    rng = Random(seed)
    space = random_space(rng, 1)
    while not 1 <= space.size() <= 90:
        space = random_space(rng, 1)
    problem = make_problem(constraints_ms=(99.0,), plan=SearchPlan(engines=200, population=8))
    problem.space = space
    for name in ("nsga2", "random"):
        problem.asked.clear()
        result = problem.search(strategies(problem)[name])
        assert result.stopped == "exhausted"
        assert set(problem.asked) == all_designs(space)
        assert len(problem.asked) == space.size()


class Clock:
    """Goes on by what it is told, and by one second each time it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.mark.parametrize("name", ["nsga2", "random", "autotinybert"])
def test_seconds_end_it_with_the_generation(make_problem: Any, name: str) -> None:
    problem, clock = make_problem(), Clock()

    def slow(proposals: Sequence[Proposal], known: Sequence[Candidate]) -> Iterator[Candidate]:
        for candidate in problem.evaluate(proposals, known):
            clock.now += 10
            yield candidate

    plan = replace(problem.plan, seconds=150)
    result = problem.search(strategies(problem)[name], evaluate=slow, plan=plan, clock=clock)
    assert result.stopped == "seconds"
    assert len(result.measured) == 16  # 80 seconds a generation: the one that was begun is finished
    assert result.candidates == problem.search(strategies(problem)[name]).candidates[:16]


def test_a_resumed_search_is_never_shorter_than_its_record(make_problem: Any, tmp_path: Path) -> None:
    """Seconds are for what is evaluated now: a slow replay must not drop what was paid for."""
    problem = make_problem()
    with Store.open(tmp_path / "store.sqlite") as store:
        whole = problem.search(history=store.history("s", HEADER))
        plan = replace(problem.plan, seconds=2.5)
        again = problem.search(history=store.history("s", HEADER), plan=plan, clock=Clock())
    assert again.candidates == whole.candidates


def test_an_evaluation_of_something_else_is_not_recorded(make_problem: Any, tmp_path: Path) -> None:
    """What is on record must be what was asked for, or it could never be replayed."""
    problem = make_problem()

    def reversed_(proposals: Sequence[Proposal], known: Sequence[Candidate]) -> Iterator[Candidate]:
        return problem.evaluate(proposals[::-1], known)  # type: ignore[no-any-return]

    def short(proposals: Sequence[Proposal], known: Sequence[Candidate]) -> Iterator[Candidate]:
        return problem.evaluate(proposals[:-1], known)  # type: ignore[no-any-return]

    with Store.open(tmp_path / "store.sqlite") as store:
        for i, (wrong, kept) in enumerate(((reversed_, 0), (short, 7))):
            with pytest.raises(ValueError, match=r"asked for|shorter"):
                problem.search(history=store.history(f"{i}", HEADER), evaluate=wrong)
            assert len(store.recorded(f"{i}")) == kept
            problem.search(history=store.history(f"{i}", HEADER))


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_is_told_after_every_evaluation(make_problem: Any) -> None:
    problem = make_problem(failing=4, races=True)
    told: list[tuple[int, int, str]] = []
    result = problem.search(progress=lambda *x: told.append(x))
    assert len(told) == len(result.candidates)
    assert [x[0] for x in told] == list(itertools.accumulate(int(x.is_measured) for x in result.candidates))
    assert {x[1] for x in told} == {40}
    for candidate, (_, _, text) in zip(result.candidates, told, strict=True):
        if not candidate.is_measured:
            assert text == "failed: verification found a difference of 0.3"
        elif candidate.accuracy is None:
            assert text.startswith("too slow at ")
        else:
            assert text.startswith(f"{candidate.accuracy:.4f}" + ("" if candidate.complete else ", stopped") + " at ")
    last = [x[2] for x in told if not x[2].startswith("failed")][-1]
    assert last.endswith(f"best {result.best.accuracy:.4f} at {result.best.ms[0]:.3g} ms")


def test_progress_says_when_nothing_fits_yet(make_problem: Any) -> None:
    problem = make_problem(constraints_ms=(0.01,))
    told: list[str] = []
    with pytest.raises(NothingFits):
        problem.search(progress=lambda done, engines, text: told.append(text))
    assert told[0].endswith("ms; none fits yet")
