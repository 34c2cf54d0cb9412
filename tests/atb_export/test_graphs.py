"""Which graph a target is built from."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest

from atb_export.dense import DenseModel
from atb_export.errors import ExportError
from atb_export.graphs import GRAPH_FILES, graph_for, graph_kind
from runtime.target import EngineTarget, Shape
from supernet.batches import TokenizedTexts

Dense = Callable[..., DenseModel]


def target(backend: str, precision: str) -> EngineTarget:
    return EngineTarget(backend=backend, precision=precision, shape=Shape(batch=1, length=16))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backend", "precision", "kind"),
    [
        ("openvino", "auto", "openvino"),
        ("openvino", "bf16", "openvino"),  # a hint to the compiler
        ("openvino", "f16", "openvino"),
        ("openvino", "int8", "int8"),
        ("onnxruntime", "f32", "f32"),
        ("onnxruntime", "f16", "f16"),
        ("tensorrt", "f32", "f32"),
        ("tensorrt", "f16", "f16"),  # strongly typed
        ("tensorrt", "bf16", "bf16"),
        ("tensorrt", "int8", "int8"),
    ],
)
def test_precision_is_in_the_graph_where_the_backend_reads_it_there(
    make_dense: Dense, probes: TokenizedTexts, backend: str, precision: str, kind: str
) -> None:
    asked = target(backend, precision)
    assert graph_kind(asked) == kind
    assert GRAPH_FILES[graph_kind(asked)].endswith(".onnx")
    net = make_dense(seed=1).net
    model = onnx.load_from_string(graph_for(net, None, asked, token_types=False, calibration=probes))
    types = {x.name: x.data_type for x in model.graph.initializer}
    wanted = {"f32": 1, "openvino": 1, "f16": 10, "bf16": 16, "int8": 3}[kind]
    assert types["layer0.intermediate.weight"] == wanted
    sliced = any(node.name.startswith("split.layer0.context") for node in model.graph.node)
    assert sliced == (kind == "openvino")  # TensorRT knows attention by its transposed heads


def test_int8_needs_texts(make_dense: Dense) -> None:
    with pytest.raises(ExportError, match="openvino-CPU-int8-b1-l16-t1 needs real texts to calibrate int8 on"):
        graph_for(make_dense().net, None, target("openvino", "int8"), token_types=False)
