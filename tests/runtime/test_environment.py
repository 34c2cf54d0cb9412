from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime import environment as module
from runtime.environment import (
    conditions,
    cpu_quota,
    environment,
    environment_id,
    hardware_id,
    preemptions,
    runtime_version,
)
from runtime.errors import BackendUnavailable, UnsupportedTarget

X86 = """processor\t: 0
model name\t: AMD EPYC 9000
flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 avx512_vnni amx_tile amx_bf16 avx512fantasy rdrand
cpu MHz\t\t: 2596.122
processor\t: 1
model name\t: Other
"""


def test_it_is_plain_data_about_this_machine() -> None:
    facts = environment()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["python"] == platform.python_version()
    assert facts["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert facts["cpu"]["cores"] >= facts["cpu"]["usable"] >= 1
    assert {"model", "flags", "affinity", "quota", "governor", "frequency_mhz"} <= set(facts["cpu"])
    assert {"os", "memory_bytes", "gpus"} <= set(facts)


def test_cpu_model_and_the_flags_that_matter() -> None:
    model, flags = module._cpu(X86)
    assert model == "AMD EPYC 9000"
    assert flags == ["amx_bf16", "amx_tile", "avx2", "avx512_bf16", "avx512_vnni", "avx512f"]
    assert module._cpu("") == (None, [])
    assert module._memory_bytes("MemTotal:       24 kB\n") == 24 * 1024
    assert module._memory_bytes("") is None


def test_quota_of_both_versions_of_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("50000\n")
    assert cpu_quota(tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert cpu_quota(tmp_path) == 2.5


def test_id_ignores_the_clock_frequency_only(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment_id(environment())
    monkeypatch.setattr(module, "_frequency_mhz", lambda: 1.0)
    assert environment()["cpu"]["frequency_mhz"] == 1.0
    assert environment_id(environment()) == before
    assert len(before) == 12
    facts = environment()
    facts["packages"] = {**facts["packages"], "numpy": "0.0"}
    assert environment_id(facts) != before
    monkeypatch.setattr(module, "cpu_quota", lambda: 0.25)
    assert environment_id(environment()) != before


def test_hardware_outlives_updates_and_is_another_with_other_parts() -> None:
    facts = environment()
    before = hardware_id(facts)
    assert len(before) == 12
    assert int(before, 16) >= 0
    cpu = facts["cpu"]
    same = {**facts, "packages": {"numpy": "0.0"}, "os": "other", "python": "9", "memory_bytes": 1}
    same["cpu"] = {**cpu, "governor": "powersave", "frequency_mhz": 1.0, "affinity": [7]}
    assert hardware_id(same) == before
    for name, value in (("model", "other"), ("flags", ["none"]), ("cores", 999), ("usable", 999), ("quota", 0.25)):
        assert hardware_id({**facts, "cpu": {**cpu, name: value}}) != before, name
    assert hardware_id({**facts, "gpus": ["other"]}) != before


def test_gpus_are_named_by_their_driver(tmp_path: Path) -> None:
    assert module._gpus(tmp_path / "nowhere") == []
    for folder, model in (("0000:01:00.0", "NVIDIA L4"), ("0000:00:00.0", "NVIDIA H200")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 21\n")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/information").write_text("IRQ: 3\n")
    assert module._gpus(tmp_path) == ["NVIDIA H200", "NVIDIA L4"]


def test_runtime_version_is_that_of_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"openvino": "2026.4.1", "tensorrt": "10.1"}
    monkeypatch.setattr(module, "_version", installed.get)
    assert runtime_version("openvino") == "openvino 2026.4.1"
    assert runtime_version("tensorrt") == "tensorrt 10.1"
    installed["tensorrt_rtx_cu13"] = "1.7"
    assert runtime_version("tensorrt") == "tensorrt_rtx_cu13 1.7"
    with pytest.raises(BackendUnavailable, match="onnxruntime is not installed here"):
        runtime_version("onnxruntime")
    with pytest.raises(UnsupportedTarget, match="no backend is called 'other'; there are onnxruntime"):
        runtime_version("other")


def test_conditions_of_now() -> None:
    found = conditions()
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"affinity", "pinned", "governor", "frequency_mhz", "load_average"}
    if Path("/proc/loadavg").exists():
        assert found["load_average"] >= 0
    first = preemptions()
    assert first is None or first <= (preemptions() or 0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads are bound on Linux only")
def test_a_bound_thread_is_noticed() -> None:
    cpus = os.sched_getaffinity(0)
    if len(cpus) < 2:
        pytest.skip("one CPU binds everything")

    def bind_and_look() -> bool | None:
        os.sched_setaffinity(0, {min(cpus)})
        return module._pinned()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(bind_and_look).result() is True


def test_callers_cannot_spoil_the_next_answer() -> None:
    environment()["cpu"]["cores"] = -1
    assert environment()["cpu"]["cores"] > 0
