"""Random weights with large values, and the table engines are held to on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

from atb_export.dense import DenseModel
from atb_export.onnx.as_written import AsWritten
from atb_export.onnx.graph import graph_bytes
from atb_export.onnx.typed import typed_graph_bytes
from atb_export.stress import stress_copy, stress_texts
from atb_export.verify import STRESS, TOLERANCES, compare, engine_logits, reference_logits
from runtime.engine import backend
from runtime.target import EngineTarget, Shape

Dense = Callable[..., DenseModel]


def test_a_stress_copy_has_the_shape_few_words_and_large_values(make_dense: Dense) -> None:
    model = make_dense(seed=1)
    net = stress_copy(model.net, length=16)
    assert net.shape == model.net.shape
    assert (net.facts.vocab_size, net.facts.max_position_embeddings) == (128, 16)
    texts = stress_texts(net, pairs=False, length=16)
    assert [len(x) for x in texts.input_ids] == [1, 2, 5, 8, 15, 16]
    assert torch.equal(net.pooler.weight, stress_copy(model.net, length=16).pooler.weight)
    with torch.no_grad():
        kind, large = (x(**texts.batch([5]), attention_scores=True).attention_scores for x in (model.net, net))
    assert max(x.abs().max() for x in kind) < 10
    assert 100 < max(x.abs().max() for x in large) < 10_000  # which is what stands for "masked" in the graph


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_engines_in_f32_bear_it(make_dense: Dense, name: str) -> None:
    net = stress_copy(make_dense(seed=1).net, length=16)
    texts = stress_texts(net, pairs=True, length=16)
    asked = EngineTarget(backend=name, precision="f32", shape=Shape(batch=2, length=16))
    with backend(name).open(graph_bytes(net, token_types=True), asked) as engine:
        row = compare(
            "m", "s", engine_logits(engine, texts), reference_logits(net, texts), precision="f32", stress=True
        )
    assert row.passed
    assert row.tolerance == STRESS["f32"]
    assert (row.max_abs_error or 0) < STRESS["f32"] / 5


def test_f16_as_written_bears_it(make_dense: Dense) -> None:
    """Nothing overflows, though every product is rounded to f16."""
    net = stress_copy(make_dense(seed=1).net, length=16)
    texts = stress_texts(net, pairs=False, length=16)
    session = AsWritten(onnx.load_from_string(typed_graph_bytes(net, token_types=False, precision="f16")))
    batch = texts.batch(range(len(texts)))
    logits = session.run({x: batch[x].numpy() for x in session.inputs})["logits"]
    row = compare("m", "s", logits, reference_logits(net, texts), precision="f16", stress=True)
    assert row.passed
    assert (row.max_abs_error or 0) > TOLERANCES["f32"]


def test_a_row_may_turn_around_in_bf16_but_the_middle_one_is_held_to_the_table() -> None:
    wanted = np.array([[1.0, -1.0], [0.5, 1.0], [-1.0, 0.0]])
    got = wanted.copy()
    got[1, 0] += 0.45
    assert compare("m", "s", got, wanted, precision="bf16", stress=True).passed
    assert not compare("m", "s", got, wanted, precision="f32", stress=True).passed
    assert not compare("m", "s", got, wanted, precision="bf16").passed
    assert not compare("m", "s", wanted + 1.1 * STRESS["bf16"], wanted, precision="bf16", stress=True).passed
    got[1, 0] += 9.0  # however far
    assert compare("m", "s", got, wanted, precision="bf16", stress=True).passed
    got[1, 0] = np.nan
    assert not compare("m", "s", got, wanted, precision="bf16", stress=True).passed
