"""Generations evaluated: what the store knows is reused, what fails is kept apart, nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from atb_export.evaluation import Evaluation, Reference, Subject, find_reference
from atb_export.executors.local import LocalExecutor
from atb_export.jobs import Failed, Measured, MeasureJob, Scored, ScoreJob
from atb_export.work import WorkInputs, engine_graph
from runtime.environment import environment, hardware_id, runtime_version
from runtime.target import EngineTarget, Shape
from search.candidate import Candidate
from search.design import Design, DesignSpace
from search.errors import SearchError
from search.goals import Goals
from search.store import Accuracy, Store
from search.strategy import Proposal
from supernet.space import LayerConfig, SearchSpace, SubnetConfig

OV = EngineTarget(backend="openvino", precision="f32", shape=Shape(batch=1, length=16))
ORT = EngineTarget(backend="onnxruntime", precision="f32", shape=Shape(batch=1, length=16))
SPACE = SearchSpace.of_depths(
    source_layers=4, depths=[1, 2, 3], hidden_sizes=(16, 24, 32), heads=(2, 4), head_sizes=(4, 8), ffn_sizes=(32, 64)
)


def flops(subnet: SubnetConfig) -> int:
    return sum(subnet.hidden_size * (4 * x.qkv_size + 2 * x.ffn_size) for x in subnet.layers)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.sqlite") as found:
        yield found


@pytest.fixture
def evaluation(made_up: Any, store: Store) -> Callable[..., Evaluation]:
    """An evaluation of `made_up` on the store, as many as are asked for; its references take 10 ms."""

    def build(
        *targets: EngineTarget,
        limits: tuple[float | None, ...] | None = None,
        executor: Any = None,
        checkpoint: str = "weights",
        reference: str | None = None,
    ) -> Evaluation:
        used = targets or (OV,)
        net = made_up.work.inputs.reference
        graph = reference or engine_graph(net.shape, net.facts, token_types=False, precision="f32")
        references = [
            Reference(
                target=x,
                graph=graph,
                ms=10.0,
                effective_precision="f32",
                runtime=runtime_version(x.backend),
                hardware=made_up.hardware,
            )
            for x in used
        ]
        return Evaluation(
            executor=executor or made_up,
            store=store,
            goals=Goals(constraints_ms=limits or (None,) * len(used)),
            slack=1.25,
            references=references,
            subject=Subject(checkpoint=checkpoint, data="rows", facts=net.facts, token_types=False),
            flops=flops,
        )

    return build


def proposals(count: int = 6, precisions: tuple[tuple[str, ...], ...] = (("f32",),), seed: int = 0) -> list[Proposal]:
    space, rng = DesignSpace(subnets=SPACE, precisions=precisions), Random(seed)
    return [Proposal(design=x) for x in dict.fromkeys(space.sample(rng) for _ in range(count))]


def distinct(asked: list[Proposal]) -> int:
    """Engines: shape and precision, whichever of the supernet's layers it is cut from."""
    return len({(x.design.subnet.renumbered(), x.design.precisions) for x in asked})


# --- reuse ----------------------------------------------------------------------------------------------------------


def test_a_second_search_measures_and_scores_nothing(evaluation: Any, made_up: Any) -> None:
    asked = proposals(12)
    first = evaluation()
    candidates = list(first(asked, []))
    assert all(x.is_scored for x in candidates)
    assert first.spent["measured"] == len(made_up.measured) == distinct(asked)
    assert first.spent["scored"] == len(made_up.scored) == len(asked)
    second = evaluation()
    assert list(second(asked, [])) == candidates
    assert second.spent["measured"] == second.spent["scored"] == 0
    assert second.spent["reused"] >= 2 * len({x.design.subnet for x in asked}) - len(asked) + distinct(asked)
    assert len(made_up.measured) == distinct(asked)


def test_subnets_of_other_layers_but_one_shape_are_one_engine(evaluation: Any, made_up: Any, store: Store) -> None:
    """Within a generation, too; their accuracies are their own."""
    asked = [
        Proposal(design=Design(subnet=SubnetConfig(hidden_size=24, layers=(layer,)), precisions=("f32",)))
        for layer in (LayerConfig(source=i, heads=2, head_size=8, ffn_size=32) for i in range(4))
    ]
    found = list(evaluation()(asked, []))
    assert len(made_up.measured) == 1
    assert len(made_up.scored) == 4
    assert len({x.latencies for x in found}) == 1
    assert len(store.measurements()) == 1


