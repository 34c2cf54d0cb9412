"""The two questions of a search on real engines; laws 3 and 6."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

import atb_export.measuring
from atb_export.dense import DenseModel, load_dense, save_dense
from atb_export.measuring import Accuracy, Latency, normalised, open_engine, sweep
from atb_export.verify import TOLERANCES, compare, engine_logits, reference_logits
from runtime.latency import LatencyReport
from runtime.measure import MeasurePlan
from runtime.target import EngineTarget, Shape
from search.errors import CandidateFailed
from search.evolution import evolve
from search.plan import SearchPlan
from search.record import Record
from supernet.batches import TokenizedTexts
from supernet.space import SearchSpace, SubnetConfig

Dense = Callable[..., DenseModel]
Draw = Callable[[SubnetConfig, int], SubnetConfig]
PLAN = MeasurePlan(windows=2, window_ms=1.0, max_repeats=1, max_warmups=2, warmup_runs=2)
TARGET = EngineTarget(backend="openvino", precision="f32", shape=Shape(batch=1, length=16))


def cpu_targets() -> list[EngineTarget]:
    """OpenVINO in every precision this CPU has, and ONNX Runtime; batches that do not divide the rows."""
    found = [EngineTarget(backend="openvino", precision="f32", shape=Shape(batch=4, length=24))]
    if importlib.util.find_spec("openvino") is not None:
        from runtime.backends.openvino import _capabilities

        if "BF16" in _capabilities("CPU"):
            found.append(EngineTarget(backend="openvino", precision="bf16", shape=Shape(batch=1, length=30)))
    found.append(EngineTarget(backend="onnxruntime", precision="f32", shape=Shape(batch=3, length=27)))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_law_3_supernet_dense_onnx_and_engines_agree(
    make_dense: Dense, draw_subnet: Draw, probes: TokenizedTexts, tmp_path: Path, seed: int
) -> None:
    """Any subnet, all parameters random; from the cut supernet to files read back and compiled engines."""
    whole = make_dense(seed=seed, labels=("a", "b", "c"))
    subnet = draw_subnet(whole.net.shape, seed)
    wanted = reference_logits(whole.net, probes, subnet)
    assert np.abs(wanted).max() > 0.05
    with torch.no_grad():
        cut = whole.net(**probes.batch(range(len(probes))), subnet=subnet).logits.numpy()
    assert compare("m", "supernet", cut, wanted, precision="f32").max_abs_error < 1e-5

    save_dense(DenseModel(net=whole.net.slice(subnet), tokenizer=whole.tokenizer, labels=whole.labels), tmp_path)
    dense = load_dense(tmp_path)
    assert compare("m", "dense", reference_logits(dense.net, probes), wanted, precision="f64").max_abs_error < 1e-12

    for target in cpu_targets():
        with open_engine(whole.net, target, subnet=subnet, pairs=False) as engine:
            assert engine.effective_precision == target.precision
            row = compare("m", target.label, engine_logits(engine, probes), wanted, precision=target.precision)
        assert row.max_abs_error is not None
        assert row.max_abs_error <= TOLERANCES[target.precision] / (1 if target.precision == "bf16" else 50), row


def test_law_3_the_tolerances_notice_another_subnet(make_dense: Dense, probes: TokenizedTexts) -> None:
    """Even in the loosest precision, one layer more or one neuron block less is another model."""
    net = make_dense(seed=1).net
    wanted = reference_logits(net, probes)
    layers = net.shape.layers
    fewer = SubnetConfig(hidden_size=32, layers=layers[:3])
    narrow = SubnetConfig.uniform(hidden_size=32, depth=4, heads=4, head_size=8, ffn_size=32)
    for other in (fewer, narrow):
        assert compare("m", "s", reference_logits(net, probes, other), wanted, precision="bf16").passed is False


@pytest.fixture
def latency(make_dense: Dense, probes: TokenizedTexts) -> Any:
    net = make_dense(seed=4).net
    with open_engine(net, TARGET, pairs=False) as reference:
        yield Latency(net, reference, 2.0, texts=probes, plan=PLAN)


def test_a_latency_is_measured_on_the_compiled_engine(latency: Latency, draw_subnet: Draw, monkeypatch: Any) -> None:
    """Law 6: it is the ratio of the samples beside the reference, and nothing else."""
    reports: list[LatencyReport] = []
    real = atb_export.measuring.measure

    def keep(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        reports.append(found["subnet"])
        return found

    monkeypatch.setattr(atb_export.measuring, "measure", keep)
    found = latency(draw_subnet(latency.net.shape, 1))
    (report,) = reports
    assert report.target == TARGET.label
    assert found.ms == report.ratio_to_reference * 2.0
    assert found == normalised(report, 2.0)
    low, high = report.ci_ms
    assert found.ci_ms[1] / found.ci_ms[0] == pytest.approx(high / low)
    assert found.ci_ms[0] <= found.ms <= found.ci_ms[1]


def count_measurements(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    real = atb_export.measuring.measure
    monkeypatch.setattr(atb_export.measuring, "measure", lambda *a, **k: calls.append(1) or real(*a, **k))
    return calls


def test_an_engine_that_does_not_compile_is_not_measured(
    latency: Latency, draw_subnet: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoModel:
        def SerializeToString(self) -> bytes:
            return b"no model"

    calls = count_measurements(monkeypatch)
    monkeypatch.setattr(atb_export.measuring, "graph_from_supernet", lambda *_, **__: NoModel())
    with pytest.raises(CandidateFailed, match=r"does not compile: OpenVINO cannot read a model of 8 bytes"):
        latency(draw_subnet(latency.net.shape, 1))
    assert calls == []


@pytest.mark.parametrize("bad", [np.nan, 0.5])
def test_an_engine_that_computes_something_else_is_not_measured(
    latency: Latency, draw_subnet: Draw, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    calls = count_measurements(monkeypatch)
    real = atb_export.measuring.engine_logits
    monkeypatch.setattr(atb_export.measuring, "engine_logits", lambda *a: real(*a) + bad)
    with pytest.raises(CandidateFailed, match=r"computes something else: 1 of 1 comparisons failed"):
        latency(draw_subnet(latency.net.shape, 1))
    assert calls == []


def test_law_6_a_failed_candidate_has_no_latency_and_a_reason(
    make_dense: Dense, probes: TokenizedTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other engine is spoilt; the search goes on and keeps what failed apart."""
    net = make_dense(seed=4).net
    space = SearchSpace.of_depths(
        source_layers=4, depths=[1, 2], hidden_sizes=(16, 32), heads=(2, 4), head_sizes=(8,), ffn_sizes=(32, 64)
    )
    real, turns = atb_export.measuring.engine_logits, iter(range(100))
    monkeypatch.setattr(atb_export.measuring, "engine_logits", lambda *a: real(*a) + (7.0 if next(turns) % 2 else 0.0))
    with open_engine(net, TARGET, pairs=False) as reference:
        record = Record.open(tmp_path / "record.jsonl", space=space, constraint_ms=100.0, seed=0)
        found = evolve(
            space,
            accuracy=Accuracy(net, probes, torch.tensor([0, 1] * 3)),
            latency=Latency(net, reference, 1.0, texts=probes, plan=PLAN),
            flops=lambda subnet: subnet.hidden_size,
            constraint_ms=100.0,
            plan=SearchPlan(engines=4, population=4),
            rng=Random(0),
            record=record,
        )
    failed = [x for x in found.candidates if not x.is_measured]
    assert len(failed) >= 3
    for x in failed:
        assert (x.latency_ms, x.latency_ci_ms, x.accuracy) == (None, None, None)
        assert "computes something else" in (x.reason or "")
        assert x not in found.front
    assert len(found.candidates) - len(failed) == 4
    read = Record.open(tmp_path / "record.jsonl", space=space, constraint_ms=100.0, seed=0)
    assert read.candidates == found.candidates


