"""Engines of nets, compiled from the graph that is shipped and measured side by side; law 3."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atb_export.dense import DenseModel, load_dense, save_dense
from atb_export.errors import ExportError
from atb_export.measuring import measure_together, open_engine, sweep
from atb_export.verify import TOLERANCES, compare, engine_logits, reference_logits
from runtime.measure import MeasurePlan
from runtime.target import EngineTarget, Shape
from supernet.batches import TokenizedTexts
from supernet.space import SubnetConfig

Dense = Callable[..., DenseModel]
Draw = Callable[[SubnetConfig, int], SubnetConfig]
PLAN = MeasurePlan(windows=2, window_ms=1.0, max_repeats=1, max_warmups=2, warmup_runs=2)
TARGET = EngineTarget(backend="openvino", precision="f32", shape=Shape(batch=1, length=16))


def cpu_targets() -> list[EngineTarget]:
    """OpenVINO in every precision this CPU has, and ONNX Runtime; batches that do not divide the rows."""
    found = [EngineTarget(backend="openvino", precision="f32", shape=Shape(batch=4, length=24))]
    if importlib.util.find_spec("openvino") is not None:
        from runtime.backends.openvino import capabilities

        if "BF16" in capabilities("CPU"):
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


def test_an_int8_engine_is_calibrated_and_says_so(make_dense: Dense, draw_subnet: Draw, probes: TokenizedTexts) -> None:
    net = make_dense(seed=4).net
    subnet = draw_subnet(net.shape, 1)
    target = replace(TARGET, backend="onnxruntime", precision="int8")
    with open_engine(net, target, subnet=subnet, pairs=False, calibration=probes) as engine:
        assert engine.effective_precision == "int8"
    with pytest.raises(ExportError, match="needs real texts to calibrate int8 on"):
        open_engine(net, target, subnet=subnet, pairs=False)


def test_engines_are_measured_together_on_their_longest_text(make_dense: Dense, probes: TokenizedTexts) -> None:
    net = make_dense(seed=4).net
    target = replace(TARGET, shape=Shape(batch=1, length=24))
    with (
        open_engine(net, target, pairs=False) as whole,
        open_engine(
            net, target, subnet=SubnetConfig(hidden_size=16, layers=net.shape.layers[:1]), pairs=False
        ) as small,
    ):
        seen: list[int] = []
        real = type(small).infer

        class Watched:
            def __getattr__(self, name: str) -> Any:
                return getattr(small, name)

            def infer(self, feeds: Any) -> Any:
                seen.append(int(feeds["attention_mask"].sum()))
                return real(small, feeds)

        found = measure_together({"whole": whole, "small": Watched()}, probes, reference="whole", plan=PLAN)  # type: ignore[dict-item]
    assert set(found) == {"whole", "small"}
    assert set(seen) == {max(map(len, probes.input_ids))}
    assert {x.reference for x in found.values()} == {target.label}


def test_a_sweep_measures_each_model_at_each_shape(
    make_dense: Dense, draw_subnet: Draw, probes: TokenizedTexts
) -> None:
    net = make_dense(seed=4).net
    shapes = [Shape(batch=1, length=8), Shape(batch=5, length=16)]
    rows = sweep(
        {"teacher": (net, TARGET), "small": (net.slice(draw_subnet(net.shape, 2)), TARGET)},
        probes,
        reference="teacher",
        shapes=shapes,
        plan=PLAN,
    )
    assert [(x["model"], x["batch"], x["length"]) for x in rows] == [
        (name, shape.batch, shape.length) for shape in shapes for name in ("teacher", "small")
    ]
    assert all(0 < x["p50_ms"] <= x["p90_ms"] <= x["p99_ms"] for x in rows)