def test_other_weights_are_scored_again_but_not_measured(evaluation: Any, made_up: Any) -> None:
    asked = proposals()
    list(evaluation()(asked, []))
    done = len(made_up.measured), len(made_up.scored)
    list(evaluation(checkpoint="other weights")(asked, []))
    assert (len(made_up.measured), len(made_up.scored)) == (done[0], 2 * done[1])


def test_what_was_measured_beside_another_calm_time_comes_on_this_scale(evaluation: Any) -> None:
    asked = proposals()
    slow = list(evaluation()(asked, []))
    again = evaluation()
    again.references = [replace(x, ms=2 * x.ms) for x in again.references]
    for a, b in zip(slow, again(asked, []), strict=True):
        assert b.ms == pytest.approx([2 * x for x in a.ms])
        assert b.latencies[0].ci_ms == pytest.approx([2 * x for x in a.latencies[0].ci_ms])


def test_what_holds_for_something_else_is_not_reused(evaluation: Any, made_up: Any) -> None:
    """Another reference's graph, machine, threads or shape: measured anew."""
    asked = proposals(4)
    list(evaluation()(asked, []))
    done = len(made_up.measured)
    others = [
        evaluation(reference="0" * 64),
        evaluation(replace(OV, threads=2)),
        evaluation(replace(OV, shape=Shape(batch=2, length=16))),
        evaluation(ORT),
    ]
    elsewhere = evaluation()
    elsewhere.references = [replace(x, hardware="elsewhere") for x in elsewhere.references]
    for i, other in enumerate([*others, elsewhere]):
        list(other(asked, []))
        assert len(made_up.measured) == (i + 2) * done


def test_each_row_says_all_that_it_was_measured_under(evaluation: Any, store: Store, made_up: Any) -> None:
    asked = proposals(5)
    found = list(evaluation()(asked, []))
    rows = {x.key.graph: x for x in store.measurements()}
    facts = made_up.work.inputs.supernet.facts
    for x in found:
        row = rows[engine_graph(x.subnet, facts, token_types=False, precision="f32")]
        assert (row.ms, row.ci_ms) == (x.ms[0], x.latencies[0].ci_ms)
        assert (row.reference_ms, row.report, row.flops) == (10.0, {"made": "up"}, flops(x.subnet))
        assert row.subnet is not None
        assert SubnetConfig.from_json(row.subnet).renumbered() == x.subnet.renumbered()
        assert row.model_bytes == x.model_bytes
        score = store.accuracy(checkpoint="weights", subnet=x.subnet.to_json(), precision="float", data="rows")
        assert score is not None
        assert (score.accuracy, score.complete) == (x.accuracy, True)


def test_the_time_of_each_part_is_in_the_candidate(evaluation: Any) -> None:
    (found,) = evaluation()(proposals(1), [])
    assert found.seconds["measure"] == 0.25
    assert found.seconds["accuracy"] > 0


# --- limits ---------------------------------------------------------------------------------------------------------


def test_an_engine_far_over_a_limit_is_not_scored(evaluation: Any, made_up: Any) -> None:
    asked = proposals(12)
    times = sorted(made_up.ms(x.design.subnet, "f32") for x in asked)
    limit = times[5]
    found = list(evaluation(limits=(limit,))(asked, []))
    for x in found:
        assert (x.accuracy is None) == (x.ms[0] > 1.25 * limit)
        assert x.rows == (0 if x.accuracy is None else 48)
    assert 0 < len(made_up.scored) < len(asked)


def test_each_target_has_its_limit(evaluation: Any, made_up: Any) -> None:
    """An engine that is too slow on one of them is not asked for, however quick it is on the other."""
    asked = proposals(12, precisions=(("f32",), ("f32",)))
    times = sorted(made_up.ms(x.design.subnet, "f32") for x in asked)
    found = list(evaluation(OV, ORT, limits=(None, times[5]))(asked, []))
    assert all(len(x.latencies) == 2 for x in found)
    assert {x.accuracy is None for x in found} == {True, False}
    assert all((x.accuracy is None) == (x.ms[1] > 1.25 * times[5]) for x in found)
    assert {x.target.backend for x in made_up.measured} == {"openvino", "onnxruntime"}
    assert [x.accuracy for x in evaluation(OV, ORT, limits=(1e-3, None))(asked, [])] == [None] * len(asked)


