"""Typed graphs computed as they are written: roundings and overflows that a CPU's kernels would not show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from atb_export.dense import DenseModel
from atb_export.onnx.as_written import AsWritten
from atb_export.onnx.graph import graph_bytes
from atb_export.onnx.typed import typed_graph_bytes
from atb_export.verify import TOLERANCES, compare, reference_logits
from runtime.backends.onnxruntime import FreeSession
from supernet.batches import TokenizedTexts

Dense = Callable[..., DenseModel]


@pytest.mark.parametrize(("precision", "least"), [("f32", 0.0), ("f16", 1e-5), ("bf16", 1e-4)])
def test_it_computes_the_network_in_the_precision_of_the_types(
    make_dense: Dense, probes: TokenizedTexts, precision: str, least: float
) -> None:
    net = make_dense(seed=2).net
    written = (
        graph_bytes(net) if precision == "f32" else typed_graph_bytes(net, token_types=False, precision=precision)  # type: ignore[arg-type]
    )
    session = AsWritten(onnx.load_from_string(written))
    batch = probes.batch(range(len(probes)))
    logits = session.run({x: batch[x].numpy() for x in session.inputs})["logits"]
    assert logits.dtype == np.float32
    row = compare("m", "s", logits, reference_logits(net, probes), precision=precision)
    assert row.passed
    assert least < (row.max_abs_error or 0) < TOLERANCES[precision]


def test_what_overflows_in_f16_overflows_here() -> None:
    """300 times 300 is more than f16 holds; it is float again at once, and ONNX Runtime's CPU kernels see nothing."""
    float_, half = TensorProto.FLOAT, TensorProto.FLOAT16
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=half),
        helper.make_node("MatMul", ["h", "h"], ["p"]),
        helper.make_node("Cast", ["p"], ["y"], to=float_),
    ]
    ports = [helper.make_tensor_value_info(x, float_, [1, 1]) for x in ("x", "y")]
    opset = helper.make_opsetid("", 20)
    model = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:]), opset_imports=[opset], ir_version=10)
    feeds = {"x": np.full((1, 1), 300.0, np.float32)}
    assert AsWritten(model).run(feeds)["y"].tolist() == [[np.inf]]
    assert FreeSession(model.SerializeToString(), optimised=False).run(feeds)["y"].tolist() == [[90000.0]]


def test_gelu_is_the_exact_one() -> None:
    ports = [helper.make_tensor_value_info(x, TensorProto.FLOAT, [5]) for x in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Gelu", ["x"], ["y"])], "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = np.array([-3.0, -0.5, 0.0, 0.7, 4.0], np.float32)
    wanted = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    assert np.array_equal(AsWritten(model).run({"x": x})["y"], wanted)
