"""ONNX Runtime on the CPU, in f32 or int8: the independent second opinion on what a model computes."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import mmap
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engine import EngineBase, FeedCheck, Feeds, refuse_missing_threads, static_dims
from runtime.errors import AtbRuntimeError, BackendUnavailable, CompileError, UnsupportedTarget
from runtime.files import appearing
from runtime.onnx_file import TensorSpec
from runtime.target import EngineTarget

_DTYPES = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(float)": "float32"}
_INT8_PRODUCTS = {"MatMulIntegerToFloat", "QLinearMatMul", "QGemm"}
# Fused into Gemm, a product and its bias are no longer seen as int8: ten times slower than f32.
_KEEPS_INT8_APART = ["MatMulAddFusion"]


class OnnxRuntimeEngine(EngineBase):
    """One session whose free dimensions are fixed to the target's shape."""

    def __init__(
        self, session: Any, target: EngineTarget, effective_precision: str, inputs: tuple[TensorSpec, ...]
    ) -> None:
        self.target = target
        self.effective_precision = effective_precision
        self.inputs = inputs
        self._session = session
        self._check = FeedCheck(inputs)
        self._outputs = [x.name for x in session.get_outputs()]

    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Output name -> array that the caller owns. Raises `FeedError`."""
        if self._session is None:
            raise AtbRuntimeError(f"the engine {self.target.label} is closed; open or load it again")
        self._check(feeds)
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))

    def close(self) -> None:
        """Frees the session; may be called twice."""
        self._session = None


class OnnxRuntimeBackend:
    """The CPU execution provider with an explicit number of threads that sleep when idle."""

    name = "onnxruntime"

    def unavailable(self) -> str | None:
        """None where it can build here, else the reason and how to get it."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "the package onnxruntime is not installed: pip install 'atb-export[onnxruntime]'"
        try:
            _onnxruntime()
        except Exception as error:
            return f"onnxruntime is installed but does not start: {error}"
        return None

    def can_run(self) -> str | None:
        """It runs wherever it builds."""
        return self.unavailable()

    def precisions(self, device: str) -> tuple[str, ...]:
        """f32, and int8 for models that carry Q/DQ."""
        return ("f32", "int8") if device == "CPU" else ()

    def open(self, onnx: bytes | Path, target: EngineTarget) -> OnnxRuntimeEngine:
        """An engine compiled in memory."""
        if (reason := self.unavailable()) is not None:
            raise BackendUnavailable(reason)
        if target.device != "CPU":
            raise UnsupportedTarget(f"onnxruntime is driven on the CPU only, got device {target.device!r}")
        if target.precision not in ("auto", "f32", "int8"):
            raise UnsupportedTarget(
                f"onnxruntime computes in f32 on the CPU, got {target.precision}: ask for f32, int8 or auto"
            )
        refuse_missing_threads(target)
        if isinstance(onnx, Path) and not onnx.is_file():
            raise CompileError(f"there is no model file {onnx}")
        precision = "int8" if _carries_quantisation(onnx) else "f32"
        if target.precision not in ("auto", precision):
            raise UnsupportedTarget(
                "asked for int8, but the model carries no QuantizeLinear and DequantizeLinear: quantise it first"
                if precision == "f32"
                else f"asked for {target.precision}, but the model is quantised: ask for int8 or auto"
            )
        # The free dimensions can be fixed only by name, and only a session tells the names.
        free = _session(onnx, target, {})
        fixed: dict[str, int] = {}
        inputs = []
        for x in free.get_inputs():
            dims = static_dims(x.name, tuple(x.shape), target.shape)
            fixed |= {have: want for have, want in zip(x.shape, dims, strict=True) if isinstance(have, str)}
            inputs.append(TensorSpec(name=x.name, dtype=_DTYPES.get(x.type, x.type), shape=dims))
        if precision == "f32":
            return OnnxRuntimeEngine(_session(onnx, target, fixed), target, precision, tuple(inputs))
        with tempfile.TemporaryDirectory(prefix="atb-") as folder:
            session = _session(onnx, target, fixed, profile=Path(folder))
            _refuse_floats(session, tuple(inputs), target)
        return OnnxRuntimeEngine(session, target, precision, tuple(inputs))

    def compile(self, onnx: bytes | Path, target: EngineTarget, out: Path) -> Path:
        """Writes the ONNX itself as `model.onnx` into `out` once it opens; its weights must be inside it."""
        with appearing(out) as aside:
            copy = aside / "model.onnx"
            if isinstance(onnx, bytes):
                copy.write_bytes(onnx)
            elif onnx.is_file():
                shutil.copyfile(onnx, copy)
            else:
                raise CompileError(f"there is no model file {onnx}")
            self.open(copy, target).close()
        return out / "model.onnx"

    def load(self, artifact: Path, target: EngineTarget) -> OnnxRuntimeEngine:
        """An engine from the ONNX that `compile` wrote."""
        return self.open(artifact, target)


class FreeSession:
    """A model of any shape under ONNX Runtime: no engine, but what engines are calibrated by and held against.

    Not `optimised`, every node is run as it is written: Q/DQ round, and what lies between them is float32.
    """

    def __init__(self, onnx: bytes | Path, *, optimised: bool, threads: int = 1) -> None:
        """Raises `BackendUnavailable`, or `CompileError` for a model that ONNX Runtime cannot open."""
        if (reason := BACKEND.unavailable()) is not None:
            raise BackendUnavailable(reason)
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        if not optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        source = onnx if isinstance(onnx, bytes) else str(onnx)
        try:
            self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise CompileError(f"ONNX Runtime cannot open the model: {str(error)[:600]}") from error
        self.inputs = tuple(x.name for x in self._session.get_inputs())
        self._outputs = [x.name for x in self._session.get_outputs()]

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Output name -> array, for `inputs` of any one [batch, sequence]."""
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))


def _carries_quantisation(onnx: bytes | Path) -> bool:
    """Whether the model has a node that quantises; the bytes tell, and no package is needed to read them."""
    if isinstance(onnx, bytes):
        return b"QuantizeLinear" in onnx
    if onnx.stat().st_size == 0:
        return False
    with onnx.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"QuantizeLinear") >= 0


def _refuse_floats(session: Any, inputs: tuple[TensorSpec, ...], target: EngineTarget) -> None:
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


def _session(onnx: bytes | Path, target: EngineTarget, fixed: dict[str, int], profile: Path | None = None) -> Any:
    """Without `fixed`, a session that only serves to read the inputs and is not optimised.

    With `profile`, a folder, it is one for int8 that notes there what it runs.
    """
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors: warnings about graphs are for those who write them
    options.intra_op_num_threads = target.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if not fixed:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, size in fixed.items():
        options.add_free_dimension_override_by_name(name, size)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile / "profile")
    source = onnx if isinstance(onnx, bytes) else str(onnx)
    apart = _KEEPS_INT8_APART if profile is not None else []
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"], disabled_optimizers=apart)
    except Exception as error:
        raise CompileError(f"ONNX Runtime cannot open the model for {target.label}: {str(error)[:600]}") from error


@functools.cache
def _onnxruntime() -> Any:
    ort = importlib.import_module("onnxruntime")
    if hasattr(ort, "disable_telemetry_events"):
        ort.disable_telemetry_events()
    return ort


BACKEND = OnnxRuntimeBackend()
