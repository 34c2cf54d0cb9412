"""Layers that int8 hurts stay float: found by measured harm, few, and the same ones every time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from atb_export.dense import DenseModel
from atb_export.onnx.accuracy_aware import accuracy_aware, label_score
from atb_export.verify import reference_logits
from runtime.target import EngineTarget, Shape
from supernet.batches import TokenizedTexts

pytest.importorskip("onnxruntime")
Dense = Callable[..., DenseModel]


@torch.no_grad()
def spoilt(model: DenseModel, layer: int) -> DenseModel:
    """One feed-forward input is 100 for every token, with large weights, and biases take it out again.

    So the network computes on, but what integers are left for the other inputs of that linear are few.
    """
    part = model.net.encoder[layer]
    cell = part.stack[0]
    part.attention_norm.weight[0], part.attention_norm.bias[0] = 0, 100
    cell.intermediate.weight[:, 0] *= 100
    cell.intermediate.bias -= 100 * cell.intermediate.weight[:, 0]
    cell.output.bias[0] -= 100
    return model


class Asked:
    """A score by how many linears are float, and how often it was asked."""

    def __init__(self, good: int) -> None:
        self.good = good
        self.graphs: list[bytes] = []

    def __call__(self, graph: bytes) -> float:
        self.graphs.append(graph)
        products = sum(x.op_type == "QuantizeLinear" for x in onnx.load_from_string(graph).graph.node)
        return 1.0 if products <= self.good else 0.5


def test_what_is_good_enough_is_int8_throughout(make_dense: Dense, probes: TokenizedTexts) -> None:
    net, score = make_dense().net, Asked(16)
    made = accuracy_aware(net, net.shape, probes, token_types=False, score=score, allowed_drop=0.1)
    assert (made.found.keep_float, made.found.harms, made.found.met) == ((), {}, True)
    assert len(score.graphs) == 2
    assert made.graph == score.graphs[-1]


def test_the_most_harmful_linear_goes_first(make_dense: Dense, probes: TokenizedTexts) -> None:
    net = spoilt(make_dense(seed=2), 1).net
    answers = [
        accuracy_aware(net, net.shape, probes, token_types=False, score=Asked(14), allowed_drop=0.1) for _ in range(2)
    ]
    found = answers[0].found
    assert answers[0] == answers[1]
    assert found.met
    assert (len(found.keep_float), found.scores) == (2, (0.5, 0.5, 1.0))
    assert list(found.keep_float) == sorted(found.harms, key=lambda x: -found.harms[x])[:2]
    stored = {x.name: x.data_type for x in onnx.load_from_string(answers[0].graph).graph.initializer}
    for name in found.harms:
        kept = name in found.keep_float
        assert stored[f"{name}.weight"] == (onnx.TensorProto.FLOAT if kept else onnx.TensorProto.INT8)


def test_harm_names_the_linear_that_was_spoilt(make_dense: Dense, probes: TokenizedTexts) -> None:
    net = spoilt(make_dense(seed=2), 1).net
    made = accuracy_aware(net, net.shape, probes, token_types=False, score=Asked(0), allowed_drop=0.1, most=1)
    assert made.found.keep_float == ("layer1.intermediate",)
    assert made.found.met is False


def test_the_number_of_questions_is_bounded(make_dense: Dense, probes: TokenizedTexts) -> None:
    net, score = make_dense().net, Asked(0)
    made = accuracy_aware(net, net.shape, probes, token_types=False, score=score, allowed_drop=0.0, most=3)
    assert len(score.graphs) == 5
    assert len(made.found.keep_float) == 3
    assert made.found.to_json()["met"] is False
    with pytest.raises(ValueError, match="allowed_drop is 0 or more, got -1"):
        accuracy_aware(net, net.shape, probes, token_types=False, score=score, allowed_drop=-1)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_an_engine_is_asked(name: str, make_dense: Dense, probes: TokenizedTexts) -> None:
    pytest.importorskip(name)
    net = make_dense(seed=1).net
    target: Any = EngineTarget(backend=name, precision="auto", shape=Shape(batch=1, length=24))
    exact = reference_logits(net, probes)
    score = label_score(probes, exact.argmax(-1), target)
    made = accuracy_aware(net, net.shape, probes, token_types=False, score=score, allowed_drop=0.5)
    assert made.found.float_score == 1.0
    assert made.found.met
    regression = label_score(probes, exact[:, 0], target)
    assert -0.5 < regression(made.graph) < 0
    with pytest.raises(ValueError, match="6 rows and 2 labels"):
        label_score(probes, np.zeros(2), target)
