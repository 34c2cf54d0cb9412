"""What a tensor is named and shaped."""

from __future__ import annotations

import json

import pytest

from runtime.tensors import TensorSpec

IDS = TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"))


def test_json_round_trip() -> None:
    assert TensorSpec.from_json(json.loads(json.dumps(IDS.to_json()))) == IDS


def test_wrong_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        TensorSpec.from_json({**IDS.to_json(), "colour": 1})
    with pytest.raises(ValueError, match="dtype"):
        TensorSpec.from_json({"name": "x"})


@pytest.mark.parametrize("shape", [(0,), (-1, 2), (None,), ("",), (True,)])
def test_a_dimension_is_a_size_or_a_name(shape: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="dimension"):
        TensorSpec(name="x", dtype="int64", shape=shape)  # type: ignore[arg-type]


def test_a_tensor_has_a_name_and_prints_as_one_reads() -> None:
    assert str(IDS) == "input_ids int64[batch, sequence]"
    with pytest.raises(ValueError, match="name"):
        TensorSpec(name="", dtype="int64", shape=(1,))
