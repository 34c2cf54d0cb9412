"""int8 graphs: calibrated on what the subnet really computes, and computed by engines as they are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from atb_export.dense import DenseModel
from atb_export.onnx.calibration import Seen
from atb_export.onnx.quantise import (
    _activation_scale,
    _symmetric_scale,
    _weight_scales,
    quantised_bytes,
    round_linear,
)
from atb_export.verify import TOLERANCES, compare, engine_logits, exact_quantised_logits, reference_logits
from runtime.engine import backend
from runtime.target import EngineTarget, Shape
from supernet.batches import TokenizedTexts
from supernet.space import SubnetConfig

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")
BACKENDS = ("openvino", "onnxruntime")
Dense = Callable[..., DenseModel]
Draw = Callable[..., SubnetConfig]


def target(name: str, *, batch: int = 1) -> EngineTarget:
    return EngineTarget(backend=name, precision="int8", shape=Shape(batch=batch, length=24))


def quantised(model: DenseModel, rows: TokenizedTexts, subnet: SubnetConfig | None = None) -> onnx.ModelProto:
    written = quantised_bytes(model.net, subnet or model.net.shape, rows, token_types=rows.token_type_ids is not None)
    return onnx.load_from_string(written)


def changed(model: onnx.ModelProto, name: str, change: Callable[[Any], Any]) -> bytes:
    """The same graph with one of its constants changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (found,) = (x for x in copy.graph.initializer if x.name == name)
    values = numpy_helper.to_array(found)
    found.CopyFrom(numpy_helper.from_array(np.asarray(change(values), dtype=values.dtype), name))
    return bytes(copy.SerializeToString())


def answers(name: str, graph: bytes, texts: TokenizedTexts, *, batch: int = 1) -> Any:
    with backend(name).open(graph, target(name, batch=batch)) as engine:
        assert engine.effective_precision == "int8"
        return engine_logits(engine, texts)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("seed", range(4))
def test_engines_compute_their_own_graph_for_random_subnets(
    name: str, seed: int, make_dense: Dense, draw_subnet: Draw, probes: TokenizedTexts
) -> None:
    """Law 3 in int8, every parameter random."""
    model = make_dense(seed=seed)
    subnet = draw_subnet(model.net.shape, seed)
    graph = quantised(model, probes, subnet).SerializeToString()
    wanted = exact_quantised_logits(graph, target(name), probes)
    row = compare("m", name, answers(name, graph, probes), wanted, precision="int8")
    assert row.passed
    assert (row.max_abs_error or 0) < 1e-3, "rows without a value at a rounding edge are exact to float32"
    assert compare("m", "rounding", wanted, reference_logits(model.net, probes, subnet), precision="rounding").passed


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    ("constant", "change"),
    [
        ("layer0.qkv.weight.scale", lambda x: 1.5 * x),
        ("layer1.output.weight.scale", lambda x: x[::-1]),
        ("layer0.intermediate.input.scale", lambda x: 0.5 * x),
        ("layer2.qkv.input.zero", lambda x: x + 100),
        ("layer1.attention_output.weight", np.abs),
    ],
)
def test_a_wrong_constant_is_refused(
    name: str, constant: str, change: Callable[[Any], Any], make_dense: Dense, probes: TokenizedTexts
) -> None:
    graph = quantised(make_dense(seed=1), probes)
    wanted = exact_quantised_logits(graph.SerializeToString(), target(name), probes)
    row = compare("m", name, answers(name, changed(graph, constant, change), probes), wanted, precision="int8")
    assert row.passed is False
    assert (row.max_abs_error or 0) > TOLERANCES["int8"]


def test_ranges_that_clip_are_refused_as_rounding(make_dense: Dense, probes: TokenizedTexts) -> None:
    model = make_dense(seed=1)
    graph = quantised(model, probes)
    names = [f"layer{i}.{x}.input.scale" for i in (0, 1, 2) for x in ("qkv", "intermediate")]
    for name in names:
        graph = onnx.load_from_string(changed(graph, name, lambda x: x / 4))
    got = exact_quantised_logits(graph.SerializeToString(), target("openvino"), probes)
    assert compare("m", "rounding", got, reference_logits(model.net, probes), precision="rounding").passed is False


