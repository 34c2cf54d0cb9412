"""Sessions of ONNX Runtime: which provider computes, with how many threads, and what it was seen to compute in."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtime.engine import refuse_missing_threads
from runtime.errors import CompileError, UnsupportedTarget
from runtime.target import EngineTarget
from runtime.tensors import TensorSpec

PROVIDERS = {"CPU": "CPUExecutionProvider", "CUDA": "CUDAExecutionProvider"}
PRECISIONS = {"CPU": ("f32", "int8"), "CUDA": ("f32", "bf16", "f16")}
_INT8_PRODUCTS = {"MatMulIntegerToFloat", "QLinearMatMul", "QGemm"}
# Fused into Gemm, a product and its bias are no longer seen as int8: ten times slower than f32.
_KEEPS_INT8_APART = ["MatMulAddFusion"]


@functools.cache
def onnxruntime() -> Any:
    """The package, imported when it is used, with its telemetry off."""
    ort = importlib.import_module("onnxruntime")
    if hasattr(ort, "disable_telemetry_events"):
        ort.disable_telemetry_events()
    return ort


def unavailable() -> str | None:
    """None where ONNX Runtime starts, else the reason and how to get it."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "the package onnxruntime is not installed: pip install 'atb-export[onnxruntime]'"
    try:
        onnxruntime()
    except Exception as error:
        return f"onnxruntime is installed but does not start: {error}"
    return None


def devices() -> tuple[str, ...]:
    """Of those this backend drives, the ones that the installed package was built for."""
    there = onnxruntime().get_available_providers()
    return tuple(device for device, provider in PROVIDERS.items() if provider in there)


def refuse(target: EngineTarget) -> None:
    """Raises `UnsupportedTarget` for a device, precision or number of threads that is not to be had here."""
    if target.device not in PROVIDERS:
        raise UnsupportedTarget(f"onnxruntime is driven on {' and '.join(PROVIDERS)}, got device {target.device!r}")
    if target.device not in (have := devices()):
        raise UnsupportedTarget(
            f"the installed onnxruntime has no {target.device}, it has {', '.join(have)}: pip install onnxruntime-gpu"
        )
    if target.precision not in ("auto", *PRECISIONS[target.device]):
        raise UnsupportedTarget(
            f"onnxruntime computes in {' or '.join(PRECISIONS[target.device])} on {target.device}, "
            f'got {target.precision}: ask for one of these, or for "auto"'
        )
    if target.device == "CPU":
        refuse_missing_threads(target)


def new_session(
    onnx: bytes | Path,
    target: EngineTarget,
    fixed: Mapping[str, int],
    *,
    optimised: bool = True,
    profile: Path | None = None,
) -> Any:
    """A session with the free dimensions in `fixed` set by name; with `profile`, a folder, it notes there what it runs.

    Raises `CompileError`, and `UnsupportedTarget` where ONNX Runtime would compute on another device than it is asked.
    """
    ort = onnxruntime()
    options = session_options(target.threads, optimised=optimised)
    for name, size in fixed.items():
        options.add_free_dimension_override_by_name(name, size)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile / "profile")
    apart = _KEEPS_INT8_APART if profile is not None else []
    wanted: list[Any] = ["CPUExecutionProvider"]
    if target.device == "CUDA":
        # TensorFloat-32 has 10 bits of mantissa: who asks for f32 does not get it.
        tf32 = "1" if target.precision == "auto" else "0"
        wanted.insert(0, ("CUDAExecutionProvider", {"device_id": "0", "use_tf32": tf32}))
    source = onnx if isinstance(onnx, bytes) else str(onnx)
    try:
        session = ort.InferenceSession(source, options, providers=wanted, disabled_optimizers=apart)
    except Exception as error:
        raise CompileError(f"ONNX Runtime cannot open the model for {target.label}: {str(error)[:600]}") from error
    # Where CUDA's libraries do not load, ONNX Runtime warns and takes the CPU.
    if (taken := session.get_providers()[0]) != PROVIDERS[target.device]:
        raise UnsupportedTarget(
            f"ONNX Runtime answers a request for {target.device} with {taken}: the libraries of CUDA or cuDNN that it "
            "needs do not load, or there is no GPU"
        )
    return session


def session_options(threads: int, *, optimised: bool) -> Any:
    """Threads that sleep when idle, and nothing printed but errors."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors: warnings about graphs are for those who write them
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def precision_of(session: Any, written: str, target: EngineTarget) -> str:
    """`written` is that of the model's products; on CUDA f32 is "tf32" where the session says that it may round."""
    if target.device == "CUDA" and written == "f32":
        told = session.get_provider_options().get("CUDAExecutionProvider", {})
        return "f32" if told.get("use_tf32") == "0" else "tf32"
    return written


def refuse_floats(session: Any, inputs: tuple[TensorSpec, ...], target: EngineTarget) -> None:
    """Runs once and reads in the profile which kernels were used; profiling is over afterwards."""
    session.run(None, {x.name: np.zeros(target.shape.dims, x.dtype) for x in inputs})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    used = [event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})]
    slow = used.count("DequantizeLinear")
    if not (fast := sum(name in _INT8_PRODUCTS for name in used)) or slow > fast:
        raise UnsupportedTarget(
            f"{target.label}: ONNX Runtime runs {fast} products of this model in int8 and dequantises {slow} tensors "
            "for float ones; its Q/DQ are not where ONNX Runtime fuses them"
        )
