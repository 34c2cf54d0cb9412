"""ONNX Runtime on the CPU, in f32: the independent second opinion on what a model computes."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import shutil
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from runtime.engine import EngineBase, FeedCheck, Feeds, refuse_missing_threads, static_dims
from runtime.errors import AtbRuntimeError, BackendUnavailable, CompileError, UnsupportedTarget
from runtime.files import appearing
from runtime.onnx_file import TensorSpec
from runtime.target import EngineTarget

_DTYPES = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(float)": "float32"}


class OnnxRuntimeEngine(EngineBase):
    """One session whose free dimensions are fixed to the target's shape."""

    effective_precision = "f32"

    def __init__(self, session: Any, target: EngineTarget, inputs: tuple[TensorSpec, ...]) -> None:
        self.target = target
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

    def open(self, onnx: bytes | Path, target: EngineTarget) -> OnnxRuntimeEngine:
        """An engine compiled in memory."""
        if (reason := self.unavailable()) is not None:
            raise BackendUnavailable(reason)
        if target.device != "CPU":
            raise UnsupportedTarget(f"onnxruntime is driven on the CPU only, got device {target.device!r}")
        if target.precision not in ("auto", "f32"):
            raise UnsupportedTarget(
                f"onnxruntime computes in f32 on the CPU, got {target.precision}: ask for f32 or auto"
            )
        refuse_missing_threads(target)
        if isinstance(onnx, Path) and not onnx.is_file():
            raise CompileError(f"there is no model file {onnx}")
        # The free dimensions can be fixed only by name, and only a session tells the names.
        free = _session(onnx, target, {})
        fixed: dict[str, int] = {}
        inputs = []
        for x in free.get_inputs():
            dims = static_dims(x.name, tuple(x.shape), target.shape)
            fixed |= {have: want for have, want in zip(x.shape, dims, strict=True) if isinstance(have, str)}
            inputs.append(TensorSpec(name=x.name, dtype=_DTYPES.get(x.type, x.type), shape=dims))
        return OnnxRuntimeEngine(_session(onnx, target, fixed), target, tuple(inputs))

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


def _session(onnx: bytes | Path, target: EngineTarget, fixed: dict[str, int]) -> Any:
    """Without `fixed`, a session that only serves to read the inputs and is not optimised."""
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
    source = onnx if isinstance(onnx, bytes) else str(onnx)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CompileError(f"ONNX Runtime cannot open the model for {target.label}: {str(error)[:600]}") from error


@functools.cache
def _onnxruntime() -> Any:
    ort = importlib.import_module("onnxruntime")
    if hasattr(ort, "disable_telemetry_events"):
        ort.disable_telemetry_events()
    return ort


BACKEND = OnnxRuntimeBackend()