@pytest.mark.parametrize("name", BACKENDS)
def test_a_batch_answers_what_its_rows_answer_alone(name: str, make_dense: Dense, probes: TokenizedTexts) -> None:
    """Law 4: scales are constants, so no row's rounding depends on its neighbours."""
    graph = quantised(make_dense(seed=3), probes).SerializeToString()
    alone, together = (answers(name, graph, probes, batch=n) for n in (1, len(probes)))
    scale = np.abs(alone).max()
    assert np.median(np.abs(alone - together).max(-1)) < 1e-5 * scale
    assert np.abs(alone - together).max() < 0.05 * scale
    assert np.array_equal(together, answers(name, graph, probes, batch=len(probes)))


def test_encoder_products_are_int8_and_the_head_is_not(make_dense: Dense, probes: TokenizedTexts) -> None:
    model = make_dense()
    graph = quantised(model, probes)
    kinds = Counter(node.op_type for node in graph.graph.node)
    depth = model.net.shape.depth
    assert kinds["QuantizeLinear"] == 4 * depth
    assert kinds["DequantizeLinear"] == 8 * depth
    stored = {x.name: numpy_helper.to_array(x) for x in graph.graph.initializer}
    assert {str(x.dtype) for name, x in stored.items() if name.endswith("output.weight")} == {"int8"}
    assert stored["layer0.qkv.weight"].dtype == np.int8
    assert stored["layer0.qkv.input.zero"].dtype == np.int8
    assert kinds["Mul"] == 4 * depth + 1, "one for every spread input, and the mask"
    assert stored["pooler.weight"].dtype == stored["logits.weight"].dtype == np.float32
    assert np.abs(stored["layer0.qkv.weight"]).max(0).min() == 127, "every output uses its whole range"


@pytest.mark.parametrize("name", BACKENDS)
def test_token_types_are_calibrated_on(name: str, make_dense: Dense, probes: TokenizedTexts) -> None:
    model = make_dense(seed=4)
    pairs = replace(probes, token_type_ids=tuple([i % 2 for i in range(len(x))] for x in probes.input_ids))
    graph = quantised(model, pairs).SerializeToString()
    wanted = exact_quantised_logits(graph, target(name), pairs)
    assert compare("m", name, answers(name, graph, pairs), wanted, precision="int8").passed
    assert compare("m", name, wanted, reference_logits(model.net, pairs), precision="rounding").passed


def test_linears_named_stay_in_float(make_dense: Dense, probes: TokenizedTexts) -> None:
    net = make_dense().net
    kept = frozenset({"layer1.output", "layer3.query"})
    graph = onnx.load_from_string(quantised_bytes(net, net.shape, probes, token_types=False, keep_float=kept))
    stored = {x.name: numpy_helper.to_array(x).dtype for x in graph.graph.initializer}
    floats = {x.removesuffix(".weight") for x in stored if x.endswith(".weight") and stored[x] == np.float32}
    assert {x for x in floats if x.endswith(("qkv", "query", "output", "intermediate"))} == kept
    with pytest.raises(ValueError, match=r"no linear layer9.qkv to keep in float; there are layer0.qkv, "):
        quantised_bytes(net, net.shape, probes, token_types=False, keep_float=frozenset({"layer9.qkv"}))


@pytest.mark.parametrize("name", BACKENDS)
def test_symmetric_activations_have_no_zero_point(name: str, make_dense: Dense, probes: TokenizedTexts) -> None:
    model = make_dense(seed=3)
    graph = quantised(model, probes)
    stored = {x.name: numpy_helper.to_array(x) for x in graph.graph.initializer}
    zeros = [x for name, x in stored.items() if name.endswith(".zero")]
    assert len(zeros) == 16
    assert all(x.dtype == np.int8 and x == 0 for x in zeros)
    content = graph.SerializeToString()
    wanted = exact_quantised_logits(content, target(name), probes)
    assert compare("m", name, answers(name, content, probes), wanted, precision="int8").passed
    assert compare("m", name, wanted, reference_logits(model.net, probes), precision="rounding").passed


