"""The machine and the packages a number was measured on."""

from __future__ import annotations

import contextlib
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

from runtime.backends import BACKENDS
from runtime.engine import usable_cpus
from runtime.errors import BackendUnavailable, UnsupportedTarget

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
_LASTING = ("model", "flags", "cores", "usable", "quota")
_CPU_FOLDER = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_GPUS = Path("/proc/driver/nvidia/gpus")
_ENGINE_PACKAGES = {"tensorrt": ("tensorrt_rtx_cu13", "tensorrt")}
"""Which packages a backend may run on, in the order it looks for them; by default the one of its own name."""


def environment() -> dict[str, Any]:
    """Plain data: CPU and what of it is usable, GPUs, memory, system and versions; None where unreadable."""
    facts = dict(_fixed())
    facts["cpu"] = {
        **facts["cpu"],
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "usable": usable_cpus(),
        "quota": cpu_quota(),
        "governor": _read(_CPU_FOLDER / "scaling_governor"),
        "frequency_mhz": _frequency_mhz(),
    }
    return facts


def environment_id(facts: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits, equal for equal machines and versions, at any clock frequency."""
    cpu = {key: value for key, value in facts["cpu"].items() if key not in _VOLATILE}
    text = json.dumps({**facts, "cpu": cpu}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def hardware_id(facts: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits, equal where the same engine takes the same time: the CPU as far as it is usable, and
    the GPUs. Unlike `environment_id` it outlives updates of packages and of the system."""
    cpu = {name: facts["cpu"][name] for name in _LASTING}
    text = json.dumps({"cpu": cpu, "gpus": facts["gpus"]}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def runtime_version(backend_name: str) -> str:
    """The backend and the version of the package that runs its engines here, such as "openvino 2026.4.1".

    Raises `UnsupportedTarget` for an unknown backend and `BackendUnavailable` where no package of it is installed.
    """
    if backend_name not in BACKENDS:
        raise UnsupportedTarget(f"no backend is called {backend_name!r}; there are {', '.join(sorted(BACKENDS))}")
    packages = _ENGINE_PACKAGES.get(backend_name, (backend_name,))
    for package in packages:
        if (version := _version(package)) is not None:
            return f"{package} {version}"
    raise BackendUnavailable(f"{backend_name} is not installed here: none of {', '.join(packages)} is")


def conditions() -> dict[str, Any]:
    """What may differ between two measurements on one machine: plain data, None where unreadable.

    `affinity` are the CPUs this process may run on, `pinned` whether one of its threads is bound to fewer of them (as
    some engines do with theirs), `governor` and `frequency_mhz` those of the first CPU, `load_average` the last
    minute's number of running processes on the whole machine.
    """
    cpu = environment()["cpu"]
    load = (_read("/proc/loadavg") or "").split()
    return {
        "affinity": cpu["affinity"],
        "pinned": _pinned(),
        "governor": cpu["governor"],
        "frequency_mhz": cpu["frequency_mhz"],
        "load_average": float(load[0]) if load else None,
    }


def preemptions() -> int | None:
    """How often others took a CPU from a thread of this process so far; None outside Unix."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


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
        "gpus": _gpus(),
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


def _pinned() -> bool | None:
    """Threads that end while they are looked at do not count."""
    tasks = Path("/proc/self/task")
    if not hasattr(os, "sched_getaffinity") or not tasks.is_dir():
        return None
    bound = set()
    for task in tasks.iterdir():
        with contextlib.suppress(ProcessLookupError):
            bound.add(frozenset(os.sched_getaffinity(int(task.name))))
    return len(bound) > 1


def _gpus(root: Path = _GPUS) -> list[str]:
    """Models of the NVIDIA GPUs as their driver lists them; no package is needed for that."""
    texts = [_read(path) or "" for path in sorted(root.glob("*/information"))]
    models = [re.search(r"^Model:\s*(.+)$", text, re.MULTILINE) for text in texts]
    return sorted(found.group(1).strip() for found in models if found)


def _memory_bytes(text: str) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _frequency_mhz() -> float | None:
    if (khz := _read(_CPU_FOLDER / "scaling_cur_freq")) is not None and khz.isdigit():
        return int(khz) / 1000
    found = re.search(r"^cpu MHz\s*:\s*([\d.]+)", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return float(found.group(1)) if found else None


def _versions() -> dict[str, str]:
    found = {name: _version(name) for name in _PACKAGES}
    return {name: version for name, version in found.items() if version is not None}


@functools.cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
