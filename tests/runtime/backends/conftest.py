"""The small classifier with Q/DQ around its two products, and the same rounding in numpy.

A cosine stands between the products: small ones with a usual function between them are one kernel to OpenVINO, of which
it does not say what it computes in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper


@dataclass(frozen=True)
class QuantisedModel:
    """`logits` rounds where the graph says so, and nowhere else."""

    onnx: bytes
    tiny: Any
    steps: dict[str, tuple[np.float32, int]]

    @property
    def weights(self) -> dict[str, Any]:
        found: dict[str, Any] = self.tiny.weights
        return found

    def feeds(self, shape: Any, seed: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = self.tiny.feeds(shape, seed)
        return found

    def logits(self, feeds: dict[str, Any]) -> Any:
        w = {name: value.astype(np.float64) for name, value in self.weights.items()}
        mask = feeds["attention_mask"][..., None].astype(np.float64)
        pooled = (w["table"][feeds["input_ids"]] * mask).sum(1) / mask.sum(1)
        inner = np.cos(self._rounded("pooled", pooled) @ _matrix(w["w1"]) + w["b1"])
        return self._rounded("inner", inner) @ _matrix(w["w2"]) + w["b2"]

    def _rounded(self, name: str, x: Any) -> Any:
        step, zero = self.steps[name]
        return (np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step


def _steps(weight: Any) -> Any:
    return (np.abs(weight).max(0) / 127).astype(np.float32)


def _matrix(weight: Any) -> Any:
    return np.rint(weight / _steps(weight)) * _steps(weight)


@pytest.fixture(scope="session")
def quantised(tiny: Any) -> QuantisedModel:
    steps = {"pooled": (np.float32(5 / 255), 128), "inner": (np.float32(2 / 255), 128)}
    model = onnx.load_from_string(tiny.onnx)
    nodes, stored = list(model.graph.node), list(model.graph.initializer)
    (relu,) = (node for node in nodes if node.op_type == "Relu")
    relu.op_type = "Cos"
    for value, weight in (("pooled", "w1"), ("inner", "w2")):
        (user,) = (i for i, node in enumerate(nodes) if value in node.input)
        matrix = tiny.weights[weight]
        scale, zero = steps[value]
        constants = {
            f"{value}.scale": np.array(scale),
            f"{value}.zero": np.array(zero, dtype=np.uint8),
            f"{weight}.rounded": np.rint(matrix / _steps(matrix)).astype(np.int8),
            f"{weight}.scale": _steps(matrix),
        }
        stored = [x for x in stored if x.name != weight] + [numpy_helper.from_array(x, k) for k, x in constants.items()]
        names = [f"{value}.scale", f"{value}.zero"]
        nodes[user].input[:] = [f"{value}.float", f"{weight}.float"]
        nodes[user:user] = [
            helper.make_node("QuantizeLinear", [value, *names], [f"{value}.rounded"]),
            helper.make_node("DequantizeLinear", [f"{value}.rounded", *names], [f"{value}.float"]),
            helper.make_node("DequantizeLinear", [f"{weight}.rounded", f"{weight}.scale"], [f"{weight}.float"], axis=1),
        ]
    graph = helper.make_graph(nodes, "tiny-int8", model.graph.input, model.graph.output, stored)
    found = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(found)
    return QuantisedModel(onnx=found.SerializeToString(), tiny=tiny, steps=steps)
