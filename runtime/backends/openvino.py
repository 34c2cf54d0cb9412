"""OpenVINO: compiles ONNX in memory or to an IR file, fixed to one shape and thread count.

An int8 target takes a model that carries Q/DQ. What is not an int8 product stays in f32, even where the CPU has bf16:
on an AVX-512 CPU with both that is 1 to 4 % faster up to length 64 and 1 to 4 % slower at 128, and rounds nothing.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engine import EngineBase, FeedCheck, Feeds, refuse_missing_threads, static_dims
from runtime.errors import AtbRuntimeError, BackendUnavailable, CompileError, UnsupportedTarget
from runtime.files import appearing
from runtime.onnx_file import TensorSpec
from runtime.target import EngineTarget

_CAPABILITY = {"f32": "FP32", "bf16": "BF16", "f16": "FP16", "int8": "INT8"}
_HINT = {"int8": "f32"}  # else the precision itself
_PRODUCTS = {"FullyConnected", "Gemm"}  # with weights; OpenVINO's own names of the layers that were compiled
_EIGHT_BITS = {"i8", "u8"}


class OpenVinoEngine(EngineBase):
    """One compiled model with one infer request, whose input and output buffers are reused by every call."""

    def __init__(
        self,
        compiled: Any,
        target: EngineTarget,
        effective_precision: str,
        *,
        names: tuple[list[str], list[str]],
    ) -> None:
        """`names` are those of the model's inputs and outputs: compiling adds the names of fused neighbours."""
        self.target = target
        self.effective_precision = effective_precision
        self._request = compiled.create_infer_request()
        self.inputs = tuple(
            TensorSpec(name=name, dtype=x.element_type.to_dtype().name, shape=tuple(x.shape))
            for name, x in zip(names[0], compiled.inputs, strict=True)
        )
        self._check = FeedCheck(self.inputs)
        # Views of the request's own buffers: static shapes never move them, and copying a few hundred bytes
        # in is far quicker than handing arrays over (17 against 45 microseconds for a tiny model).
        self._buffers = [(x.name, self._request.get_input_tensor(i).data) for i, x in enumerate(self.inputs)]
        self._results = [(name, self._request.get_output_tensor(i).data) for i, name in enumerate(names[1])]

    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Output name -> array that the caller owns. Raises `FeedError`."""
        if self._request is None:
            raise AtbRuntimeError(f"the engine {self.target.label} is closed; open or load it again")
        self._check(feeds)
        for name, buffer in self._buffers:
            np.copyto(buffer, feeds[name])
        self._request.infer(share_outputs=True)
        return {name: result.copy() for name, result in self._results}

    def close(self) -> None:
        """Frees the request and the model; may be called twice."""
        self._buffers, self._results, self._request = [], [], None


class OpenVinoBackend:
    """Static shapes, one stream, an explicit number of threads; the precision is read back, never assumed."""

    name = "openvino"

    def unavailable(self) -> str | None:
        """None where it can build here, else the reason and how to get it."""
        if importlib.util.find_spec("openvino") is None:
            return "the package openvino is not installed: pip install 'atb-export[openvino]'"
        try:
            _core()
        except Exception as error:
            return f"openvino is installed but does not start: {error}"
        return None

    def can_run(self) -> str | None:
        """It runs wherever it builds."""
        return self.unavailable()

    def precisions(self, device: str) -> tuple[str, ...]:
        """Those the device computes in at full speed, as its plugin says."""
        if self.unavailable() is not None or device not in _core().available_devices:
            return ()
        return tuple(name for name, capability in _CAPABILITY.items() if capability in _capabilities(device))

    def open(self, onnx: bytes | Path, target: EngineTarget) -> OpenVinoEngine:
        """An engine compiled in memory."""
        model = self._read(onnx, target)
        return self._compile(model, target)

    def compile(self, onnx: bytes | Path, target: EngineTarget, out: Path) -> Path:
        """Writes `model.xml` and `model.bin`, in full precision and for any shape, into `out`."""
        model = self._read(onnx, target)
        self._compile(model.clone(), target).close()
        ov = _openvino()
        with appearing(out) as aside:
            ov.save_model(model, aside / "model.xml", compress_to_fp16=False)
        return out / "model.xml"

    def load(self, artifact: Path, target: EngineTarget) -> OpenVinoEngine:
        """An engine from the IR that `compile` wrote; the shape, precision and threads are the target's."""
        return self._compile(self._read(artifact, target), target)

    def _read(self, source: bytes | Path, target: EngineTarget) -> Any:
        if (reason := self.unavailable()) is not None:
            raise BackendUnavailable(reason)
        if isinstance(source, Path) and not source.is_file():
            raise CompileError(f"there is no model file {source}")
        _refuse(target)
        try:
            return _core().read_model(source)
        except Exception as error:
            what = source if isinstance(source, Path) else f"a model of {len(source)} bytes"
            raise CompileError(f"OpenVINO cannot read {what}: {_short(error)}") from error

    def _compile(self, model: Any, target: EngineTarget) -> OpenVinoEngine:
        ov = _openvino()
        names = [_name(x) for x in model.inputs], [_name(x) for x in model.outputs]
        shapes = {}
        for name, port in zip(names[0], model.inputs, strict=True):
            dims = tuple(None if d.is_dynamic else d.get_length() for d in port.get_partial_shape())
            shapes[port] = ov.PartialShape(list(static_dims(name, dims, target.shape)))
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if target.device == "CPU":
            # Pinned engines of two processes would meet on the same core, and each would look slow.
            options |= {
                "INFERENCE_NUM_THREADS": target.threads,
                "NUM_STREAMS": 1,
                "ENABLE_CPU_PINNING": False,
            }
        if target.precision != "auto":
            options["INFERENCE_PRECISION_HINT"] = _HINT.get(target.precision, target.precision)
        try:
            model.reshape(shapes)
            compiled = _core().compile_model(model, target.device, options)
        except Exception as error:
            raise CompileError(f"OpenVINO cannot compile the model for {target.label}: {_short(error)}") from error
        if any(x.get_partial_shape().is_dynamic for x in compiled.outputs):
            raise CompileError(f"an output keeps a free size with inputs of {target.shape.dims}; it must follow them")
        effective = _precision_of(compiled)
        if target.precision not in ("auto", effective):
            raise UnsupportedTarget(_other_precision(target, effective, model))
        return OpenVinoEngine(compiled, target, effective, names=names)


