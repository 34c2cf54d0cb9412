"""The two questions of a search on real engines; laws 3 and 6."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import atb_export.work
from atb_export.dense import DenseModel
from atb_export.jobs import Failed, Measured, MeasureJob, Scored, ScoreJob
from atb_export.onnx.graph import graph_bytes
from atb_export.onnx.quantise import quantised_bytes
from atb_export.verify import engine_logits, reference_logits
from atb_export.work import Work, WorkInputs, engine_graph
from runtime.engine import backend
from runtime.environment import environment, hardware_id, runtime_version
from runtime.latency import LatencyReport
from runtime.target import EngineTarget, Shape
from search.store import Measurement, Store
from supernet.batches import TokenizedTexts
from supernet.space import SubnetConfig

Draw = Callable[[SubnetConfig, int], SubnetConfig]
TARGET = EngineTarget(backend="openvino", precision="f32", shape=Shape(batch=1, length=16))


@pytest.fixture
def work(work_inputs: WorkInputs) -> Iterator[Work]:
    found = Work(work_inputs)
    yield found
    found.close()


def job(subnet: SubnetConfig | None, target: EngineTarget = TARGET, **more: Any) -> MeasureJob:
    return MeasureJob(subnet=subnet, target=target, reference=TARGET, reference_ms=2.0, **more)


@pytest.fixture
def drawn(work: Work, draw_subnet: Draw) -> SubnetConfig:
    return draw_subnet(work.inputs.supernet.shape, 1)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, LatencyReport]]:
    """What every call of `measure` answered."""
    reports: list[dict[str, LatencyReport]] = []
    real = atb_export.work.measure

    def keep(*args: Any, **kwargs: Any) -> Any:
        reports.append(real(*args, **kwargs))
        return reports[-1]

    monkeypatch.setattr(atb_export.work, "measure", keep)
    return reports


# --- law 6 ----------------------------------------------------------------------------------------------------------


def test_law_6_a_latency_is_the_ratio_of_the_samples_beside_the_reference(
    work: Work, drawn: SubnetConfig, timed: list[dict[str, LatencyReport]]
) -> None:
    found = work.measure(job(drawn))
    assert isinstance(found, Measured)
    (reports,) = timed
    report = reports["x"]
    assert LatencyReport.from_json(found.report) == report
    assert report.target == report.reference == TARGET.label
    assert found.ms == report.ratio_to_reference * 2.0
    assert found.ci_ms == tuple(x * 2.0 for x in report.ratio_ci)
    assert found.ci_ms[0] <= found.ms <= found.ci_ms[1]
    assert found.model_bytes == pytest.approx(len(graph_bytes(work.inputs.supernet, drawn)), abs=100)
    assert set(found.seconds) == {"graph", "compile", "verify", "measure"}


def test_the_key_says_what_the_latency_holds_for(work: Work, drawn: SubnetConfig) -> None:
    found = work.measure(job(drawn))
    assert isinstance(found, Measured)
    facts = work.inputs.supernet.facts
    assert found.key.graph == engine_graph(drawn, facts, token_types=False, precision="f32")
    assert found.key.graph == engine_graph(drawn.renumbered(), facts, token_types=False, precision="bf16")
    assert found.key.graph != engine_graph(drawn, facts, token_types=False, precision="int8")
    assert found.key.graph != engine_graph(drawn, facts, token_types=True, precision="f32")
    assert (found.key.target, found.key.effective_precision) == (TARGET.label, "f32")
    assert (found.key.batch, found.key.length, found.key.threads) == (1, 16, 1)
    assert found.key.runtime == runtime_version("openvino")
    assert found.key.hardware == hardware_id(environment())


def test_the_reference_is_its_own_median(work: Work, short_plans: None, timed: list[dict[str, LatencyReport]]) -> None:
    found = work.measure(MeasureJob(subnet=None, target=TARGET, reference=TARGET))
    assert isinstance(found, Measured)
    (reports,) = timed
    assert list(reports) == ["reference"]
    assert found.ms == reports["reference"].p50_ms
    whole = work.inputs.reference.shape
    assert found.key.graph == engine_graph(whole, work.inputs.reference.facts, token_types=False, precision="f32")


def test_the_reference_is_compiled_once_for_a_target(
    work: Work, draw_subnet: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[EngineTarget] = []
    real = type(backend("openvino")).open
    monkeypatch.setattr(
        type(backend("openvino")), "open", lambda self, onnx, t: opened.append(t) or real(self, onnx, t)
    )
    for seed in range(3):
        assert isinstance(work.measure(job(draw_subnet(work.inputs.supernet.shape, seed))), Measured)
    assert len(opened) == 4
    work.close()
    work.close()


# --- law 3 ----------------------------------------------------------------------------------------------------------


def refused(found: object, reason: str, *, lasting: bool = True) -> None:
    assert isinstance(found, Failed), found
    assert reason in found.reason
    assert found.lasting is lasting


def test_an_engine_that_does_not_compile_is_not_timed(
    work: Work, drawn: SubnetConfig, monkeypatch: pytest.MonkeyPatch, timed: list[Any]
) -> None:
    real = atb_export.work.graph_parts_for

    def none(net: Any, cut: Any, *rest: Any, **more: Any) -> Any:
        return [b"no model"] if cut is drawn else real(net, cut, *rest, **more)

    monkeypatch.setattr(atb_export.work, "graph_parts_for", none)
    refused(work.measure(job(drawn)), f"does not compile: {drawn.key}.onnx is not an ONNX model")
    assert timed == []


@pytest.mark.parametrize("bad", [np.nan, 0.5])
def test_law_3_an_engine_that_computes_something_else_is_not_timed(
    work: Work, drawn: SubnetConfig, monkeypatch: pytest.MonkeyPatch, timed: list[Any], bad: float
) -> None:
    real = atb_export.work.engine_logits
    monkeypatch.setattr(atb_export.work, "engine_logits", lambda *a: real(*a) + bad)
    refused(work.measure(job(drawn)), "computes something else: 1 of 1 comparisons failed")
    refused(work.measure(MeasureJob(subnet=None, target=TARGET, reference=TARGET)), "computes something else")
    assert timed == []


def test_law_3_the_engine_of_another_subnet_is_noticed(
    work: Work, draw_subnet: Draw, monkeypatch: pytest.MonkeyPatch, timed: list[Any]
) -> None:
    """What is compared are the weights of the very subnet: an engine of the same sizes from other layers is wrong."""
    shape = work.inputs.supernet.shape
    mine = SubnetConfig(hidden_size=24, layers=shape.layers[1:3])
    other = SubnetConfig(hidden_size=24, layers=shape.layers[0:2])
    real = atb_export.work.graph_parts_for

    def swapped(net: Any, cut: Any, *rest: Any, **more: Any) -> bytes:
        return real(net, other if cut is mine else cut, *rest, **more)

    monkeypatch.setattr(atb_export.work, "graph_parts_for", swapped)
    refused(work.measure(job(mine)), "computes something else")
    assert timed == []


def test_a_job_of_another_machine_is_left_to_it(work: Work, drawn: SubnetConfig, timed: list[Any]) -> None:
    found = work.measure(job(drawn, hardware="0123456789ab"))
    refused(found, f"the search measures {TARGET.label} on 0123456789ab", lasting=False)
    assert isinstance(work.measure(job(drawn, hardware=hardware_id(environment()))), Measured)
    assert len(timed) == 1


def test_a_target_that_cannot_run_here_says_why(
    work: Work, drawn: SubnetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(backend("openvino")), "can_run", lambda _: "no such luck")
    refused(work.measure(job(drawn)), f"{TARGET.label} cannot run here: no such luck", lasting=False)


def test_a_precision_the_device_lacks_is_a_lasting_failure(work: Work, drawn: SubnetConfig) -> None:
    target = EngineTarget(backend="onnxruntime", precision="bf16", shape=TARGET.shape)
    refused(work.measure(job(drawn, target)), "does not compile: onnxruntime computes in f32 or int8 on CPU, got bf16")


# --- int8 -----------------------------------------------------------------------------------------------------------

INT8 = EngineTarget(backend="onnxruntime", precision="int8", shape=TARGET.shape)


def test_an_int8_engine_is_measured_beside_the_float_reference(work: Work, drawn: SubnetConfig) -> None:
    found = work.measure(job(drawn, INT8))
    assert isinstance(found, Measured), found
    assert found.key.effective_precision == "int8"
    assert found.key.graph == engine_graph(drawn, work.inputs.supernet.facts, token_types=False, precision="int8")
    report = LatencyReport.from_json(found.report)
    assert (report.target, report.reference) == (INT8.label, TARGET.label)


def test_law_3_an_int8_engine_is_held_against_its_own_graph(
    work: Work, drawn: SubnetConfig, monkeypatch: pytest.MonkeyPatch, timed: list[Any]
) -> None:
    real = atb_export.work.engine_logits
    monkeypatch.setattr(atb_export.work, "engine_logits", lambda *a: real(*a) + 3.0)
    refused(work.measure(job(drawn, INT8)), "computes something else")
    assert timed == []


def test_an_int8_accuracy_is_that_of_the_int8_engine(work: Work, drawn: SubnetConfig) -> None:
    inputs = work.inputs
    onnx = quantised_bytes(inputs.supernet, drawn, inputs.calibration, token_types=False)
    with backend("onnxruntime").open(onnx, INT8) as engine:
        right = engine_logits(engine, inputs.texts).argmax(-1) == inputs.labels.numpy()
    found = work.score(ScoreJob(subnet=drawn, quantised=INT8))
    assert isinstance(found, Scored), found
    assert found.accuracy == right.mean()
    assert found.correct == np.packbits(right, bitorder="little").tobytes()


# --- accuracy -------------------------------------------------------------------------------------------------------


def test_accuracy_is_that_of_the_cut_supernet(work: Work, draw_subnet: Draw) -> None:
    inputs = work.inputs
    for seed in range(4):
        subnet = draw_subnet(inputs.supernet.shape, seed)
        answers = torch.from_numpy(reference_logits(inputs.supernet, inputs.texts, subnet)).argmax(-1)
        found = work.score(ScoreJob(subnet=subnet))
        assert isinstance(found, Scored), found
        right = answers == inputs.labels
        assert abs(found.accuracy - right.double().mean().item()) <= 1 / len(right)
        assert (found.rows, found.complete) == (len(right), True)
        assert found.accuracy == sum(x.bit_count() for x in found.correct or b"") / len(right)
        assert set(found.seconds) == {"accuracy"}


def test_a_measurement_can_be_kept_and_read_back(work: Work, drawn: SubnetConfig, tmp_path: Any) -> None:
    """The key and the report have what the store asks of them."""
    found = work.measure(job(drawn))
    assert isinstance(found, Measured)
    row = Measurement(
        key=found.key,
        ms=found.ms,
        ci_ms=found.ci_ms,
        reference=found.key.graph,
        reference_ms=2.0,
        report=dict(found.report),
        model_bytes=found.model_bytes,
    )
    with Store.open(tmp_path / "s.sqlite") as store:
        store.add(row)
        assert store.measurements() == [row]


def test_tasks_of_two_texts_take_token_types(
    make_dense: Callable[..., DenseModel], work_inputs: WorkInputs, probes: TokenizedTexts, drawn: SubnetConfig
) -> None:
    net = make_dense(seed=7).net
    typed = replace(probes, token_type_ids=tuple([i % 2 for i in range(len(x))] for x in probes.input_ids))
    inputs = replace(
        work_inputs, reference=net, supernet=net, texts=typed, labels=torch.zeros(len(probes), dtype=torch.long)
    )
    work = Work(inputs)
    try:
        target = replace(TARGET, shape=Shape(batch=2, length=24))
        found = work.measure(MeasureJob(subnet=drawn, target=target, reference=target, reference_ms=1.0))
        assert isinstance(found, Measured), found
        assert found.key.graph == engine_graph(drawn, net.facts, token_types=True, precision="f32")
    finally:
        work.close()
