"""The `Backend` of ONNX Runtime."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from runtime.backends.onnxruntime import session
from runtime.backends.onnxruntime.engine import OnnxRuntimeEngine
from runtime.engine import Hint, engine_dims, refuse_unknown_hint
from runtime.errors import BackendUnavailable, UnsupportedTarget
from runtime.files import appearing
from runtime.onnx_reader import CONTRIBUTED, OnnxSummary, check_onnx
from runtime.target import EngineTarget, Shape
from runtime.tensors import TensorSpec

ARTIFACT = "model.onnx"
_DTYPES = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(float)": "float32"}


class OnnxRuntimeBackend:
    """The CPU with an explicit number of threads that sleep when idle, or CUDA; precision is that of the model."""

    name = "onnxruntime"

    def unavailable(self) -> str | None:
        """None where it can build here, else the reason and how to get it."""
        return session.unavailable()

    def can_run(self) -> str | None:
        """It runs wherever it builds."""
        return self.unavailable()

    def precisions(self, device: str) -> tuple[str, ...]:
        """On the CPU f32, and int8 for models that carry Q/DQ; on CUDA the floats a model may be written in."""
        if self.unavailable() is not None or device not in session.devices():
            return ()
        return session.PRECISIONS[device]

    def open(self, onnx: bytes | Path, target: EngineTarget, *, hint: Hint = "latency") -> OnnxRuntimeEngine:
        """An engine compiled in memory; both hints are one to it."""
        if (reason := self.unavailable()) is not None:
            raise BackendUnavailable(reason)
        refuse_unknown_hint(hint)
        session.refuse(target)
        summary = check_onnx(onnx, extra_domains=CONTRIBUTED)
        precision = _written(summary, target)
        # The free dimensions can be fixed only by name, and only a session tells the names.
        free = session.new_session(onnx, target, {}, optimised=False)
        fixed: dict[str, int] = {}
        inputs: tuple[TensorSpec, ...] = ()
        for x in free.get_inputs():
            dims = engine_dims(x.name, tuple(x.shape), target)
            fixed |= {
                have: size
                for have, size in zip(x.shape, dims, strict=True)
                if isinstance(have, str) and isinstance(size, int)
            }
            inputs += (TensorSpec(name=x.name, dtype=_DTYPES.get(x.type, x.type), shape=dims),)
        if precision != "int8":
            opened = session.new_session(onnx, target, fixed)
            return OnnxRuntimeEngine(opened, target, session.precision_of(opened, precision, target), inputs)
        with tempfile.TemporaryDirectory(prefix="atb-") as folder:
            opened = session.new_session(onnx, target, fixed, profile=Path(folder))
            session.refuse_floats(opened, inputs, target)
        return OnnxRuntimeEngine(opened, target, precision, inputs)

    def compile(
        self,
        onnx: bytes | Path,
        target: EngineTarget,
        out: Path,
        shapes: tuple[Shape, ...] = (),
        *,
        cache: Path | None = None,
    ) -> Path:
        """Writes the ONNX itself as `model.onnx` into `out` once it opens; its weights must be inside it."""
        check_onnx(onnx, extra_domains=CONTRIBUTED, alone=True)
        with appearing(out) as aside:
            copy = aside / ARTIFACT
            if isinstance(onnx, bytes):
                copy.write_bytes(onnx)
            else:
                shutil.copyfile(onnx, copy)
            self.open(copy, target).close()
        return out / ARTIFACT

    def load(
        self, artifact: Path, target: EngineTarget, *, cache: Path | None = None, hint: Hint = "latency"
    ) -> OnnxRuntimeEngine:
        """An engine from the ONNX that `compile` wrote, or any whose weights are in its own folder."""
        return self.open(artifact, target, hint=hint)


def _written(summary: OnnxSummary, target: EngineTarget) -> str:
    """The precision of the model's products. Raises where the target asks for another."""
    if target.device == "CPU":
        written = "int8" if summary.quantised else "f32"  # half floats are cast to it
    elif summary.quantised:
        raise UnsupportedTarget(
            "the model is quantised, and ONNX Runtime has no int8 products on CUDA: use its float one"
        )
    else:
        written = summary.precision
    if target.precision in ("auto", written):
        return written
    if target.precision == "int8":
        raise UnsupportedTarget(
            "asked for int8, but the model carries no QuantizeLinear and DequantizeLinear: quantise it first"
        )
    if written == "int8":
        raise UnsupportedTarget(f"asked for {target.precision}, but the model is quantised: ask for int8 or auto")
    raise UnsupportedTarget(
        f"asked for {target.precision}, but the model's weights are {written}: export it in {target.precision}, "
        'or ask for "auto"'
    )


BACKEND = OnnxRuntimeBackend()
