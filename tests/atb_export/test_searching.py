"""Whole searches on latencies that are arithmetic, and on real engines: reuse, resuming, several targets, int8."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import atb_export.eager
from atb_export.executors.local import LocalExecutor
from atb_export.jobs import Failed, Scored
from atb_export.recipe import parse_recipe
from atb_export.searching import SearchJob, SearchTarget, content_hash, search_targets
from atb_export.ui import Ui
from atb_export.work import WorkInputs
from runtime.environment import environment, hardware_id
from runtime.latency import LatencyReport
from runtime.target import EngineTarget, Shape
from search.candidate import Candidate
from search.errors import NothingFits, SearchError, StoreError
from search.front import front
from search.plan import SearchPlan
from search.store import Store
from supernet.space import SearchSpace, SubnetConfig

OV = EngineTarget(backend="openvino", precision="f32", shape=Shape(batch=1, length=16))
ORT = EngineTarget(backend="onnxruntime", precision="f32", shape=Shape(batch=1, length=16))
SPACE = SearchSpace.of_depths(
    source_layers=4, depths=[1, 2, 3], hidden_sizes=(16, 24, 32), heads=(2, 4), head_sizes=(4, 8), ffn_sizes=(32, 64)
)


def target(what: EngineTarget, *precisions: str, **limit: float) -> SearchTarget:
    return SearchTarget(
        target=replace(what, precision=(precisions or ("f32",))[0]),  # type: ignore[arg-type]
        precisions=precisions or ("f32",),
        max_ms=limit.get("max_ms"),
        of_reference=limit.get("of_reference"),
    )


def flops(subnet: SubnetConfig) -> int:
    return sum(subnet.hidden_size * (4 * x.qkv_size + 2 * x.ffn_size) for x in subnet.layers)


@pytest.fixture
def run(made_up: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Searches in a folder with a store, each named; `engines` of each search are few."""

    def search(
        name: str = "one",
        *targets: SearchTarget,
        store: str = "store",
        engines: int = 24,
        method: str = "nsga2",
        seed: int = 1,
        executor: Any = None,
        inputs: WorkInputs | None = None,
        context: str = "context",
        **more: Any,
    ) -> dict[str, Any]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        with Store.open(tmp_path / f"{store}.sqlite") as kept:
            job = SearchJob(
                inputs=inputs or made_up.work.inputs,
                space=SPACE,
                targets=targets or (target(OV, of_reference=0.5),),
                plan=SearchPlan(engines=engines, generation=6, population=8, brood=40),
                method=method,
                small=False,
                seed=seed,
                flops=flops,
                executor=executor or made_up,
                store=kept,
                ui=Ui(quiet=True),
                **more,
            )
            return job.run(folder, context)

    return search


def candidates(result: dict[str, Any]) -> list[Candidate]:
    return [Candidate.from_json({k: v for k, v in x.items() if k != "front"}) for x in result["candidates"]]


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    """All of a result but how long things took."""
    plain = {k: v for k, v in result.items() if k not in ("seconds", "candidates", "winner")}
    rows = [{k: v for k, v in x.items() if k != "seconds"} for x in [*result["candidates"], result["winner"]]]
    return plain | {"candidates": rows}


# --- what comes out -------------------------------------------------------------------------------------------------


def test_the_winner_is_the_most_accurate_within_the_limit(run: Any, made_up: Any) -> None:
    result = run()
    whole_ms = made_up.ms(made_up.work.inputs.reference.shape, "f32")
    assert result["targets"] == [OV.label]
    assert result["teacher_ms"] == [whole_ms]
    assert result["constraints_ms"] == [0.5 * whole_ms]
    assert result["effective_precisions"] == ["f32"]
    found, winner = candidates(result), Candidate.from_json(result["winner"])
    fitting = [x for x in found if x.is_scored and x.ms[0] <= 0.5 * whole_ms]
    surely = [x for x in fitting if x.latencies[0].ci_ms[1] <= 0.5 * whole_ms]
    assert winner in surely
    assert winner.accuracy == max(x.accuracy or 0.0 for x in surely)
    assert len(found) == len({x.design for x in found})
    assert 24 <= sum(x.is_measured for x in found) < 24 + 6
    edge = {x.design for x in front(found)}
    assert [x["front"] for x in result["candidates"]] == [x.design in edge for x in found]
    assert result["stopped"] == "engines"


