"""The machine and the packages a number was measured on."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.engine import usable_cpus

_FLAGS = re.compile(r"avx2|avx_vnni\w*|avx512f|avx512_(bf16|fp16|vnni)|avx10\w*|amx_\w+|sve2?|bf16|i8mm|asimddp")
_PACKAGES = (
    "numpy",
    "tokenizers",
    "openvino",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx_cu13",
    "torch",
    "transformers",
)
_VOLATILE = ("frequency_mhz", "affinity")


def environment() -> dict[str, Any]:
    """Plain data: CPU and what of it is usable, memory, system and versions; None where unreadable."""
    facts = dict(_fixed())
    facts["cpu"] = {
        **facts["cpu"],
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "usable": usable_cpus(),
        "quota": cpu_quota(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "frequency_mhz": _frequency_mhz(),
    }
    return facts


def environment_id(facts: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits, equal for equal machines and versions, at any clock frequency."""
    cpu = {key: value for key, value in facts["cpu"].items() if key not in _VOLATILE}
    text = json.dumps({**facts, "cpu": cpu}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """How many CPUs' worth of time the control group allows, or None without a limit (or outside Linux)."""
    if (text := _read(root / "cpu.max")) is not None:  # version 2: "MAX PERIOD" in microseconds
        limit, _, period = text.partition(" ")
    else:
        limit = _read(root / "cpu/cpu.cfs_quota_us") or "max"
        period = _read(root / "cpu/cpu.cfs_period_us") or ""
    try:
        return float(limit) / float(period) if float(limit) > 0 else None
    except (ValueError, ZeroDivisionError):
        return None


@functools.cache
def _fixed() -> dict[str, Any]:
    """What cannot change while the process runs."""
    model, flags = _cpu(_read("/proc/cpuinfo") or "")
    return {
        "cpu": {
            "model": model or platform.processor() or platform.machine(),
            "flags": flags,
            "cores": os.cpu_count(),
        },
        "memory_bytes": _memory_bytes(_read("/proc/meminfo") or ""),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": _versions(),
    }


def _cpu(text: str) -> tuple[str | None, list[str]]:
    """Model name and the flags that matter to tiny matrix products, out of the text of /proc/cpuinfo."""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    known = {flag for flag in flags.group(1).split() if _FLAGS.fullmatch(flag)} if flags else set()
    return model.group(1).strip() if model else None, sorted(known)


def _memory_bytes(text: str) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _frequency_mhz() -> float | None:
    if (khz := _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")) is not None and khz.isdigit():
        return int(khz) / 1000
    found = re.search(r"^cpu MHz\s*:\s*([\d.]+)", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return float(found.group(1)) if found else None


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
