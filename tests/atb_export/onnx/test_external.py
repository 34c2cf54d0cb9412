"""Weights of ONNX files as ranges of files beside them: the same numbers, stored once."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from atb_export.dense import DenseModel, save_dense
from atb_export.onnx.external import WeightFiles, read_whole, strangeness
from atb_export.onnx.graph import graph_bytes
from runtime.backends.onnxruntime import FreeSession
from supernet.batches import TokenizedTexts

Dense = Callable[..., DenseModel]


def answers(onnx: bytes | Path, texts: TokenizedTexts) -> np.ndarray:
    session = FreeSession(onnx, optimised=False)
    batch = texts.batch(range(len(texts)))
    return session.run({name: batch[name].numpy() for name in session.inputs})["logits"]


@pytest.fixture
def folder(make_dense: Dense, tmp_path: Path) -> Path:
    save_dense(make_dense(seed=5), tmp_path)
    return tmp_path


def test_a_file_of_known_tensors_answers_to_the_bit_what_the_whole_one_answers(
    folder: Path, make_dense: Dense, probes: TokenizedTexts
) -> None:
    net = make_dense(seed=5).net
    whole = graph_bytes(net)
    files = WeightFiles(folder)
    files.add_safetensors("model.safetensors")
    path = files.write(whole, "model.onnx", scales=[1 / math.sqrt(net.shape.layers[0].head_size)])
    assert np.array_equal(answers(path, probes), answers(whole, probes))
    assert path.stat().st_size + (folder / "model.onnx.data").stat().st_size < len(whole) / 2
    tables = 4 * net.shape.hidden_size * net.facts.max_position_embeddings
    assert (folder / "model.onnx.data").stat().st_size == tables  # position and segment table are one in the graph
    assert strangeness(path) == []


def test_without_known_tensors_every_weight_is_in_the_one_file_beside_it(tmp_path: Path, make_dense: Dense) -> None:
    whole = graph_bytes(make_dense(seed=5).net)
    path = WeightFiles(tmp_path).write(whole, "model.onnx")
    assert sorted(x.name for x in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert read_whole(path) == onnx.load_from_string(whole)


def test_a_second_graph_shares_what_the_first_one_wrote(tmp_path: Path, make_dense: Dense) -> None:
    whole = graph_bytes(make_dense(seed=5).net)
    files = WeightFiles(tmp_path)
    files.write(whole, "a.onnx")
    files.write(whole, "b.onnx")
    later = WeightFiles(tmp_path)
    later.add_onnx("a.onnx")
    later.write(whole, "c.onnx")
    assert sorted(x.name for x in tmp_path.iterdir()) == ["a.onnx", "a.onnx.data", "b.onnx", "c.onnx"]
    assert read_whole(tmp_path / "c.onnx") == read_whole(tmp_path / "b.onnx") == onnx.load_from_string(whole)


def test_weights_of_another_model_are_noticed(folder: Path, make_dense: Dense) -> None:
    """The ONNX file's own hash vouches for the files it reads."""
    files = WeightFiles(folder)
    files.add_safetensors("model.safetensors")
    path = files.write(graph_bytes(make_dense(seed=5).net), "model.onnx")
    save_dense(make_dense(seed=6), folder)
    assert strangeness(path) == ["model.onnx was written for another model.safetensors: its SHA-256 is another"]


def model_with(place: str, domain: str = "") -> onnx.ModelProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    ports = [helper.make_tensor_value_info(x, TensorProto.FLOAT, [4]) for x in ("x", "y")]
    node = helper.make_node("Add", ["x", "w"], ["y"], domain=domain)
    return helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:], [tensor]))


@pytest.mark.parametrize("place", ["../w", "/etc/hostname", "a/../../w", "..", "", "..\\w", "gone"])
def test_weights_elsewhere_are_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "w").write_bytes(b"\0" * 16)
    path = tmp_path / "bundle/model.onnx"
    path.write_bytes(model_with(place).SerializeToString())
    (told,) = strangeness(path)
    assert told.startswith("model.onnx has weights in ")


def test_operators_outside_the_standard_and_other_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"\0" * 16)
    path = tmp_path / "model.onnx"
    path.write_bytes(model_with("w", domain="com.company").SerializeToString())
    assert strangeness(path) == ["model.onnx has operators outside the ONNX standard: com.company::Add"]
    path.write_bytes(b"\xff\xff")
    assert strangeness(path)[0].startswith("model.onnx is no ONNX model")
