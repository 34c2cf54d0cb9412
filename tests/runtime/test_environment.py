from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path

import pytest

from runtime import environment as module
from runtime.environment import cpu_quota, environment, environment_id

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
    assert {"os", "memory_bytes"} <= set(facts)


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


def test_callers_cannot_spoil_the_next_answer() -> None:
    environment()["cpu"]["cores"] = -1
    assert environment()["cpu"]["cores"] > 0