@pytest.mark.parametrize("name", BACKENDS)
def test_activations_may_have_a_zero_point(name: str, make_dense: Dense, probes: TokenizedTexts) -> None:
    net = make_dense(seed=3).net
    graph = quantised_bytes(net, net.shape, probes, token_types=False, symmetric=False)
    wanted = exact_quantised_logits(graph, target(name), probes)
    assert compare("m", name, answers(name, graph, probes), wanted, precision="int8").passed
    assert compare("m", name, wanted, reference_logits(net, probes), precision="rounding").passed


def test_tensorrt_takes_it_as_well(make_dense: Dense, probes: TokenizedTexts, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    net = make_dense().net
    graph = quantised_bytes(net, net.shape, probes, token_types=False)
    place = EngineTarget(backend="tensorrt", device="sm_89", precision="auto", shape=Shape(batch=1, length=24))
    assert backend("tensorrt").compile(graph, place, tmp_path / "plan").stat().st_size > 0


def with_outlier(seed: int = 0) -> tuple[Any, Any]:
    """A weight and its input: one channel is 40 times as large as the others, with weights 40 times smaller."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(32, 24)).astype(np.float32)
    sample = rng.normal(size=(200, 32)).astype(np.float32)
    sample[:, 5] *= 40
    weight[5] /= 40
    return weight, Seen(low=sample.min(0), high=sample.max(0), sample=sample)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_loud_channel_does_not_drown_the_others(symmetric: bool) -> None:
    weight, seen = with_outlier()
    made = round_linear(weight, seen, symmetric=symmetric)
    product = rounded_product(seen.sample, made)
    exact = seen.sample @ weight
    scale = _symmetric_scale if symmetric else _activation_scale
    plain = scale(float(seen.low.min()), float(seen.high.max()))
    taken = (np.clip(np.rint(seen.sample / plain[0]) + int(plain[1]), -128, 255) - int(plain[1])) * plain[0]
    assert np.square(product - exact).mean() < 0.1 * np.square(taken @ weight - exact).mean()


def rounded_product(x: Any, made: Any) -> Any:
    """By the definition of Q/DQ, in float64."""
    limits = np.iinfo(made.zero.dtype)
    ints = np.clip(np.rint(x.astype(np.float64) / made.spread / made.scale) + int(made.zero), limits.min, limits.max)
    return ((ints - int(made.zero)) * made.scale) @ (made.values.astype(np.float64) * made.steps) - made.shift


def test_the_bias_takes_the_mean_error_away() -> None:
    weight, seen = with_outlier(1)
    made = round_linear(weight, seen, symmetric=False)
    error = rounded_product(seen.sample, made) - seen.sample.astype(np.float64) @ weight
    assert np.abs(error.mean(0)).max() < 1e-5
    assert np.abs(made.shift).max() > 1e-4


def test_dead_channels_and_weights_have_finite_scales() -> None:
    weight, seen = with_outlier(2)
    still = seen.sample.copy()
    still[:, :3] = 0
    weight[3:6] = 0
    for sample, w in ((still, weight), (0 * still, 0 * weight)):
        made = round_linear(w, Seen(low=sample.min(0), high=sample.max(0), sample=sample), symmetric=False)
        assert all(np.isfinite(x).all() for x in made)
        assert (made.spread > 0).all()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 2.0), (-5.0, 0.0), (0.0, 0.0), (-0.17, 24.0)])
def test_an_activation_range_keeps_zero_and_both_ends(low: float, high: float) -> None:
    scale, zero = _activation_scale(low, high)
    assert (scale.shape, scale.dtype, zero.dtype) == ((), np.float32, np.uint8)
    ends = (np.array([0, 255]) - int(zero)) * float(scale)
    assert ends[0] <= 0 <= ends[1]
    if low < high:
        np.testing.assert_allclose(ends, [low, high], atol=0.51 * float(scale))


def test_a_weight_that_is_zero_throughout_has_a_scale() -> None:
    scales = _weight_scales(np.array([[0, 2], [0, -127]], dtype=np.float32))
    assert scales.tolist() == [1, 1]
    assert scales.dtype == np.float32
