from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from atb_export.onnx.builder import IR_VERSION, OPSET, GraphBuilder

RNG = np.random.default_rng(0)
TABLE, WEIGHT, BIAS = (RNG.normal(size=s).astype(np.float32) for s in ((10, 6), (6, 4), (4,)))
SCALE, SHIFT = (RNG.normal(size=4).astype(np.float32) for _ in range(2))
IDS = np.array([[1, 2, 3], [4, 9, 0]])


def lookup() -> tuple[GraphBuilder, str]:
    g = GraphBuilder("small")
    return g, g.node("Gather", [g.weight("table", TABLE), g.input("ids", ("batch", "sequence"))], "rows")


def run(g: GraphBuilder) -> list[Any]:
    session = onnxruntime.InferenceSession(g.build().SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": IDS})


def test_linear_and_layer_norm_compute_what_they_say() -> None:
    g, rows = lookup()
    x = g.layer_norm(g.linear(rows, "dense", WEIGHT, BIAS), "norm", SCALE, SHIFT, 1e-5)
    g.output(x, ("batch", "sequence", 4))
    dense = TABLE[IDS] @ WEIGHT + BIAS
    centred = dense - dense.mean(-1, keepdims=True)
    wanted = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * SCALE + SHIFT
    np.testing.assert_allclose(run(g)[0], wanted, rtol=1e-4, atol=1e-5)


def test_split_cuts_the_last_axis() -> None:
    g, rows = lookup()
    assert g.split(rows, ["left", "right"], [2, 4]) == ["left", "right"]
    g.output("left", ("batch", "sequence", 2))
    g.output("right", ("batch", "sequence", 4))
    left, right = run(g)
    np.testing.assert_array_equal(left, TABLE[IDS][..., :2])
    np.testing.assert_array_equal(right, TABLE[IDS][..., 2:])


def test_split_cuts_the_axis_it_is_told() -> None:
    g, rows = lookup()
    g.split(rows, ["first", "others"], [1, 2], axis=1)
    g.output("first", ("batch", 1, 6))
    g.output("others", ("batch", 2, 6))
    first, others = run(g)
    np.testing.assert_array_equal(first, TABLE[IDS][:, :1])
    np.testing.assert_array_equal(others, TABLE[IDS][:, 1:])


def test_softmax_is_over_the_last_axis() -> None:
    g, rows = lookup()
    g.output(g.softmax(rows, "shares"), ("batch", "sequence", 6))
    powers = np.exp(TABLE[IDS])
    np.testing.assert_allclose(run(g)[0], powers / powers.sum(-1, keepdims=True), rtol=1e-5)


def test_the_model_says_what_it_is() -> None:
    g, rows = lookup()
    g.output(rows, ("batch", "sequence", 6))
    model = g.build()
    assert [(x.domain, x.version) for x in model.opset_import] == [("", OPSET)]
    assert model.ir_version == IR_VERSION
    assert model.graph.name == "small"
    ids, answer = model.graph.input[0].type.tensor_type, model.graph.output[0].type.tensor_type
    assert (ids.elem_type, answer.elem_type) == (onnx.TensorProto.INT64, onnx.TensorProto.FLOAT)
    assert [d.dim_param for d in ids.shape.dim] == ["batch", "sequence"]
    assert [d.dim_param or d.dim_value for d in answer.shape.dim] == ["batch", "sequence", 6]


def test_a_weight_is_stored_once_and_need_not_be_contiguous() -> None:
    g, rows = lookup()
    g.weight("table", TABLE)
    x = g.node("MatMul", [rows, g.weight("turned", TABLE.T)], "products")
    g.output(x, ("batch", "sequence", 10))
    assert [w.name for w in g.build().graph.initializer] == ["table", "turned"]
    np.testing.assert_allclose(run(g)[0], TABLE[IDS] @ TABLE.T, rtol=1e-5, atol=1e-6)


def test_a_graph_against_the_specification_is_refused() -> None:
    g, rows = lookup()
    g.node("Add", [rows, "nowhere"], "sum")
    g.output("sum", ("batch", "sequence", 6))
    with pytest.raises(onnx.checker.ValidationError, match="nowhere"):
        g.build()


def structure(**changes: Any) -> str:
    """Of a small graph; `changes` are to its table, its axis, its type, its names and its constant."""
    given = {"table": TABLE, "axis": 0, "name": "rows", "start": 0} | changes
    g = GraphBuilder("small")
    ids = g.input("ids", ("batch", "sequence"))
    g.node("Gather", [g.weight("table", given["table"]), ids], given["name"], axis=given["axis"])
    g.node("Add", [ids, g.weight("start", np.array([given["start"]]))], "moved")
    return g.structure()


def test_the_structure_leaves_out_the_values_of_floats_and_nothing_else() -> None:
    assert len(structure()) == 64
    assert structure() == structure(table=TABLE + 1) == structure(table=np.broadcast_to(np.float32(0), (10, 6)))
    others = [
        structure(**x)
        for x in (
            {"table": TABLE[:9]},
            {"table": TABLE.T},
            {"table": TABLE.astype(np.float64)},
            {"axis": 1},
            {"name": "other"},
            {"start": 1},
        )
    ]
    assert len({structure(), *others}) == 7


def test_a_weight_given_twice_is_given_alike() -> None:
    g, _ = lookup()
    g.weight("table", TABLE.copy())
    with pytest.raises(ValueError, match="table is given twice with different values"):
        g.weight("table", TABLE + 1)
