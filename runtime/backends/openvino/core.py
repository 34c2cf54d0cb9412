"""OpenVINO's one Core, what its devices can do, and the options a model is compiled with."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

from runtime.engine import Hint, refuse_missing_threads
from runtime.errors import UnsupportedTarget
from runtime.target import EngineTarget

CAPABILITY = {"f32": "FP32", "bf16": "BF16", "f16": "FP16", "int8": "INT8"}
_HINT = {"int8": "f32"}  # else the precision itself


def openvino() -> Any:
    """The package, imported when it is used."""
    return importlib.import_module("openvino")


@functools.cache
def core() -> Any:
    """One per process: making it costs far more than compiling a tiny model."""
    return openvino().Core()


@functools.cache
def capabilities(device: str) -> frozenset[str]:
    """What the device's plugin says it computes in at full speed, such as "BF16"."""
    return frozenset(core().get_property(device, "OPTIMIZATION_CAPABILITIES"))


def refuse(target: EngineTarget) -> None:
    """Raises where the device is missing or lacks the precision: running in another would be a lie."""
    devices = core().available_devices
    if target.device not in devices:
        raise UnsupportedTarget(f"OpenVINO has no device {target.device!r} here; it has {', '.join(devices)}")
    if target.device == "CPU":
        refuse_missing_threads(target)
    if target.precision == "auto":
        return
    found = capabilities(target.device)
    if CAPABILITY[target.precision] not in found:
        have = [name for name, capability in CAPABILITY.items() if capability in found]
        raise UnsupportedTarget(
            f"{target.device} has no {target.precision} here; it has {', '.join(have)}: "
            'ask for one of these, or for "auto"'
        )


def compile_options(target: EngineTarget, *, hint: Hint, cache: Path | None) -> dict[str, Any]:
    """For `compile_model`. For throughput every thread is a stream, which works on an answer of its own.

    Nothing else that the CPU plugin can be told pays for tiny BERTs: hyper-threading, core types, pinning, denormals,
    group sizes of dynamic quantisation and tensor parallelism change nothing beyond noise, no snippets cost 5 %.
    """
    options: dict[str, Any] = {"PERFORMANCE_HINT": hint.upper()}
    if target.device == "CPU":
        # Pinned engines of two processes would meet on the same core, and each would look slow.
        options |= {
            "INFERENCE_NUM_THREADS": target.threads,
            "NUM_STREAMS": target.threads if hint == "throughput" else 1,
            "ENABLE_CPU_PINNING": False,
        }
    if target.precision != "auto":
        options["INFERENCE_PRECISION_HINT"] = _HINT.get(target.precision, target.precision)
    if cache is not None:
        options["CACHE_DIR"] = str(cache)
    return options