def _refuse(target: EngineTarget) -> None:
    """Raises where the device is missing or lacks the precision: running in another would be a lie."""
    devices = _core().available_devices
    if target.device not in devices:
        raise UnsupportedTarget(f"OpenVINO has no device {target.device!r} here; it has {', '.join(devices)}")
    if target.device == "CPU":
        refuse_missing_threads(target)
    if target.precision == "auto":
        return
    capabilities = _capabilities(target.device)
    if _CAPABILITY[target.precision] not in capabilities:
        have = [name for name, capability in _CAPABILITY.items() if capability in capabilities]
        raise UnsupportedTarget(
            f"{target.device} has no {target.precision} here; it has {', '.join(have)}: "
            'ask for one of these, or for "auto"'
        )


def _precision_of(compiled: Any) -> str:
    """As read back: "int8" where most products with weights run in int8 kernels, else what the rest computes in."""
    kinds = []
    for op in compiled.get_runtime_model().get_ops():
        info = op.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) in _PRODUCTS:
            kinds.append(info["runtimePrecision"].astype(str) in _EIGHT_BITS)
    if sum(kinds) * 2 > len(kinds):
        return "int8"
    rest: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return rest


def _other_precision(target: EngineTarget, effective: str, model: Any) -> str:
    """What to say where the engine computes in another precision than the target asks for."""
    found = f"asked for {target.precision}, but {target.device} computes in {effective}"
    carries = any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
    if target.precision == "int8" and not carries:
        return f"{found}: the model carries no QuantizeLinear and DequantizeLinear; calibrate and quantise it first"
    if target.precision == "int8":
        return f"{found}: it reports int8 kernels for no more than half of the products with weights"
    if effective == "int8":
        return f'{found}: the model is quantised; ask for int8 or "auto", or give the model before quantisation'
    return found


def _name(port: Any) -> str:
    """The ONNX name of a model's input or output, which may have several."""
    node: str = port.get_node().get_friendly_name()
    name, known = node.removesuffix("/sink_port_0"), port.get_names()
    return name if name in known else min(known, default=name)


def _short(error: Exception) -> str:
    """The end of OpenVINO's message: what comes before are addresses in its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-3:])[:600] or type(error).__name__


def _openvino() -> Any:
    return importlib.import_module("openvino")


@functools.cache
def _core() -> Any:
    """One per process: making it costs far more than compiling a tiny model."""
    return _openvino().Core()


@functools.cache
def _capabilities(device: str) -> frozenset[str]:
    return frozenset(_core().get_property(device, "OPTIMIZATION_CAPABILITIES"))


BACKEND = OpenVinoBackend()
