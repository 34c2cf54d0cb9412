from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import pytest

from search.candidate import Candidate
from search.errors import CandidateFailed, NothingFits, RecordError
from search.evolution import Result, SearchPlan, evolve
from search.front import dominates, front, hypervolume
from search.record import Record
from supernet.space import SearchSpace, SubnetConfig

PLAN = SearchPlan(engines=24, population=8)


@pytest.fixture(autouse=True)
def _no_disk_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # thousands of evaluations; test_record has the disk


class Searches:
    """Runs searches of a problem, each with a record file of its own unless told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = itertools.count()

    def __call__(self, problem: Any, *, seed: int = 1, path: Path | None = None, **changes: Any) -> Result:
        file = path or self.folder / f"{next(self.count)}.jsonl"
        space, constraint_ms = problem.space, problem.constraint_ms
        record = Record.open(file, space=space, constraint_ms=constraint_ms, seed=seed)
        named: dict[str, Any] = {
            "accuracy": problem.accuracy,
            "latency": problem.latency,
            "flops": problem.flops,
            "plan": PLAN,
            "rng": Random(seed),
        }
        return evolve(space, constraint_ms=constraint_ms, record=record, **(named | changes))


@pytest.fixture
def search(tmp_path: Path) -> Searches:
    return Searches(tmp_path)


def test_it_measures_so_many_distinct_engines(problem: Any, search: Searches) -> None:
    result = search(problem)
    assert len(result.measured) == len({x.subnet for x in result.measured}) == 24
    assert result.stopped == "engines"
    assert result.failed == ()
    assert len(problem.asked) == 24
    assert all(problem.space.contains(x.subnet) for x in result.candidates)
    assert result.front == front(result.candidates)
    assert not any(dominates(a, b) for a in result.candidates for b in result.front)
    assert result.best.fits(1.0)
    assert result.best.accuracy == max(x.accuracy or 0 for x in result.measured if x.fits(1.0))


def test_law_5_same_seed_same_front(problem: Any, search: Searches) -> None:
    assert search(problem, seed=3) == search(problem, seed=3)
    assert search(problem, seed=3).candidates != search(problem, seed=4).candidates


def test_the_rng_decides_everything(problem: Any, search: Searches) -> None:
    used = Random(3)
    used.random()
    assert search(problem, seed=3).candidates != search(problem, seed=3, rng=used).candidates


class Killed(Exception):
    """Stands for a kill: nothing in the search knows it."""


@pytest.mark.parametrize("failing", [0, 4])
def test_law_5_interrupted_and_resumed_is_uninterrupted(
    problem: Any, search: Searches, tmp_path: Path, failing: int
) -> None:
    problem.failing = failing
    whole_path = tmp_path / "whole.jsonl"
    whole = search(problem, path=whole_path)
    assert bool(whole.failed) == bool(failing)
    for k in range(len(whole.candidates)):
        path = tmp_path / f"killed-{k}.jsonl"
        left = iter(range(k))

        def dying(subnet: SubnetConfig, left: Any = left) -> Any:
            if next(left, None) is None:
                raise Killed
            return problem.latency(subnet)

        with pytest.raises(Killed):
            search(problem, path=path, latency=dying)
        with open(path, "ab") as file:
            file.write(b'{"subnet":{"hidd')  # the kill may also tear a line
        problem.asked.clear()
        resumed = search(problem, path=path)
        assert resumed == whole
        assert path.read_bytes() == whole_path.read_bytes()
        assert problem.asked == [x.subnet for x in whole.candidates[k:]]


def test_a_kill_while_the_accuracy_is_asked_loses_one_measurement(
    problem: Any, search: Searches, tmp_path: Path
) -> None:
    whole = search(problem)
    calls = itertools.count()

    def dying(subnet: SubnetConfig) -> float:
        if next(calls) == 9:
            raise Killed
        return float(problem.accuracy(subnet))

    path = tmp_path / "killed.jsonl"
    with pytest.raises(Killed):
        search(problem, path=path, accuracy=dying)
    assert search(problem, path=path) == whole


def test_a_finished_search_asks_nothing_again(problem: Any, search: Searches, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    whole = search(problem, path=path)
    problem.asked.clear()
    assert search(problem, path=path) == whole
    assert problem.asked == []


def test_a_resumed_search_may_go_on_for_longer(problem: Any, search: Searches, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    search(problem, path=path, plan=replace(PLAN, engines=15))
    assert search(problem, path=path) == search(problem)


def test_refuses_a_record_that_another_plan_made(problem: Any, search: Searches, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    search(problem, path=path)
    with pytest.raises(RecordError, match=r"another search: its evaluation \d+ is .* this search asks for"):
        search(problem, path=path, plan=replace(PLAN, mutation_rate=0.7))
    with pytest.raises(RecordError, match="its evaluation 1 is"):
        search(problem, path=path, seeds=[problem.space.largest()])


def test_refuses_a_record_of_another_constraint(problem: Any, tmp_path: Path) -> None:
    record = Record.open(tmp_path / "r", space=problem.space, constraint_ms=2.0, seed=1)
    with pytest.raises(RecordError, match=r"constraint_ms is 2.0, asked is 1.0"):
        evolve(
            problem.space,
            accuracy=problem.accuracy,
            latency=problem.latency,
            flops=problem.flops,
            constraint_ms=1.0,
            plan=PLAN,
            rng=Random(1),
            record=record,
        )


def test_seeds_and_the_smallest_come_first(problem: Any, search: Searches) -> None:
    rng = Random(9)
    seeds = [problem.space.sample(rng) for _ in range(3)]
    result = search(problem, seeds=[*seeds, seeds[0], problem.space.smallest()])
    assert [x.subnet for x in result.candidates[:4]] == [*seeds, problem.space.smallest()]
    few = search(problem, seeds=seeds, plan=replace(PLAN, engines=2))
    assert [x.subnet for x in few.candidates] == seeds[:2]


def test_refuses_a_seed_outside_the_space(problem: Any, search: Searches) -> None:
    stranger = SubnetConfig.uniform(hidden_size=384, depth=1, heads=4, head_size=32, ffn_size=256)
    with pytest.raises(ValueError, match="a seed must be in the search space"):
        search(problem, seeds=[stranger])


def test_failures_are_kept_never_counted_and_never_parents(problem: Any, search: Searches) -> None:
    problem.failing = 3
    result = search(problem)
    assert len(result.measured) == 24
    assert len(result.failed) > 3
    assert {x.reason for x in result.failed} == {"verification found a difference of 0.3"}
    assert all(x.latency_ms is None and x.accuracy is None for x in result.failed)
    assert len({x.subnet for x in result.candidates}) == len(result.candidates)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_latency_that_is_none_is_a_failure(problem: Any, search: Searches, number: float) -> None:
    first = problem.space.smallest()

    def odd(subnet: SubnetConfig) -> Any:
        timed = problem.latency(subnet)
        return replace(timed, ms=number) if subnet == first else timed

    result = search(problem, latency=odd)
    assert [x.subnet for x in result.failed] == [first]
    assert "latency" in (result.failed[0].reason or "")


def test_an_accuracy_may_fail_too(problem: Any, search: Searches) -> None:
    first = problem.space.smallest()

    def diverged(subnet: SubnetConfig) -> float:
        return float("nan") if subnet == first else float(problem.accuracy(subnet))

    def refused(subnet: SubnetConfig) -> float:
        if subnet == first:
            raise CandidateFailed("ran out of memory")
        return float(problem.accuracy(subnet))

    assert search(problem, accuracy=diverged).failed[0].reason == "the accuracy must be finite, got nan"
    assert search(problem, accuracy=refused).failed[0].reason == "ran out of memory"


def test_the_accuracy_of_far_too_slow_engines_is_not_asked(problem: Any, search: Searches) -> None:
    problem.constraint_ms = 0.6
    asked = []

    def accuracy(subnet: SubnetConfig) -> float:
        asked.append(subnet)
        return float(problem.accuracy(subnet))

    result = search(problem, accuracy=accuracy)
    slow = [x for x in result.measured if (x.latency_ms or 0) > 0.9]
    assert slow
    assert all(x.accuracy is None for x in slow)
    assert asked == [x.subnet for x in result.measured if x not in slow]
    assert not set(slow) & set(result.front)


def test_a_constraint_nothing_can_meet(problem: Any, search: Searches) -> None:
    problem.constraint_ms = 0.05
    with pytest.raises(NothingFits, match=r"more than 0.05 ms, but the fastest measured takes") as caught:
        search(problem)
    assert caught.value.fastest is not None
    assert caught.value.fastest.latency_ms == min(problem.milliseconds(x) for x in problem.asked)
    assert len(problem.asked) == 24


def test_when_everything_fails_it_stops_and_says_why(problem: Any, search: Searches) -> None:
    problem.failing = 1
    with pytest.raises(NothingFits, match=r"no engine could be measured.*difference of 0\.3") as caught:
        search(problem)
    assert caught.value.fastest is None
    assert len(problem.asked) == 49  # more than two failures per engine asked for


def test_too_many_failures_end_the_search(problem: Any, search: Searches) -> None:
    problem.failing = 2
    result = search(problem, plan=replace(PLAN, failures_per_engine=0.25))
    assert result.stopped == "failures"
    assert len(result.failed) == 7


@pytest.mark.parametrize("per_layer", [True, False])
def test_a_small_space_is_exhausted(problem: Any, search: Searches, per_layer: bool) -> None:
    problem.space = SearchSpace.of_depths(
        source_layers=3,
        depths=[1, 2],
        hidden_sizes=(256, 384),
        heads=(4, 8),
        head_sizes=(32,),
        ffn_sizes=(256,),
        per_layer=per_layer,
    )
    result = search(problem, plan=replace(PLAN, engines=1000))
    assert result.stopped == "exhausted"
    assert len(result.measured) == problem.space.size() == (36 if per_layer else 24)


def test_duplicates_end_the_search(problem: Any, search: Searches) -> None:
    result = search(problem, plan=replace(PLAN, engines=100_000, patience=1, population=16))
    assert result.stopped == "duplicates"
    assert len(result.measured) < 100_000


def test_progress_is_told_of_every_evaluation(problem: Any, search: Searches) -> None:
    problem.failing = 5
    told: list[tuple[int, int, str]] = []
    result = search(problem, progress=lambda *now: told.append(now))
    assert len(told) == len(result.candidates)
    assert told[-1][:2] == (24, 24)
    assert [done for done, _, _ in told] == list(itertools.accumulate(x.is_measured for x in result.candidates))
    assert any(text.startswith("failed: verification") for _, _, text in told)
    assert f"best {result.best.accuracy:.4f}" in told[-1][2]


def test_progress_before_anything_fits(problem: Any, search: Searches) -> None:
    problem.constraint_ms = 0.05
    told: list[str] = []
    with pytest.raises(NothingFits):
        search(problem, progress=lambda done, total, text: told.append(text))
    assert told[0].startswith("too slow at")
    assert told[0].endswith("none fits yet")


@pytest.mark.parametrize("constraint_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_such_a_constraint(problem: Any, tmp_path: Path, constraint_ms: float) -> None:
    record = Record.open(tmp_path / "r", space=problem.space, constraint_ms=1.0, seed=1)
    with pytest.raises(ValueError, match="constraint_ms must be a positive number"):
        evolve(
            problem.space,
            accuracy=problem.accuracy,
            latency=problem.latency,
            flops=problem.flops,
            constraint_ms=constraint_ms,
            plan=PLAN,
            rng=Random(1),
            record=record,
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"engines": 0},
        {"population": 1},
        {"mutation_rate": 0.0},
        {"mutation_rate": 1.1},
        {"slack": 0.9},
        {"focus": 1.0},
        {"brood": 0},
        {"patience": 0},
        {"failures_per_engine": -1.0},
    ],
    ids=lambda x: next(iter(x)),
)
def test_the_plan_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must .*got"):
        SearchPlan(**({"engines": 8} | wrong))


def at_random(problem: Any, seed: int, engines: int) -> list[Candidate]:
    rng, drawn = Random(seed), {problem.space.smallest(): None}
    while len(drawn) < engines:
        drawn[problem.space.sample(rng)] = None
    return [
        Candidate(subnet=x, accuracy=problem.accuracy(x), latency_ms=problem.milliseconds(x), flops=0) for x in drawn
    ]


@pytest.mark.parametrize("constraint_ms", [0.6, 0.8, 1.0])
def test_it_beats_random_search(problem: Any, search: Searches, constraint_ms: float) -> None:
    problem.constraint_ms = constraint_ms
    plan = SearchPlan(engines=48)
    seeds = range(8)
    evolved = [search(problem, seed=seed, plan=plan).candidates for seed in seeds]
    random = [at_random(problem, seed, 48) for seed in seeds]

    def area(found: Any) -> float:
        return hypervolume(found, accuracy=0.5, latency_ms=constraint_ms)

    def best(found: Any) -> float:
        return max(x.accuracy or 0.0 for x in found if x.fits(constraint_ms))

    assert mean(map(area, evolved)) > mean(map(area, random))
    assert mean(map(best, evolved)) > mean(map(best, random))
    # Engines are spent where the pick will be made.
    near = [mean(0.7 <= (x.latency_ms or 0) / constraint_ms <= 1 for x in found) for found in (*evolved, *random)]
    assert mean(near[:8]) > mean(near[8:])