def test_who_meets_the_limit_with_the_whole_interval_goes_first(run: Any, made_up: Any) -> None:
    """Here the larger is always the more accurate, so that the best by the median is close to the limit."""
    made_up.spread = 0.2
    made_up.work.score = lambda job: Scored(accuracy=flops(job.subnet) / 1e6, rows=48, complete=True, correct=None)
    result = run()
    (limit,) = result["constraints_ms"]
    winner = Candidate.from_json(result["winner"])
    assert winner.latencies[0].ci_ms[1] <= limit
    fitting = [x for x in candidates(result) if x.is_scored and x.ms[0] <= limit]
    assert max(x.accuracy or 0.0 for x in fitting) > (winner.accuracy or 0.0), "else this test says nothing"


def test_cuts_by_hand_are_asked_first_where_they_may_fit(run: Any) -> None:
    designs = [x.subnet for x in candidates(run("wide", target(OV, of_reference=1.0)))]
    assert [x.sources for x in designs[:3]] == [(1,), (1, 3), (1, 2, 3)]
    assert all(x.hidden_size == 32 for x in designs[:3])
    designs = [x.subnet for x in candidates(run("tight", target(OV, of_reference=0.1), store="other"))]
    assert SPACE.smallest() in designs[:2]
    assert (1, 2, 3) not in [x.sources for x in designs[:2]]


def test_the_models_guesses_are_kept_beside_the_measurements(run: Any) -> None:
    found = candidates(run(engines=36))
    assert found[0].predicted_ms is None
    guessed = [x for x in found if x.predicted_ms is not None and x.is_measured]
    assert len(guessed) >= 6
    errors = [abs((x.predicted_ms or x.ms)[0] / x.ms[0] - 1) for x in guessed]
    assert sum(errors) / len(errors) < 0.5
    assert all((x.predicted_ms or ())[0] != x.ms[0] for x in guessed), "a guess never stands for a measurement"


@pytest.mark.parametrize("method", ["nsga2", "random", "autotinybert"])
def test_every_method_ends_and_again_alike(run: Any, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 5: the same seed and measurements, the same search."""
    monkeypatch.setattr(atb_export.eager, "eager_ms", lambda net, subnet, target: flops(subnet) / 1e3)
    first, second = (run(name, store=name, method=method) for name in ("one", "two"))
    assert first["method"] == method
    assert numbers(first) == numbers(second)
    assert numbers(run("three", store="three", method=method, seed=2)) != numbers(first)


# --- the store ------------------------------------------------------------------------------------------------------


def test_a_second_search_of_the_same_path_measures_nothing(run: Any, made_up: Any, tmp_path: Path) -> None:
    """It starts where the first one did, under another name: all it asks is in the store."""
    first = run("one")
    before = len(made_up.measured), len(made_up.scored)
    start = json.loads((tmp_path / "one" / "start.json").read_text())
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "start.json").write_text(json.dumps(start | {"search": "another"}))
    assert numbers(run("two")) == numbers(first)
    assert (len(made_up.measured), len(made_up.scored)) == before


def test_no_engine_is_measured_twice_and_no_subnet_scored_twice(run: Any, made_up: Any) -> None:
    """In two searches of different paths; only the reference is timed whenever one begins."""
    run("one")
    run("two", seed=2)
    engines = [(x.subnet.renumbered(), x.target) for x in made_up.measured if x.subnet is not None]
    assert len(engines) == len(set(engines))
    assert [x.subnet is None for x in made_up.measured].count(True) == 2
    whole = [x.subnet for x in made_up.scored if x.rival is None]
    assert len(whole) == len(set(whole))


def test_a_second_search_opens_with_the_front_of_the_first_and_its_latency_models(run: Any, tmp_path: Path) -> None:
    first = run("one")
    run("two", seed=2)
    start = json.loads((tmp_path / "two" / "start.json").read_text())
    opening = [x["subnet"] for x in start["opening"]]
    best = Candidate.from_json(first["winner"])
    assert best.subnet.to_json() in opening
    shapes = {x.subnet.renumbered() for x in candidates(first) if x.is_measured}
    assert {SubnetConfig.from_json(x["subnet"]).renumbered() for x in start["known"]} == shapes
    times = {x.subnet.renumbered(): x.ms[0] for x in candidates(first) if x.is_measured}
    for row in start["known"]:
        assert row["ms"] == pytest.approx(times[SubnetConfig.from_json(row["subnet"]).renumbered()])


# --- resuming (law 5) -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["nsga2", "autotinybert"])
def test_law_5_a_killed_search_that_is_resumed_ends_bit_for_bit_where_a_whole_one_ends(
    run: Any, made_up: Any, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at every few jobs; eager timings, which are never twice the same, are taken once."""
    noise = random.Random(7)
    monkeypatch.setattr(
        atb_export.eager, "eager_ms", lambda net, subnet, target: flops(subnet) / 1e3 * (1 + 0.05 * noise.random())
    )
    kills = 0
    while True:
        made_up.dies_at = 7
        try:
            resumed = run("killed", store="killed", method=method)
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 4
    made_up.dies_at = None
    # The whole one starts where the killed one did.
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "start.json").write_text((tmp_path / "killed" / "start.json").read_text())
    assert numbers(run("whole", store="whole", method=method)) == numbers(resumed)
    before = len(made_up.measured), len(made_up.scored)
    assert numbers(run("killed", store="killed", method=method)) == numbers(resumed)
    assert (len(made_up.measured), len(made_up.scored)) == before, "all of it was replayed"