# --- failures (law 6) -----------------------------------------------------------------------------------------------


def test_law_6_what_failed_has_a_reason_and_no_numbers(evaluation: Any, made_up: Any, store: Store) -> None:
    asked = proposals(12)
    made_up.spoilt = lambda job: Failed(reason="computes something else") if job.subnet.depth == 2 else None
    found = list(evaluation()(asked, []))
    failed = [x for x in found if x.subnet.depth == 2]
    assert len(failed) >= 2
    for x in found:
        assert x.is_measured == (x not in failed)
    for x in failed:
        assert (x.reason, x.latencies, x.accuracy) == ("computes something else", (), None)
    assert all(x.subnet.depth != 2 for x in made_up.scored)
    depths = {SubnetConfig.from_json(x.subnet).depth for x in store.measurements() if x.subnet is not None}
    assert depths == {1, 3}
    assert {x.reason for x in store.failures()} == {"computes something else"}


def test_a_lasting_failure_is_not_tried_again_a_passing_one_is(evaluation: Any, made_up: Any, store: Store) -> None:
    asked = proposals(4)
    made_up.spoilt = lambda job: Failed(reason="the worker was lost", lasting=False)
    assert [x.reason for x in evaluation()(asked, [])] == ["the worker was lost"] * len(asked)
    assert store.failures() == []
    made_up.spoilt = lambda job: Failed(reason="does not compile")
    list(evaluation()(asked, []))
    done = len(made_up.measured)
    assert done == 2 * distinct(asked)
    made_up.spoilt = lambda job: None
    again = evaluation()
    assert [x.reason for x in again(asked, [])] == ["does not compile"] * len(asked)
    assert len(made_up.measured) == done


