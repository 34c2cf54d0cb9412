from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from runtime.onnx_file import OnnxFile, TensorSpec, sha256_of

IDS = TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"))
LOGITS = TensorSpec(name="logits", dtype="float32", shape=("batch", 2))


def _file(path: Path) -> OnnxFile:
    return OnnxFile(path=path, sha256=sha256_of(path), inputs=(IDS,), outputs=(LOGITS,), opset=20)


def test_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 100_000)
    assert sha256_of(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_json_round_trip(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"model")
    file = _file(tmp_path / "m.onnx")
    assert OnnxFile.from_json(json.loads(json.dumps(file.to_json()))) == file


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"model")
    file = _file(path)
    assert file.is_intact()
    path.write_bytes(b"lodel")
    assert not file.is_intact()
    path.unlink()
    assert not file.is_intact()


def test_wrong_fields_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"model")
    data = _file(tmp_path / "m.onnx").to_json()
    with pytest.raises(ValueError, match="sha256"):
        OnnxFile.from_json({**data, "sha256": "abc"})
    with pytest.raises(ValueError, match="colour"):
        OnnxFile.from_json({**data, "colour": 1})
    with pytest.raises(ValueError, match="at least one input"):
        OnnxFile.from_json({**data, "inputs": []})
    with pytest.raises(ValueError, match="dtype"):
        OnnxFile.from_json({**data, "inputs": [{"name": "x"}]})


@pytest.mark.parametrize("shape", [(0,), (-1, 2), (None,), ("",), (True,)])
def test_a_dimension_is_a_size_or_a_name(shape: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="dimension"):
        TensorSpec(name="x", dtype="int64", shape=shape)  # type: ignore[arg-type]


def test_a_tensor_has_a_name_and_prints_as_one_reads() -> None:
    assert str(IDS) == "input_ids int64[batch, sequence]"
    with pytest.raises(ValueError, match="name"):
        TensorSpec(name="", dtype="int64", shape=(1,))
