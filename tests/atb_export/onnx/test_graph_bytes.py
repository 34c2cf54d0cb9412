"""The bytes that are measured, shipped, and written without onnx's own copies are the same bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from atb_export.dense import DenseModel
from atb_export.onnx import graph
from atb_export.onnx.builder import OPSET, GraphBuilder
from supernet.space import SubnetConfig

WEIGHTS = {
    "turned": np.arange(300, dtype=np.float32).reshape(3, 100).T,
    "sizes": np.array([1, 2]),
    "empty": np.zeros((0, 4), np.float32),
    "long": np.ones(40_000, np.int8),
    "flags": np.ones((2, 3), bool),
}


def test_they_are_what_onnx_would_write() -> None:
    g = GraphBuilder("small")
    ids = g.input("ids", ("batch", "sequence"))
    for name, values in WEIGHTS.items():
        g.weight(name, values)
    g.node("Gather", ["turned", ids], "rows")
    g.output("rows", ("batch", "sequence", 3))
    written = g.to_bytes()
    model = onnx.load_from_string(written)
    onnx.checker.check_model(model, full_check=True)
    tensors = [numpy_helper.from_array(np.asarray(x, order="C"), name) for name, x in WEIGHTS.items()]
    whole = helper.make_graph(model.graph.node, "small", model.graph.input, model.graph.output, initializer=tensors)
    opset = helper.make_opsetid("", OPSET)
    plain = helper.make_model(whole, opset_imports=[opset], ir_version=model.ir_version, producer_name="atb-export")
    assert written == plain.SerializeToString()


def test_a_weight_that_no_node_may_take_is_refused() -> None:
    g = GraphBuilder("small")
    ids = g.input("ids", ("batch", "sequence"))
    g.node("Gather", ["nowhere", ids], "rows")
    g.output("rows", ("batch", "sequence", 3))
    with pytest.raises(onnx.checker.ValidationError, match="nowhere"):
        g.to_bytes()


@pytest.mark.parametrize("types", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_graph_measured_is_the_graph_shipped_to_the_byte(
    make_dense: Callable[..., DenseModel], draw_subnet: Callable[..., SubnetConfig], seed: int, types: bool
) -> None:
    """A candidate is measured as a cut of the supernet, shipped as the dense model it became."""
    net = make_dense(seed=seed).net
    subnet = draw_subnet(net.shape, seed)
    measured = graph.graph_bytes(net, subnet, token_types=types)
    assert graph.graph_bytes(net.slice(subnet), token_types=types) == measured
    assert graph.graph_from_supernet(net, subnet, token_types=types).SerializeToString() == measured