def test_law_3_and_6_on_real_engines(
    evaluation: Any, work_inputs: WorkInputs, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other engine is spoilt: it is a failure, in the store as well, and never a measurement."""
    import atb_export.work

    real, turns = atb_export.work.engine_logits, iter(range(100))
    monkeypatch.setattr(atb_export.work, "engine_logits", lambda *a: real(*a) + (7.0 if next(turns) % 2 else 0.0))
    executor = LocalExecutor(work_inputs)
    try:
        used = evaluation(executor=executor)
        used.references = [replace(x, hardware=hardware_id(environment())) for x in used.references]
        found = list(used(proposals(6), []))
    finally:
        executor.close()
    kinds = [x.is_measured for x in found]
    assert kinds == [True, False] * 3
    graphs = [engine_graph(x.subnet, work_inputs.supernet.facts, token_types=False, precision="f32") for x in found]
    assert {x.key.graph for x in store.measurements()} == {g for g, ok in zip(graphs, kinds, strict=True) if ok}
    assert {x.key.graph for x in store.failures()} == {g for g, ok in zip(graphs, kinds, strict=True) if not ok}
    assert all("computes something else" in x.reason for x in store.failures())


# --- int8 -----------------------------------------------------------------------------------------------------------


def test_int8_is_scored_by_its_engine_and_the_worst_engine_counts(
    evaluation: Any, made_up: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All float precisions of a subnet answer alike; what a user of all targets gets is the least accurate."""
    said = {None: 0.75, "onnxruntime": 0.5}
    monkeypatch.setattr(
        made_up.work,
        "score",
        lambda job: Scored(
            accuracy=said[job.quantised and job.quantised.backend], rows=48, complete=True, correct=None
        ),
    )
    subnet = SPACE.smallest()
    for precisions, accuracy, scored in (
        (("f32", "f32"), 0.75, 1),
        (("bf16", "f32"), 0.75, 1),
        (("f32", "int8"), 0.5, 2),
    ):
        proposal = Proposal(design=Design(subnet=subnet, precisions=precisions))
        (found,) = evaluation(OV, ORT)([proposal], [])
        assert found.accuracy == accuracy
        assert len(made_up.scored) == scored
    assert made_up.scored[1] == ScoreJob(subnet=subnet, quantised=replace(ORT, precision="int8"))
    assert {x.precision for x in store.accuracies()} == {"float", f"int8 {replace(ORT, precision='int8').label}"}
    times = {x.key.target: x.ms for x in store.measurements()}
    assert set(times) == {x.label for x in (OV, replace(OV, precision="bf16"), ORT, replace(ORT, precision="int8"))}


# --- races ----------------------------------------------------------------------------------------------------------


def scored(design: Design, accuracy: float, ms: float) -> Candidate:
    from search.candidate import Timing

    return Candidate(design=design, flops=1, latencies=(Timing(ms=ms, ci_ms=(ms, ms)),), accuracy=accuracy, rows=48)


def test_a_candidate_races_the_most_accurate_that_is_as_fast(evaluation: Any, made_up: Any, store: Store) -> None:
    mine, quick, best, slow, other = (x.design for x in proposals(40)[:5])
    ms = made_up.ms(mine.subnet, "f32")
    known = [
        scored(quick, 0.6, 0.5 * ms),
        scored(best, 0.8, 0.9 * ms),
        scored(slow, 0.9, 1.1 * ms),
        replace(scored(other, 0.95, 0.5 * ms), complete=False),
    ]
    bitmaps = {quick: b"\x01" * 6, best: b"\x03" * 6, slow: b"\x07" * 6, other: b"\x0f" * 6}
    for design, bits in bitmaps.items():
        row = Accuracy(
            checkpoint="weights",
            subnet=design.subnet.to_json(),
            precision="float",
            data="rows",
            rows=48,
            complete=True,
            accuracy=0.5,
            correct=bits,
        )
        store.add(row)
    list(evaluation()([Proposal(design=mine)], known))
    assert made_up.scored == [ScoreJob(subnet=mine.subnet, rival=bitmaps[best])]


@pytest.mark.parametrize(
    ("rival", "share", "built"),
    [
        (1.0, 0.5, False),  # as accurate as anything, and faster than it could ever be
        (0.0, 0.5, True),  # faster, but less accurate
        (1.0, 0.95, True),  # slower than it may turn out to be
    ],
)
def test_no_engine_is_built_for_what_cannot_stand_on_the_front(
    evaluation: Any, made_up: Any, store: Store, rival: float, share: float, built: bool
) -> None:
    mine, other = (x.design for x in proposals(12)[:2])
    ms = made_up.ms(mine.subnet, "f32")
    asked = Proposal(design=mine, predicted_ms=(ms,), least_ms=(0.9 * ms,))
    (found,) = evaluation()([asked], [scored(other, rival, share * ms)])
    assert found.status == ("measured" if built else "spared")
    assert len(made_up.measured) == len(store.measurements()) == built
    assert len(made_up.scored) == 1  # once, and first
    assert found.accuracy == store.accuracies()[0].accuracy
    assert found.predicted_ms == (ms,)


def test_engines_that_cannot_be_foreseen_are_all_built(evaluation: Any, made_up: Any) -> None:
    mine, other = (x.design for x in proposals(12)[:2])
    (found,) = evaluation()([Proposal(design=mine)], [scored(other, 1.0, 1e-3)])
    assert found.is_measured


def test_where_bytes_count_only_a_built_engine_tells_them(evaluation: Any, made_up: Any) -> None:
    mine, other = (x.design for x in proposals(12)[:2])
    ms = made_up.ms(mine.subnet, "f32")
    small = evaluation()
    small.goals = replace(small.goals, small=True)
    (found,) = small([Proposal(design=mine, predicted_ms=(ms,), least_ms=(0.9 * ms,))], [scored(other, 1.0, 0.1 * ms)])
    assert found.is_measured


def test_what_is_surely_too_slow_is_not_asked_for_an_accuracy(evaluation: Any, made_up: Any) -> None:
    mine = proposals(12)[0].design
    ms = made_up.ms(mine.subnet, "f32")
    strict = evaluation(limits=(ms / 2,))
    (found,) = strict([Proposal(design=mine, predicted_ms=(ms,), least_ms=(0.9 * ms,))], [])
    assert found.is_measured
    assert found.accuracy is None
    assert made_up.scored == []


def test_a_stopped_race_is_no_score_and_is_run_again_by_others(
    evaluation: Any, made_up: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (asked,) = proposals(1)
    stopped = Scored(accuracy=0.25, rows=8, complete=False, correct=b"\x03")
    monkeypatch.setattr(made_up.work, "score", lambda job: stopped)
    (found,) = evaluation()([asked], [])
    assert (found.accuracy, found.rows, found.complete, found.is_scored) == (0.25, 8, False, False)
    monkeypatch.undo()
    (found,) = evaluation()([asked], [])
    assert found.is_scored
    assert len(made_up.measured) == 1
    assert len(made_up.scored) == 2
    assert {x.rows for x in store.accuracies()} == {8, 48}
    (found,) = evaluation()([asked], [])
    assert found.is_scored
    assert len(made_up.scored) == 2


# --- the reference --------------------------------------------------------------------------------------------------


def graph_of(made_up: Any) -> str:
    net = made_up.work.inputs.reference
    return engine_graph(net.shape, net.facts, token_types=False, precision="f32")


def test_the_reference_is_measured_when_a_search_begins(made_up: Any, store: Store) -> None:
    found = find_reference(made_up, store, OV, graph=graph_of(made_up))
    assert made_up.measured == [MeasureJob(subnet=None, target=OV, reference=OV)]
    assert (found.graph, found.hardware, found.effective_precision) == (graph_of(made_up), "made-up", "f32")
    assert found.ms == made_up.ms(made_up.work.inputs.reference.shape, "f32")
    (row,) = store.measurements()
    assert (row.ms, row.reference_ms, row.reference, row.subnet) == (found.ms, found.ms, found.graph, None)


def test_its_calm_time_is_that_of_its_calmer_hours(made_up: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lower quartile of all times of this engine on this machine; others do not count."""
    times: list[float] = []
    for ms in (5.0, 8.0, 4.0, 9.0, 4.5):
        monkeypatch.setattr(made_up, "ms", lambda *_, ms=ms: ms)
        times.append(find_reference(made_up, store, OV, graph=graph_of(made_up)).ms)
    assert times == [5.0, 5.0, 4.0, 4.0, 4.5]
    monkeypatch.setattr(made_up, "ms", lambda *_: 7.0)
    assert find_reference(made_up, store, ORT, graph=graph_of(made_up)).ms == 7.0
    assert find_reference(made_up, store, replace(OV, threads=2), graph=graph_of(made_up)).ms == 7.0
    made_up.hardware = "theirs"
    theirs = find_reference(made_up, store, OV, graph=graph_of(made_up))
    assert (theirs.ms, theirs.hardware) == (7.0, "theirs")


def test_a_candidate_as_large_as_the_reference_does_not_move_it(made_up: Any, store: Store) -> None:
    """It has the reference's graph, but its time is a ratio on some search's scale."""
    first = find_reference(made_up, store, OV, graph=graph_of(made_up))
    (row,) = store.measurements()
    whole = made_up.work.inputs.reference.shape.to_json()
    store.add(*(replace(row, subnet=whole, ms=0.1 * i, ci_ms=(0.0, 1.0)) for i in range(1, 6)))
    assert len(store.measurements()) == 6
    assert find_reference(made_up, store, OV, graph=graph_of(made_up)).ms == first.ms


def test_a_target_whose_reference_cannot_be_measured_ends_the_search(made_up: Any, store: Store) -> None:
    made_up.spoilt = lambda job: Failed(reason="no such device")
    with pytest.raises(SearchError, match=f"the reference engine for {OV.label} cannot be measured: no such device"):
        find_reference(made_up, store, OV, graph=graph_of(made_up))
    assert store.measurements() == []


def test_the_runtime_is_that_of_the_machine_that_measures(
    made_up: Any, store: Store, evaluation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is installed here: a worker may have another version, or the only one."""
    real = made_up.measure

    def elsewhere(jobs: Any) -> Any:
        for x in real(jobs):
            yield replace(x, key=replace(x.key, runtime="openvino 9999")) if isinstance(x, Measured) else x

    monkeypatch.setattr(made_up, "measure", elsewhere)
    found = find_reference(made_up, store, OV, graph=graph_of(made_up))
    assert found.runtime == "openvino 9999"
    asked = proposals(3)
    for _ in range(2):
        used = evaluation()
        used.references = [found]
        assert all(x.is_scored for x in used(asked, []))
    assert len(made_up.measured) == 1 + distinct(asked)
    made_up.spoilt = lambda job: Failed(reason="does not compile")
    used = evaluation()
    used.references = [found]
    list(used(proposals(8, seed=9), []))
    assert {x.key.runtime for x in store.failures()} == {"openvino 9999"}
