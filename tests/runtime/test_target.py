from __future__ import annotations

import json
from dataclasses import replace

import pytest

from runtime.target import EngineTarget, Shape

TARGET = EngineTarget(
    backend="tensorrt", device="sm_89,sm_120", precision="bf16", shape=Shape(batch=4, length=64), threads=2
)


def test_label_names_every_part_and_is_a_file_name() -> None:
    assert TARGET.label == "tensorrt-sm_89+sm_120-bf16-b4-l64-t2"
    plain = EngineTarget(backend="openvino", shape=Shape(batch=1, length=16))
    assert plain.label == "openvino-CPU-auto-b1-l16-t1" == str(plain)


def test_devices_are_split() -> None:
    assert TARGET.devices == ("sm_89", "sm_120")


def test_json_round_trip() -> None:
    assert EngineTarget.from_json(json.loads(json.dumps(TARGET.to_json()))) == TARGET


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("backend", "Open Vino", "backend"),
        ("device", "../x", "device"),
        ("device", "sm_89,", "device"),
        ("device", "sm_89,sm_89", "repeats"),
        ("precision", "fp32", "auto, f32, bf16, f16"),
        ("threads", 0, "threads"),
        ("threads", True, "threads"),
        ("shape", {"batch": 0, "length": 8}, "batch"),
        ("shape", {"batch": 1, "length": 8.0}, "length"),
        ("shape", {"batch": 1}, "length"),
        ("shape", [1, 8], "object"),
    ],
)
def test_wrong_values_are_refused_by_name(field: str, value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EngineTarget.from_json({**TARGET.to_json(), field: value})


def test_unknown_and_missing_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        EngineTarget.from_json({**TARGET.to_json(), "colour": "red"})
    with pytest.raises(ValueError, match="threads"):
        EngineTarget.from_json({k: v for k, v in TARGET.to_json().items() if k != "threads"})


def test_shape_must_be_a_shape() -> None:
    with pytest.raises(ValueError, match="Shape"):
        EngineTarget(backend="openvino", shape=(1, 8))  # type: ignore[arg-type]


def test_dynamic_is_named_only_where_it_is() -> None:
    dynamic = replace(TARGET, dynamic=True)
    assert dynamic.label == TARGET.label + "-dynamic"
    assert "dynamic" not in TARGET.to_json()
    assert dynamic.to_json() == {**TARGET.to_json(), "dynamic": True}
    assert EngineTarget.from_json(json.loads(json.dumps(dynamic.to_json()))) == dynamic
    with pytest.raises(ValueError, match="dynamic is true or false"):
        EngineTarget.from_json({**TARGET.to_json(), "dynamic": 1})


def test_lengths_of_one_engine_are_a_group() -> None:
    assert TARGET.group == "tensorrt-sm_89+sm_120-bf16-b4-t2"
    assert replace(TARGET, shape=Shape(batch=4, length=16)).group == TARGET.group
    others = [
        replace(TARGET, shape=Shape(batch=1, length=64)),
        replace(TARGET, threads=1),
        replace(TARGET, precision="f32"),
        replace(TARGET, device="sm_89"),
        replace(TARGET, dynamic=True),
    ]
    assert len({TARGET.group, *(x.group for x in others)}) == 6