def test_accuracy_is_that_of_the_cut_supernet(make_dense: Dense, draw_subnet: Draw, probes: TokenizedTexts) -> None:
    net = make_dense(seed=6).net
    for seed in range(4):
        subnet = draw_subnet(net.shape, seed)
        answers = torch.from_numpy(reference_logits(net, probes, subnet)).argmax(-1)
        assert Accuracy(net, probes, answers)(subnet) >= 5 / 6
        assert Accuracy(net, probes, 1 - answers)(subnet) <= 1 / 6


def test_a_sweep_measures_each_model_at_each_shape(
    make_dense: Dense, draw_subnet: Draw, probes: TokenizedTexts
) -> None:
    net = make_dense(seed=4).net
    shapes = [Shape(batch=1, length=8), Shape(batch=5, length=16)]
    rows = sweep(
        {"teacher": net, "small": net.slice(draw_subnet(net.shape, 2))},
        TARGET,
        probes,
        reference="teacher",
        shapes=shapes,
        plan=PLAN,
    )
    assert [(x["model"], x["batch"], x["length"]) for x in rows] == [
        (name, shape.batch, shape.length) for shape in shapes for name in ("teacher", "small")
    ]
    assert all(0 < x["p50_ms"] <= x["p90_ms"] <= x["p99_ms"] for x in rows)
