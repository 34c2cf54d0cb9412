"""Precision in the types: products f16 or bf16, LayerNorm and softmax float32, and overflow never silent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from atb_export.dense import DenseModel
from atb_export.errors import ExportError
from atb_export.onnx.as_written import AsWritten
from atb_export.onnx.graph import graph_bytes
from atb_export.onnx.typed import typed_graph_bytes
from atb_export.verify import compare, engine_logits, reference_logits
from runtime.backends.onnxruntime import FreeSession
from runtime.engine import backend
from runtime.target import EngineTarget, Shape
from supernet.batches import TokenizedTexts
from supernet.space import SubnetConfig

Dense = Callable[..., DenseModel]
Draw = Callable[..., SubnetConfig]
TYPES = {"f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def typed(model: DenseModel, precision: Any, subnet: SubnetConfig | None = None, *, token_types: bool = False) -> bytes:
    return typed_graph_bytes(model.net, subnet, token_types=token_types, precision=precision)


def run(graph: bytes, texts: TokenizedTexts) -> Any:
    """Every node as it is written."""
    session = AsWritten(onnx.load_from_string(graph))
    batch = texts.batch(range(len(texts)))
    return session.run({name: batch[name].numpy() for name in session.inputs})["logits"]


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("token_types", [False, True])
def test_products_are_typed_and_norms_are_float(precision: str, token_types: bool, make_dense: Dense) -> None:
    graph = onnx.load_from_string(typed(make_dense(), precision, token_types=token_types))
    onnx.checker.check_model(graph, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    kinds = {x.name: x.type.tensor_type.elem_type for x in inferred.value_info}
    kinds |= {x.name: x.data_type for x in graph.graph.initializer}
    products = [x for x in graph.graph.node if x.op_type in ("MatMul", "Gemm")]
    assert products
    for node in products:
        assert {kinds[x] for x in (*node.input, *node.output)} == {TYPES[precision]}, node.name
    careful = [x for x in graph.graph.node if x.op_type in ("LayerNormalization", "Softmax")]
    assert len(careful) == 1 + 3 * 4
    for node in careful:
        assert {kinds[x] for x in (*node.input, *node.output)} == {TensorProto.FLOAT}, node.name
    assert {x.type.tensor_type.elem_type for x in graph.graph.input} == {TensorProto.INT64}
    assert [x.type.tensor_type.elem_type for x in graph.graph.output] == [TensorProto.FLOAT]


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("seed", range(3))
def test_it_computes_the_network(
    precision: str, seed: int, make_dense: Dense, draw_subnet: Draw, probes: TokenizedTexts
) -> None:
    """Law 3: padded rows together against float64 rows alone, so the mask is finite where it must be."""
    model = make_dense(seed=seed)
    subnet = draw_subnet(model.net.shape, seed)
    wanted = reference_logits(model.net, probes, subnet)
    row = compare("m", precision, run(typed(model, precision, subnet), probes), wanted, precision=precision)
    assert row.passed, row
    assert (row.max_abs_error or 0) > {"f16": 1e-5, "bf16": 1e-4}[precision], "nothing was rounded"


def test_onnxruntime_reads_f16(make_dense: Dense, probes: TokenizedTexts) -> None:
    model = make_dense(seed=1)
    session = FreeSession(typed(model, "f16"), optimised=True)
    got = session.run({k: v.numpy() for k, v in probes.batch(range(len(probes))).items() if k in session.inputs})
    assert got["logits"].dtype == np.float32
    assert compare("m", "f16", got["logits"], reference_logits(model.net, probes), precision="f16").passed


@pytest.mark.parametrize("precision", TYPES)
def test_openvino_reads_both(precision: str, make_dense: Dense, probes: TokenizedTexts) -> None:
    pytest.importorskip("openvino")
    model = make_dense(seed=2)
    target = EngineTarget(backend="openvino", precision="f32", shape=Shape(batch=1, length=24))
    with backend("openvino").open(typed(model, precision), target) as engine:
        got = engine_logits(engine, probes)
    assert compare("m", precision, got, reference_logits(model.net, probes), precision=precision).passed


@pytest.mark.parametrize("precision", TYPES)
def test_tensorrt_multiplies_in_it(precision: str, make_dense: Dense, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    target = EngineTarget(backend="tensorrt", device="sm_89", precision=precision, shape=Shape(batch=1, length=24))  # type: ignore[arg-type]
    backend("tensorrt").compile(typed(make_dense(), precision), target, tmp_path / "plan")
    assert json.loads((tmp_path / "plan" / "plan.json").read_text())["effective_precision"] == precision


@torch.no_grad()
def test_a_weight_beyond_f16_is_refused(make_dense: Dense) -> None:
    model = make_dense()
    model.net.encoder[1].stack[0].output.bias[3] = 1e5
    with pytest.raises(ExportError, match=r"layer1.output.bias reaches 100000, and f16 ends at 65504: export in bf16"):
        typed(model, "f16")
    typed(model, "bf16")


@torch.no_grad()
def test_an_overflow_on_the_way_is_caught(make_dense: Dense, probes: TokenizedTexts) -> None:
    """Weights that are finite in f16, products that are not: the logits say so, and verification refuses them."""
    model = make_dense(seed=1)
    for layer in model.net.encoder:
        layer.stack[0].intermediate.weight.mul_(3e4)
        layer.stack[0].output.weight.div_(3e4)
    wanted = reference_logits(model.net, probes)
    got = run(typed(model, "f16"), probes)
    assert not np.isfinite(got).all()
    assert compare("m", "f16", got, wanted, precision="f16").passed is False
    assert compare("m", "bf16", run(typed(model, "bf16"), probes), wanted, precision="bf16").passed


def test_it_is_half_the_bytes(make_dense: Dense) -> None:
    model = make_dense()
    whole, half = (onnx.load_from_string(x) for x in (graph_bytes(model.net), typed(model, "f16")))
    sizes = [sum(len(x.raw_data) for x in g.graph.initializer) for g in (whole, half)]
    assert sizes[1] < 0.55 * sizes[0]
    assert helper.tensor_dtype_to_np_dtype(TYPES["f16"]) == np.float16


def test_other_precisions_are_named(make_dense: Dense) -> None:
    with pytest.raises(ValueError, match="typed f16 or bf16, got 'f8'"):
        typed(make_dense(), "f8")
