"""A small real classifier as ONNX, and the same arithmetic in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.target import EngineTarget, Shape

VOCAB, HIDDEN, INNER = 50, 16, 32


@dataclass(frozen=True)
class TinyModel:
    """Masked mean of embeddings, then two dense layers; `logits` is what every engine must answer."""

    onnx: bytes
    weights: dict[str, Any]
    token_types: bool

    def logits(self, feeds: dict[str, Any]) -> Any:
        w = {name: value.astype(np.float64) for name, value in self.weights.items()}
        ids = feeds["input_ids"] + (feeds["token_type_ids"] if self.token_types else 0)
        mask = feeds["attention_mask"][..., None].astype(np.float64)
        pooled = (w["table"][ids] * mask).sum(1) / mask.sum(1)
        return np.maximum(pooled @ w["w1"] + w["b1"], 0) @ w["w2"] + w["b2"]

    def feeds(self, shape: Shape, seed: int = 0) -> dict[str, Any]:
        """Random ids (below VOCAB - 1), with padding at the end of every row but the first."""
        rng = np.random.default_rng(seed)
        feeds = {
            "input_ids": rng.integers(0, VOCAB - 1, size=shape.dims),
            "attention_mask": np.ones(shape.dims, np.int64),
        }
        for row in range(1, shape.batch):
            feeds["attention_mask"][row, shape.length - row :] = 0
        if self.token_types:
            feeds["token_type_ids"] = rng.integers(0, 2, size=shape.dims)
        return feeds


def build_tiny(
    *,
    labels: int = 3,
    token_types: bool = False,
    dims: tuple[int | str, int | str] = ("batch", "sequence"),
    half: bool = False,
    scale: float = 1.0,
) -> TinyModel:
    rng = np.random.default_rng(7)
    shapes = {
        "table": (VOCAB, HIDDEN),
        "w1": (HIDDEN, INNER),
        "b1": (INNER,),
        "w2": (INNER, labels),
        "b2": (labels,),
    }
    kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    weights = {name: (scale * rng.normal(size=shape)).astype(dtype) for name, shape in shapes.items()}
    constants = {**weights, "last": np.array([2]), "sequence_axis": np.array([1])}
    inputs = ["input_ids", "attention_mask"] + ["token_type_ids"] * token_types
    nodes = [
        helper.make_node("Add", ["input_ids", "token_type_ids" if token_types else "zero"], ["ids"]),
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=kind),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["embedded", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "sequence_axis"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "sequence_axis"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["pooled"]),
        helper.make_node("MatMul", ["pooled", "w1"], ["product1"]),
        helper.make_node("Add", ["product1", "b1"], ["dense1"]),
        helper.make_node("Relu", ["dense1"], ["inner"]),
        helper.make_node("MatMul", ["inner", "w2"], ["product2"]),
        helper.make_node("Add", ["product2", "b2"], ["dense2"]),
        helper.make_node("Cast", ["dense2"], ["logits"], to=TensorProto.FLOAT),
    ]
    constants["zero"] = np.array([0])
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, list(dims)) for name in inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [dims[0], labels])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return TinyModel(onnx=model.SerializeToString(), weights=weights, token_types=token_types)


@pytest.fixture(scope="session")
def tiny() -> TinyModel:
    return build_tiny()


@pytest.fixture(scope="session")
def make_tiny() -> Any:
    return build_tiny


@pytest.fixture
def target_for() -> Any:
    def build(backend: str, *, batch: int = 2, length: int = 8, **rest: Any) -> EngineTarget:
        return EngineTarget(backend=backend, shape=Shape(batch=batch, length=length), **rest)

    return build
