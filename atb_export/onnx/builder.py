"""A thin pen for ONNX graphs: it names values, keeps weights and adds nodes in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

# 20 is the first opset with Gelu, and all three runtimes read it; nothing here needs a later one.
OPSET = 20
# onnxruntime refuses files of a newer IR version than it knows; 10 is what opset 20 came with.
IR_VERSION = 10


class GraphBuilder:
    """Collects one graph. Values are named by what makes them, so that a departing engine can be located."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int | str]) -> str:
        """Declares an int64 input; a string names a dynamic dim."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, list(shape)))
        return name

    def output(self, name: str, shape: Sequence[int | str]) -> None:
        """Declares a float32 output."""
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))

    def weight(self, name: str, values: NDArray[Any]) -> str:
        """Stores a constant once, under its own name."""
        known = self._weights.get(name)
        if known is None:
            self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        elif not np.array_equal(numpy_helper.to_array(known), values):
            raise ValueError(f"the weight {name} is given twice with different values")
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Adds a node of one output, whose name it returns."""
        self._nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def linear(self, x: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """`x` [..., in] times `weight` [in, out] plus `bias` [out]."""
        product = self.node("MatMul", [x, self.weight(f"{name}.weight", weight)], f"{name}.product")
        return self.node("Add", [product, self.weight(f"{name}.bias", bias)], name)

    def layer_norm(self, x: str, name: str, weight: NDArray[Any], bias: NDArray[Any], eps: float) -> str:
        """LayerNormalization over the last axis."""
        names = [x, self.weight(f"{name}.weight", weight), self.weight(f"{name}.bias", bias)]
        return self.node("LayerNormalization", names, name, axis=-1, epsilon=eps)

    def split(self, x: str, names: Sequence[str], sizes: Sequence[int]) -> list[str]:
        """Cuts the last axis."""
        lengths = self.weight("sizes." + "_".join(map(str, sizes)), np.array(sizes, dtype=np.int64))
        self._nodes.append(helper.make_node("Split", [x, lengths], list(names), name=f"split.{names[0]}", axis=-1))
        return list(names)

    def build(self) -> onnx.ModelProto:
        """The finished model, checked against the ONNX specification."""
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, initializer=list(self._weights.values())
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="atb-export")
        onnx.checker.check_model(model)
        return model
