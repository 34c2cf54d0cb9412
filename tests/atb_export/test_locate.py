"""The first layer that departs is named: a spoilt weight, an overflow in f16, an int8 engine of another graph."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from atb_export.dense import DenseModel
from atb_export.locate import departure, exact_values, first_departure
from atb_export.onnx.graph import graph_bytes
from atb_export.onnx.quantise import quantised_bytes
from atb_export.onnx.typed import typed_graph_bytes
from runtime.target import EngineTarget, Shape
from supernet.batches import TokenizedTexts
from supernet.space import LayerConfig, SubnetConfig

Dense = Callable[..., DenseModel]
STACKED = SubnetConfig(
    hidden_size=24,
    layers=tuple(
        LayerConfig(source=i, heads=2, head_size=8, ffn_size=32, ffn_stack=n) for i, n in enumerate((1, 3, 1))
    ),
)


def target(backend: str, precision: str = "f32", *, dynamic: bool = False) -> EngineTarget:
    shape = Shape(batch=2, length=20)
    return EngineTarget(backend=backend, precision=precision, shape=shape, dynamic=dynamic)  # type: ignore[arg-type]


def spoilt(model: DenseModel, name: str) -> bytes:
    """The graph with one other number in a weight."""
    made = onnx.load_from_string(graph_bytes(model.net))
    weight = next(x for x in made.graph.initializer if x.name == name)
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 4.0
    weight.CopyFrom(numpy_helper.from_array(values, name))
    return bytes(made.SerializeToString())


@pytest.mark.parametrize(
    ("weight", "place"),
    [
        ("embeddings.bias", "embeddings"),
        ("layer0.attention_output.bias", "layer0.attention"),
        ("layer0.output.bias", "layer0"),
        ("layer1.cell1.output.bias", "layer1.cell1"),
        ("layer2.value.bias", "layer2.attention"),
        ("layer2.output.bias", "layer2"),
        ("pooler.bias", "logits"),
    ],
)
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_spoilt_weight_is_found_in_its_layer(
    make_dense: Dense, probes: TokenizedTexts, weight: str, place: str, backend: str
) -> None:
    model = make_dense(STACKED, seed=3)
    found = first_departure(model, target(backend), probes, onnx=spoilt(model, weight), precision="f32")
    assert found is not None
    assert found.startswith(f"The first to depart is {place}: error ")


@pytest.mark.parametrize("dynamic", [False, True])
def test_an_engine_that_is_right_departs_nowhere(make_dense: Dense, probes: TokenizedTexts, dynamic: bool) -> None:
    model = make_dense(STACKED, seed=3)
    asked = target("onnxruntime", dynamic=dynamic)
    found = first_departure(model, asked, probes, onnx=graph_bytes(model.net), precision="f32")
    assert found == "Watched, every value up to logits agrees: it lies in what the compiler fuses"


def test_an_overflow_in_f16_is_found_where_it_begins(make_dense: Dense, probes: TokenizedTexts) -> None:
    """Every weight fits into f16; what the second layer's feed-forward makes of them does not."""
    model = make_dense(seed=2)
    with torch.no_grad():
        for matrix in (model.net.encoder[1].stack[0].intermediate.weight, model.net.encoder[1].stack[0].output.weight):
            matrix.mul_(3000)
    graph = typed_graph_bytes(model.net, token_types=False, precision="f16")
    found = first_departure(model, None, probes, onnx=graph, precision="f16")
    assert found is not None
    assert found.startswith("The first to depart is layer1: values that are not finite")
    assert "layer0, layer1.attention agree" in found


def test_an_int8_engine_is_held_against_its_own_graph(make_dense: Dense, probes: TokenizedTexts) -> None:
    model = make_dense(seed=2)
    graph = quantised_bytes(model.net, model.net.shape, probes, token_types=False)
    found = first_departure(model, target("onnxruntime", "int8"), probes, onnx=graph, precision="int8")
    assert found is not None
    assert "every value up to logits agrees" in found


def test_nothing_is_said_where_nothing_can_be_watched(make_dense: Dense, probes: TokenizedTexts) -> None:
    assert first_departure(make_dense(), target("openvino"), probes, onnx=b"no model", precision="f32") is None


def test_exact_values_are_those_of_the_network(make_dense: Dense, probes: TokenizedTexts) -> None:
    net = make_dense(STACKED, seed=3).net
    values = exact_values(net, probes, 24)
    names = [
        f"layer{i}{end}" for i, n in enumerate((1, 3, 1)) for end in (".attention", "", ".cell1", ".cell2")[: n + 1]
    ]
    assert set(values) == {"embeddings", "logits", *names}
    with torch.no_grad():
        answer = copy.deepcopy(net).double()(**probes.batch(range(len(probes)), length=24), hidden_states=True)
    for name, i in (("layer0", 1), ("layer1.cell2", 2), ("layer2", 3)):
        assert np.array_equal(values[name], answer.hidden_states[i].numpy())


def test_padding_is_left_out() -> None:
    """What an engine computes for positions that are no text is its own affair."""
    wanted = {"layer0": np.ones((2, 3, 4))}
    got = {"layer0": np.ones((2, 3, 4))}
    got["layer0"][0, 2:] = np.nan
    assert "agrees" in (departure(got, wanted, [2, 3], precision="f32") or "")
    assert "not finite" in (departure(got, wanted, [3, 3], precision="f32") or "")