def test_what_others_measured_meanwhile_changes_nothing(run: Any, made_up: Any) -> None:
    """A resumed search keeps its opening, its limits and what it knew, whatever the store has learnt since."""
    whole = run("whole", store="whole", seed=3)
    made_up.dies_at = 30
    with pytest.raises(KeyboardInterrupt):
        run("killed", store="killed", seed=3)
    made_up.dies_at = None
    run("meanwhile", store="killed", seed=4)
    assert numbers(run("killed", store="killed", seed=3)) == numbers(whole)


def test_a_search_that_changed_is_not_resumed(run: Any, made_up: Any) -> None:
    made_up.dies_at = 20
    with pytest.raises(KeyboardInterrupt):
        run()
    made_up.dies_at = None
    for changed in ({"seed": 9}, {"context": "other weights"}, {"method": "random"}):
        with pytest.raises(StoreError, match=f"another search: {next(iter(changed))} is"):
            run(**changed)
    assert run()["candidates"]


# --- several targets, and int8 --------------------------------------------------------------------------------------


def test_one_search_meets_the_limit_of_every_target(run: Any, made_up: Any) -> None:
    whole_ms = made_up.ms(made_up.work.inputs.reference.shape, "f32")
    result = run("one", target(OV, of_reference=0.9), target(ORT, max_ms=0.3 * whole_ms), engines=30)
    assert result["targets"] == [OV.label, ORT.label]
    assert result["constraints_ms"] == [0.9 * whole_ms, 0.3 * whole_ms]
    winner = Candidate.from_json(result["winner"])
    assert len(winner.latencies) == 2
    assert all(ms <= limit for ms, limit in zip(winner.ms, result["constraints_ms"], strict=True))
    assert {x.target.backend for x in made_up.measured} == {"openvino", "onnxruntime"}
    for x in (x for x in candidates(result) if x.is_measured):
        assert (x.accuracy is None) == (x.ms[1] > 1.25 * 0.3 * whole_ms)


def test_limits_that_nothing_meets_name_the_nearest(run: Any) -> None:
    with pytest.raises(NothingFits, match=r"nothing meets the limits of any, 0\.001 ms: nearest is") as told:
        run("one", target(OV), target(ORT, max_ms=0.001), engines=6)
    assert told.value.nearest is not None
    assert told.value.nearest.subnet.depth == 1


def test_precision_is_a_gene_of_its_target_and_int8_one_of_them(run: Any, made_up: Any) -> None:
    result = run("one", target(OV, "f32", "bf16", of_reference=0.5), target(ORT, "f32", "int8"), engines=30)
    found = candidates(result)
    drawn = {x.design.precisions for x in found}
    assert drawn == {("f32", "f32"), ("f32", "int8"), ("bf16", "f32"), ("bf16", "int8")}
    for x in (x for x in found if x.is_measured):
        assert x.ms == tuple(made_up.ms(x.subnet, p) for p in x.design.precisions)
    asked = {(x.subnet, x.quantised is not None) for x in made_up.scored}
    for x in found:
        if x.accuracy is not None:
            assert (x.subnet, "int8" in x.design.precisions) in asked or "int8" not in x.design.precisions
    assert all(x.quantised in (None, replace(ORT, precision="int8")) for x in made_up.scored)


