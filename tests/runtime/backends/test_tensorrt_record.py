"""What a plan's record refuses, without TensorRT."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runtime.backends.tensorrt.record import REBUILD, PlanRecord, Profile, ShapeRange
from runtime.errors import BackendUnavailable, UnsupportedTarget
from runtime.target import EngineTarget, Shape
from runtime.tensors import TensorSpec

TARGET = EngineTarget(backend="tensorrt", device="current", precision="f16", shape=Shape(batch=1, length=8))
RECORD = PlanRecord(
    flavour="tensorrt",
    version="10.4.0.26",
    version_compatible=False,
    target=TARGET,
    compute_capabilities=("sm_89",),
    gpu="NVIDIA L4",
    effective_precision="f16",
    inputs=(TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence")),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", 2)),),
    profiles=(Profile(shape=TARGET.shape, ranges={"input_ids": ShapeRange(min=(1, 8), opt=(1, 8), max=(1, 8))}),),
    plan_sha256="0" * 64,
    plan_bytes=9,
    onnx_sha256="1" * 64,
)


def test_it_is_plain_data() -> None:
    assert PlanRecord.from_json(RECORD.to_json()) == RECORD
    with pytest.raises(ValueError, match=f"schema 1 is unknown, this version reads schema 2: {REBUILD}"):
        PlanRecord.from_json({**RECORD.to_json(), "schema": 1})


@pytest.mark.parametrize(
    ("compatible", "installed", "loads"),
    [
        (False, "10.4.0.26", True),
        (False, "10.4.0.27", False),
        (False, "10.3.0.26", False),
        (True, "10.4.0.26", True),
        (True, "10.4.1", True),
        (True, "10.13.3.9", True),
        (True, "10.3.9.99", False),
        (True, "11.0.0", False),
    ],
)
def test_versions(compatible: bool, installed: str, loads: bool) -> None:
    record = replace(RECORD, version_compatible=compatible)
    if loads:
        record.refuse_version(installed)
        return
    with pytest.raises(
        BackendUnavailable, match=rf"built by tensorrt 10\.4\.0\.26 .*{installed} is installed.*{REBUILD}"
    ):
        record.refuse_version(installed)


@pytest.mark.parametrize(
    ("changes", "gpu", "runs"),
    [
        ({}, ("sm_89", "NVIDIA L4"), True),
        ({}, ("sm_89", "NVIDIA L40S"), False),
        ({"gpu": None}, ("sm_89", "NVIDIA L40S"), True),
        ({"gpu": None}, ("sm_90", "NVIDIA H100"), False),
        ({"gpu": None, "compute_capabilities": ("sm_86", "sm_120")}, ("sm_120", "NVIDIA RTX 5090"), True),
        ({"gpu": None, "compute_capabilities": ("sm_80+",)}, ("sm_120", "NVIDIA RTX 5090"), True),
        ({"gpu": None, "compute_capabilities": ("sm_80+",)}, ("sm_75", "NVIDIA T4"), False),
    ],
)
def test_gpus(changes: dict[str, Any], gpu: tuple[str, str], runs: bool) -> None:
    record = replace(RECORD, **changes)
    if runs:
        record.refuse_gpu(*gpu)
        return
    with pytest.raises(UnsupportedTarget, match=rf"this GPU is {gpu[0]} \({gpu[1]}\): {REBUILD}"):
        record.refuse_gpu(*gpu)


def test_targets() -> None:
    assert RECORD.profile_of(TARGET) == RECORD.profile_of(replace(TARGET, device="sm_89")) == 0
    for other in ({"device": "sm_90"}, {"precision": "f32"}, {"dynamic": True}, {"shape": Shape(batch=1, length=9)}):
        with pytest.raises(UnsupportedTarget, match="the plan was built for tensorrt-current-f16-b1-l8"):
            RECORD.profile_of(replace(TARGET, **other))
