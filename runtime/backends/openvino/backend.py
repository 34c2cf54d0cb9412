"""The `Backend` of OpenVINO."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from runtime.backends.openvino import core
from runtime.backends.openvino.engine import OpenVinoEngine
from runtime.backends.openvino.precision import other_precision, precision_of
from runtime.engine import Hint, engine_dims, refuse_unknown_hint
from runtime.errors import BackendUnavailable, CompileError, UnsupportedTarget
from runtime.files import appearing
from runtime.onnx_reader import CONTRIBUTED, check_onnx
from runtime.target import EngineTarget, Shape
from runtime.tensors import TensorSpec

ARTIFACT = "model.xml"


class OpenVinoBackend:
    """An explicit number of threads, and streams as the hint asks; the precision is read back, never assumed."""

    name = "openvino"

    def unavailable(self) -> str | None:
        """None where it can build here, else the reason and how to get it."""
        if importlib.util.find_spec("openvino") is None:
            return "the package openvino is not installed: pip install 'atb-export[openvino]'"
        try:
            core.core()
        except Exception as error:
            return f"openvino is installed but does not start: {error}"
        return None

    def can_run(self) -> str | None:
        """It runs wherever it builds."""
        return self.unavailable()

    def precisions(self, device: str) -> tuple[str, ...]:
        """Those the device computes in at full speed, as its plugin says."""
        if self.unavailable() is not None or device not in core.core().available_devices:
            return ()
        return tuple(name for name, capability in core.CAPABILITY.items() if capability in core.capabilities(device))

    def open(self, onnx: bytes | Path, target: EngineTarget, *, hint: Hint = "latency") -> OpenVinoEngine:
        """An engine compiled in memory."""
        return self._compile(self._read(onnx, target), target, hint=hint)

    def compile(
        self,
        onnx: bytes | Path,
        target: EngineTarget,
        out: Path,
        shapes: tuple[Shape, ...] = (),
        *,
        cache: Path | None = None,
    ) -> Path:
        """Writes `model.xml` and `model.bin`, in full precision and for any shape, into `out`."""
        model = self._read(onnx, target)
        self._compile(model.clone(), target).close()
        with appearing(out) as aside:
            core.openvino().save_model(model, aside / ARTIFACT, compress_to_fp16=False)
        return out / ARTIFACT

    def load(
        self, artifact: Path, target: EngineTarget, *, cache: Path | None = None, hint: Hint = "latency"
    ) -> OpenVinoEngine:
        """An engine from the IR that `compile` wrote; the shape, precision and threads are the target's."""
        return self._compile(self._read(artifact, target), target, hint=hint, cache=cache)

    def _read(self, source: bytes | Path, target: EngineTarget) -> Any:
        if (reason := self.unavailable()) is not None:
            raise BackendUnavailable(reason)
        if isinstance(source, Path) and not source.is_file():
            raise CompileError(f"there is no model file {source}")
        core.refuse(target)
        if isinstance(source, bytes) or source.suffix != ".xml":
            check_onnx(source, extra_domains=CONTRIBUTED)
        try:
            return core.core().read_model(source)
        except Exception as error:
            what = source if isinstance(source, Path) else f"a model of {len(source)} bytes"
            raise CompileError(f"OpenVINO cannot read {what}: {_short(error)}") from error

    def _compile(
        self, model: Any, target: EngineTarget, *, hint: Hint = "latency", cache: Path | None = None
    ) -> OpenVinoEngine:
        refuse_unknown_hint(hint)
        inputs, shapes = [], {}
        for port in model.inputs:
            name = _name(port)
            dims = tuple(None if d.is_dynamic else d.get_length() for d in port.get_partial_shape())
            found = engine_dims(name, dims, target)
            inputs.append(TensorSpec(name=name, dtype=port.element_type.to_dtype().name, shape=found))
            bounds = zip(found, target.shape.dims, strict=True)
            shapes[port] = core.openvino().PartialShape([x if isinstance(x, int) else (1, most) for x, most in bounds])
        outputs = tuple(_name(x) for x in model.outputs)
        options = core.compile_options(target, hint=hint, cache=cache)
        try:
            model.reshape(shapes)
            compiled = core.core().compile_model(model, target.device, options)
        except Exception as error:
            raise CompileError(f"OpenVINO cannot compile the model for {target.label}: {_short(error)}") from error
        if not target.dynamic and any(x.get_partial_shape().is_dynamic for x in compiled.outputs):
            raise CompileError(f"an output keeps a free size with inputs of {target.shape.dims}; it must follow them")
        effective = precision_of(compiled)
        if target.precision not in ("auto", effective):
            raise UnsupportedTarget(other_precision(target, effective, model))
        return OpenVinoEngine(compiled, target, effective, inputs=tuple(inputs), outputs=outputs)


def _name(port: Any) -> str:
    """The ONNX name of a model's input or output, which may have several."""
    node: str = port.get_node().get_friendly_name()
    name, known = node.removesuffix("/sink_port_0"), port.get_names()
    return name if name in known else min(known, default=name)


def _short(error: Exception) -> str:
    """The end of OpenVINO's message: what comes before are addresses in its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-3:])[:600] or type(error).__name__


BACKEND = OpenVinoBackend()
