"""int8 graphs: calibrated on what the subnet really computes, and computed by engines as they are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from atb_export.dense import DenseModel
from atb_export.onnx.quantise import _activation_scale, _weight_scales, measure_ranges, quantised_graph
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
    return quantised_graph(model.net, subnet or model.net.shape, rows, token_types=rows.token_type_ids is not None)


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
        ("layer2.qkv.input.zero", lambda x: 0 * x),
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


def test_ranges_are_those_of_the_rows_one_by_one(make_dense: Dense, draw_subnet: Draw, probes: TokenizedTexts) -> None:
    """Padding beside a longer row does not count, nor does any other row of the batch."""
    model = make_dense(seed=2)
    subnet = draw_subnet(model.net.shape, 5)
    together = measure_ranges(model.net, subnet, probes, token_types=False)
    alone = [
        measure_ranges(model.net, subnet, TokenizedTexts(input_ids=(ids,)), token_types=False)
        for ids in probes.input_ids
    ]
    assert len({round(x["layer0.output"][1], 3) for x in alone}) > 1
    for name, found in together.items():
        wanted = [min(x[name][0] for x in alone), max(x[name][1] for x in alone)]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_range_is_what_the_network_computes(make_dense: Dense, probes: TokenizedTexts) -> None:
    model = make_dense(seed=2)
    states = [model.net(**probes.batch([i]), hidden_states=True).hidden_states for i in range(len(probes))]
    ranges = measure_ranges(model.net, model.net.shape, probes, token_types=False)
    lows, highs = zip(*((float(x[2].min()), float(x[2].max())) for x in states), strict=True)
    np.testing.assert_allclose(ranges["layer2.qkv"], [min(lows), max(highs)], rtol=1e-4)
    firsts = torch.cat([x[3][:, 0] for x in states])  # the last layer computes the first token only
    np.testing.assert_allclose(ranges["layer3.query"], [float(firsts.min()), float(firsts.max())], rtol=1e-4)


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
    assert stored["layer0.qkv.input.zero"].dtype == np.uint8
    assert stored["pooler.weight"].dtype == stored["logits.weight"].dtype == np.float32
    assert np.abs(stored["layer0.qkv.weight"]).max(0).min() == 127, "every output uses its whole range"


@pytest.mark.parametrize("name", BACKENDS)
def test_token_types_are_calibrated_on(name: str, make_dense: Dense, probes: TokenizedTexts) -> None:
    model = make_dense(seed=4)
    pairs = replace(probes, token_type_ids=tuple([i % 2 for i in range(len(x))] for x in probes.input_ids))
    assert measure_ranges(model.net, model.net.shape, pairs, token_types=True) != measure_ranges(
        model.net, model.net.shape, probes, token_types=False
    )
    graph = quantised(model, pairs).SerializeToString()
    wanted = exact_quantised_logits(graph, target(name), pairs)
    assert compare("m", name, answers(name, graph, pairs), wanted, precision="int8").passed
    assert compare("m", name, wanted, reference_logits(model.net, pairs), precision="rounding").passed


def test_what_cannot_be_calibrated_on_is_told(make_dense: Dense) -> None:
    net = make_dense().net
    with pytest.raises(ValueError, match="calibrated on real texts, and none are given"):
        quantised_graph(net, net.shape, TokenizedTexts(input_ids=()), token_types=False)
    with pytest.raises(ValueError, match="49 tokens, the position table 48"):
        quantised_graph(net, net.shape, TokenizedTexts(input_ids=([5] * 49,)), token_types=False)


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