def test_a_target_that_cannot_be_measured_ends_it_before_anything_is_spent(run: Any, made_up: Any) -> None:
    made_up.spoilt = lambda job: Failed(reason="no such device") if job.target.backend == "onnxruntime" else None
    with pytest.raises(SearchError, match=f"the reference engine for {ORT.label} cannot be measured: no such device"):
        run("one", target(OV), target(ORT))
    assert made_up.scored == []


# --- real engines (law 6) -------------------------------------------------------------------------------------------


def test_law_6_a_search_on_real_engines_reports_what_was_measured(
    run: Any, work_inputs: WorkInputs, short_plans: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The front's latencies are those of the last measurement, side by side; all others those of the store."""
    import atb_export.searching

    reports: list[dict[str, LatencyReport]] = []
    real = atb_export.searching.measure_together

    def keep(*args: Any, **kwargs: Any) -> Any:
        reports.append(real(*args, **kwargs))
        return reports[-1]

    monkeypatch.setattr(atb_export.searching, "measure_together", keep)
    executor = LocalExecutor(work_inputs)
    try:
        result = run(
            "one",
            target(OV, of_reference=1.0),
            target(ORT, "int8", "f32"),
            engines=6,
            executor=executor,
            inputs=work_inputs,
        )
    finally:
        executor.close()
    assert result["effective_precisions"] == ["f32", "int8"]
    found = {x.design.key: x for x in candidates(result)}
    assert len(reports) == 2
    confirmed = set(reports[0]) - {"reference"}
    for i, report in enumerate(reports):
        for key in confirmed:
            scale, x = result["teacher_ms"][i], found[key]
            assert x.latencies[i].ms == report[key].ratio_to_reference * scale
            assert x.latencies[i].ci_ms == tuple(r * scale for r in report[key].ratio_ci)
            assert report[key].effective_precision == x.design.precisions[i]
    assert {x["design"]["subnet"]["hidden_size"] for x in result["candidates"] if x["front"]} <= {
        found[key].subnet.hidden_size for key in confirmed
    }
    with Store.open(tmp_path / "store.sqlite") as store:
        rows = store.measurements()
    assert {x.key.hardware for x in rows} == {hardware_id(environment())}
    for key, x in found.items():
        if key in confirmed:
            continue
        for i, timing in enumerate(x.latencies):
            (row,) = [
                r
                for r in rows
                if r.subnet is not None
                and SubnetConfig.from_json(r.subnet).renumbered() == x.subnet.renumbered()
                and r.key.target == replace((OV, ORT)[i], precision=x.design.precisions[i]).label  # type: ignore[arg-type]
            ]
            assert row.report is not None
            assert timing.ms == row.ms == LatencyReport.from_json(row.report).ratio_to_reference * row.reference_ms


# --- names ----------------------------------------------------------------------------------------------------------


def test_hashes_change_with_any_weight_word_or_label(work_inputs: WorkInputs, make_dense: Any) -> None:
    net, texts, labels = make_dense(seed=4).net, work_inputs.texts, work_inputs.labels
    plain = content_hash(net, texts, labels)
    assert plain == content_hash(make_dense(seed=4).net, texts.take(range(len(texts))), labels.clone())
    with torch.no_grad():
        next(net.parameters()).view(-1)[0] += 1e-3
    others = [
        content_hash(net, texts, labels),
        content_hash(work_inputs.supernet, texts.take(range(47)), labels),
        content_hash(work_inputs.supernet, texts, labels.flip(0)),
        content_hash(work_inputs.supernet, texts),
    ]
    assert len({plain, *others}) == 5


def test_the_recipes_targets_and_their_limits(tiny_recipe: Callable[..., str]) -> None:
    engine = {"backend": "openvino", "length": 16}
    recipe = parse_recipe(
        tiny_recipe(
            target=[
                {**engine, "precision": ["f32", "int8"]},
                {**engine, "precision": "f32", "threads": 2},
                {"backend": "onnxruntime", "precision": "f32", "length": 16, "max_ms": 0.5},
                {"backend": "onnxruntime", "precision": "f32", "length": 24, "of_teacher": 0.25},
                {"backend": "onnxruntime", "precision": "f32", "length": 32, "searched": True},
            ]
        ).encode()
    )
    found = search_targets(recipe)
    assert [x.target.shape.length for x in found] == [16, 16, 24, 32]
    assert [x.precisions for x in found] == [("f32", "int8"), ("f32",), ("f32",), ("f32",)]
    assert [x.limit_ms(2.0) for x in found] == [1.9, 0.5, 0.5, None]
