"""Held against the `onnx` package, which the reader does without."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.errors import CompileError
from runtime.onnx_reader import CONTRIBUTED, ExternalData, MalformedError, check_onnx, read_onnx


def test_it_finds_what_the_package_finds(tiny: Any) -> None:
    model = onnx.load_from_string(tiny.onnx)
    found = read_onnx(tiny.onnx)
    assert found.opsets == {x.domain: x.version for x in model.opset_import}
    assert found.operators == {(x.domain, x.op_type) for x in model.graph.node}
    assert (found.external, found.functions, found.quantised, found.precision) == ([], set(), False, "f32")


def test_a_file_reads_as_its_bytes_do(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(tiny.onnx)
    assert read_onnx(tmp_path / "m.onnx") == read_onnx(tiny.onnx)


@pytest.mark.parametrize(
    ("kind", "name"), [(TensorProto.FLOAT, "f32"), (TensorProto.FLOAT16, "f16"), (TensorProto.BFLOAT16, "bf16")]
)
def test_precision_is_that_of_the_weights_of_products(kind: int, name: str) -> None:
    weight = helper.make_tensor("w", kind, [2, 2], np.zeros(4).tolist())
    table = numpy_helper.from_array(np.zeros((9, 9)), "table")
    found = read_onnx(_model([helper.make_node("MatMul", ["x", "w"], ["y"])], [table, weight]))
    assert found.precision == name


def test_quantisation_is_seen(quantised_bytes: bytes, tiny: Any) -> None:
    assert read_onnx(quantised_bytes).quantised


@pytest.fixture
def quantised_bytes() -> bytes:
    scale = numpy_helper.from_array(np.float32(1), "s")
    return _model([helper.make_node("QuantizeLinear", ["x", "s"], ["y"])], [scale])


def test_custom_operators_are_named() -> None:
    nodes = [helper.make_node(kind, ["x"], [kind], domain=domain) for domain, kind in CUSTOM]
    with pytest.raises(
        CompileError, match=r"custom operators: com\.microsoft::Gelu, org\.me::Mine; .* of ONNX: export"
    ):
        check_onnx(_model(nodes))
    with pytest.raises(
        CompileError, match=r"operators: org\.me::Mine; an engine takes those of ONNX and com\.microsoft"
    ):
        check_onnx(_model(nodes), extra_domains=CONTRIBUTED)
    check_onnx(_model(nodes[:2]), extra_domains=CONTRIBUTED)


CUSTOM = (("", "Relu"), ("com.microsoft", "Gelu"), ("org.me", "Mine"))


def test_custom_operators_hide_nowhere() -> None:
    """Not in a branch, nor in a function of the model's own, whose own name is allowed."""
    custom = helper.make_node("Mine", ["x"], ["y"], domain="org.me")
    branch = helper.make_graph([custom], "b", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    chosen = helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch)
    with pytest.raises(CompileError, match=r"org\.me::Mine"):
        check_onnx(_model([chosen]))
    opsets = [helper.make_opsetid("", 17)]
    model = onnx.load_from_string(_model([helper.make_node("Own", ["x"], ["y"], domain="org.me")]))
    model.functions.append(
        helper.make_function("org.me", "Own", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opsets)
    )
    assert check_onnx(model.SerializeToString()).functions == {("org.me", "Own")}
    model.functions[0].node.append(custom)
    with pytest.raises(CompileError, match=r"org\.me::Mine"):
        check_onnx(model.SerializeToString())


@pytest.mark.parametrize("place", ["initializer", "constant", "sparse"])
@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("../w.bin", "outside its own folder"),
        ("/etc/hostname", "outside its own folder"),
        ("link.bin", "outside its own folder"),
        ("nowhere.bin", "which is not there"),
        ("short.bin", "which has 3 bytes and should have 16 or more"),
        ("w.bin", None),
        ("sub/w.bin", None),
    ],
)
def test_weights_elsewhere_stay_in_the_models_folder(
    place: str, location: str, says: str | None, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    for path in (tmp_path / "w.bin", home / "w.bin", home / "sub/w.bin"):
        path.write_bytes(bytes(16))
    (home / "short.bin").write_bytes(b"abc")
    (home / "link.bin").symlink_to(tmp_path / "w.bin")
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    if place == "initializer":
        data = _model([helper.make_node("Relu", ["w"], ["y"])], [weight])
    elif place == "constant":
        data = _model([helper.make_node("Constant", [], ["y"], value=weight)])
    else:
        model = onnx.load_from_string(_model([helper.make_node("Relu", ["w"], ["y"])]))
        model.graph.sparse_initializer.add(values=weight, dims=[9])
        data = model.SerializeToString()
    path = home / "m.onnx"
    path.write_bytes(data)
    if says is None:
        assert check_onnx(path).external == [ExternalData(location=location, offset=0, length=16)]
    else:
        with pytest.raises(CompileError, match=says):
            check_onnx(path)
    for given in ({"source": data}, {"source": path, "alone": True}):
        with pytest.raises(CompileError, match="which does not come with it"):
            check_onnx(**given)  # type: ignore[arg-type]


def test_every_way_to_cut_a_model_short_is_told(tiny: Any) -> None:
    """A cut between two fields of the model itself leaves a message without graph or opset."""
    for end in range(len(tiny.onnx)):
        with pytest.raises(CompileError, match="is not an ONNX model, or was cut short"):
            check_onnx(tiny.onnx[:end])


def test_rubbish_is_told_and_nothing_else_is_raised(tiny: Any) -> None:
    rng = Random(1)
    for _ in range(300):
        data = bytearray(tiny.onnx)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            read_onnx(bytes(data))
        except (MalformedError, UnicodeDecodeError):
            continue
    for data in (b"", b"rubbish", b"\xff" * 40, bytes(8), rng.randbytes(999)):
        with pytest.raises(CompileError, match="is not an ONNX model"):
            check_onnx(bytes(data))


def test_graphs_may_not_lie_too_deep() -> None:
    graph = helper.make_graph([], "g", [], [])
    for _ in range(25):
        graph = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=graph)], "g", [], [])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    with pytest.raises(CompileError, match="more than 16 deep"):
        check_onnx(data)


def test_a_missing_or_empty_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="no model file"):
        check_onnx(tmp_path / "nowhere.onnx")
    (tmp_path / "m.onnx").touch()
    with pytest.raises(CompileError, match="the file is empty"):
        check_onnx(tmp_path / "m.onnx")


def _model(nodes: list[Any], stored: list[Any] | None = None) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        stored or [],
    )
    opsets = [helper.make_opsetid(domain, 1 if domain else 17) for domain in ("", "com.microsoft", "org.me")]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
