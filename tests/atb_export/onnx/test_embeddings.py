"""The word table in 8 bits: a quarter of the bytes, a known error, the same answer from every runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from atb_export.dense import DenseModel
from atb_export.errors import ExportError
from atb_export.onnx.as_written import AsWritten
from atb_export.onnx.embeddings import int8_rows, int8_words, round_words
from atb_export.onnx.graph import graph_bytes
from atb_export.onnx.quantise import quantised_bytes
from atb_export.onnx.typed import typed_graph_bytes
from atb_export.verify import compare, engine_logits, reference_logits
from runtime.engine import backend
from runtime.target import EngineTarget, Shape
from supernet.batches import TokenizedTexts

Dense = Callable[..., DenseModel]


def answers(name: str, graph: bytes, texts: TokenizedTexts, precision: Any) -> Any:
    target = EngineTarget(backend=name, precision=precision, shape=Shape(batch=1, length=24))
    with backend(name).open(graph, target) as engine:
        return engine_logits(engine, texts)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_engines_compute_the_rounded_network(name: str, make_dense: Dense, probes: TokenizedTexts) -> None:
    """Law 3 in float32 for the network with the rounded table; the table itself is what changed the answer."""
    pytest.importorskip(name)
    model = make_dense(seed=3)
    got = answers(name, int8_words(graph_bytes(model.net)), probes, "f32")
    assert compare("m", name, got, reference_logits(round_words(model).net, probes), precision="f32").passed
    row = compare("m", name, got, reference_logits(model.net, probes), precision="rounding")
    assert row.passed
    assert (row.max_abs_error or 0) > 1e-4


@pytest.mark.parametrize("kind", ["int8", "f16"])
def test_it_goes_with_any_graph(kind: str, make_dense: Dense, probes: TokenizedTexts) -> None:
    pytest.importorskip("openvino")
    model = make_dense(seed=3)
    if kind == "int8":
        graph = quantised_bytes(model.net, model.net.shape, probes, token_types=False)
    else:
        graph = typed_graph_bytes(model.net, token_types=False, precision="f16")
    got = answers("openvino", int8_words(graph), probes, "int8" if kind == "int8" else "f32")
    wanted = reference_logits(round_words(model).net, probes)
    assert compare("m", kind, got, wanted, precision="rounding" if kind == "int8" else "f16").passed
    if kind == "f16":
        exact = AsWritten(onnx.load_from_string(int8_words(graph)))
        batch = probes.batch(range(len(probes)))
        logits = exact.run({name: batch[name].numpy() for name in exact.inputs})["logits"]
        assert compare("m", "emulated", logits, wanted, precision="f16").passed


def test_a_number_moves_by_half_a_step(make_dense: Dense) -> None:
    table = make_dense(seed=5).net.word_embeddings.weight.detach().numpy().copy()
    table[7] = 0
    table[8] *= 1e-20
    values, scales = int8_rows(table)
    assert (values.dtype, scales.shape) == (np.int8, (len(table), 1))
    assert np.all(np.abs(values * scales - table) <= 0.5001 * scales)
    assert np.all(np.abs(values).max(1)[np.abs(table).max(1) > 0] == 127)
    assert not values[7].any()
    again, same = int8_rows(values * scales)
    assert np.array_equal(again, values)
    np.testing.assert_allclose(same, scales, rtol=1e-6)


def test_only_the_table_changes(make_dense: Dense) -> None:
    model = make_dense()
    before = onnx.load_from_string(graph_bytes(model.net))
    after = onnx.load_from_string(int8_words(graph_bytes(model.net)))
    onnx.checker.check_model(after, full_check=True)
    old, new = ({x.name: numpy_helper.to_array(x) for x in g.graph.initializer} for g in (before, after))
    assert set(new) - set(old) == {"words.scale"}
    assert new["words"].nbytes + new["words.scale"].nbytes < 0.4 * old["words"].nbytes
    assert all(np.array_equal(old[name], new[name]) for name in set(old) - {"words"})
    rounded, exact = round_words(model).net.state_dict(), model.net.state_dict()
    assert [x for x in exact if not torch.equal(exact[x], rounded[x])] == ["word_embeddings.weight"]


def test_a_graph_without_a_table_is_refused(make_dense: Dense) -> None:
    once = int8_words(graph_bytes(make_dense().net))
    model = onnx.load_from_string(once)
    for x in model.graph.initializer:
        x.name = x.name.replace("words", "table")
    with pytest.raises(ExportError, match="no word table"):
        int8_words(model.SerializeToString())
