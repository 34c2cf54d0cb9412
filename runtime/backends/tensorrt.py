"""TensorRT, both flavours: `tensorrt` (10, 11) and `tensorrt_rtx`, which builds plans without a GPU."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.backends.tensorrt_engine import TensorRtEngine, compute_capability, no_gpu
from runtime.backends.tensorrt_plan import PLAN_FILE, RECORD_FILE, PlanRecord, ProfiledInput
from runtime.engine import static_dims
from runtime.errors import BackendUnavailable, BundleError, CompileError, UnsupportedTarget
from runtime.files import appearing
from runtime.onnx_file import TensorSpec, sha256_of
from runtime.target import EngineTarget

_FLAVOURS = ("tensorrt_rtx", "tensorrt")
_PRECISIONS = {"FLOAT": "f32", "HALF": "f16", "BF16": "bf16"}
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32"}
_HEAVY = ("MATRIX_MULTIPLY", "CONVOLUTION", "ATTENTION")


class TensorRtBackend:
    """Strongly typed networks: precision lives in the ONNX, and a target that asks for another is refused."""

    name = "tensorrt"

    def unavailable(self) -> str | None:
        """None where a plan can be built here, else the reason and how to get it."""
        try:
            flavour = _flavour()
        except BackendUnavailable as error:
            return str(error)
        if flavour == "tensorrt" and (reason := no_gpu()) is not None:
            return f"tensorrt builds only beside a GPU, and {reason}; the extra tensorrt-rtx builds without one"
        return None

    def can_run(self) -> str | None:
        """None where a plan can run here, else the reason and how to get it."""
        try:
            _flavour()
        except BackendUnavailable as error:
            return str(error)
        return no_gpu()

    def precisions(self, device: str) -> tuple[str, ...]:
        """All that a model may be written in, on whatever GPU; known without one."""
        return ("f32", "bf16", "f16")

    def compile(self, onnx: bytes | Path, target: EngineTarget, out: Path) -> Path:
        """Writes `model.plan` and `plan.json`, which names the plan's hash, into `out`; returns the first."""
        plan, record = self._build(onnx, target)
        with appearing(out) as aside:
            (aside / PLAN_FILE).write_bytes(plan)
            (aside / RECORD_FILE).write_text(json.dumps(record.to_json(), indent=2) + "\n", encoding="utf-8")
        return out / PLAN_FILE

    def load(self, artifact: Path, target: EngineTarget) -> TensorRtEngine:
        """An engine from the plan that `compile` wrote, if its bytes are those `plan.json` vouches for."""
        record = PlanRecord.read(artifact.with_name(RECORD_FILE))
        if not artifact.is_file():
            raise BundleError(f"there is no plan {artifact}")
        plan = artifact.read_bytes()
        if hashlib.sha256(plan).hexdigest() != record.plan_sha256:
            raise BundleError(
                f"{artifact} is not the plan that its {RECORD_FILE} names: the bytes differ. "
                "A plan is native code: it is not loaded. Build or fetch it again"
            )
        return self._deserialize(plan, record, target)

    def open(self, onnx: bytes | Path, target: EngineTarget) -> TensorRtEngine:
        """An engine compiled in memory; needs a GPU, unlike `compile`."""
        if (reason := self.can_run()) is not None:
            raise BackendUnavailable(reason)
        plan, record = self._build(onnx, target)
        return self._deserialize(plan, record, target)

    def _deserialize(self, plan: bytes, record: PlanRecord, target: EngineTarget) -> TensorRtEngine:
        record.refuse_other(target)
        if (reason := self.can_run()) is not None:
            raise BackendUnavailable(reason)
        flavour = _flavour(record.flavour)
        trt = importlib.import_module(flavour)
        if trt.__version__ != record.version:
            raise BackendUnavailable(
                f"the plan was built by {flavour} {record.version} and loads with that version only; "
                f"{trt.__version__} is installed: install the other, or build the plan again"
            )
        log = _log(trt)
        runtime = trt.Runtime(log)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise UnsupportedTarget(f"{flavour} does not load the plan built for {target.device} here: {_errors(log)}")
        return TensorRtEngine(trt, engine, target, record.effective_precision, keep=(runtime, log))

    def _build(self, onnx: bytes | Path, target: EngineTarget) -> tuple[bytes, PlanRecord]:
        if (reason := self.unavailable()) is not None:
            raise BackendUnavailable(reason)
        if isinstance(onnx, Path) and not onnx.is_file():
            raise CompileError(f"there is no model file {onnx}")
        flavour = _flavour()
        trt = importlib.import_module(flavour)
        log = _log(trt)
        builder = trt.Builder(log)
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # 11 has no other kind
        network = builder.create_network(0 if typed is None else 1 << int(typed))
        config = builder.create_builder_config()
        _name_devices(trt, config, target)
        _parse(trt, network, onnx, log)
        effective = _settle_precision(trt, network, config, target)
        inputs = _add_profile(builder, network, config, target)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise CompileError(f"{flavour} builds no plan for {target.label}: {_errors(log)}")
        data = bytes(plan)
        outputs = (network.get_output(i) for i in range(network.num_outputs))
        record = PlanRecord(
            flavour=flavour,
            version=trt.__version__,
            target=target,
            effective_precision=effective,
            inputs=inputs,
            outputs=tuple(_output(x, target) for x in outputs),
            plan_sha256=hashlib.sha256(data).hexdigest(),
            plan_bytes=len(data),
            onnx_sha256=hashlib.sha256(onnx).hexdigest() if isinstance(onnx, bytes) else sha256_of(onnx),
        )
        return data, record


def _flavour(wanted: str | None = None) -> str:
    """`wanted`, else the first package that is installed and imports. Raises `BackendUnavailable`."""
    reasons = []
    for name in _FLAVOURS if wanted is None else (wanted,):
        if importlib.util.find_spec(name) is None:
            continue
        try:
            importlib.import_module(name)
        except Exception as error:
            reasons.append(f"{name} is installed but does not import: {error}")
        else:
            return name
    if reasons:
        raise BackendUnavailable("; ".join(reasons))
    missing = f"the package {wanted} is not" if wanted else "neither tensorrt nor tensorrt_rtx is"
    raise BackendUnavailable(
        f"{missing} installed: pip install 'atb-export[tensorrt-rtx]' (builds without a GPU) "
        "or 'atb-export[tensorrt]' (needs one)"
    )


def _log(trt: Any) -> Any:
    """A logger that prints nothing and keeps the errors for the messages of our own."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def _errors(log: Any) -> str:
    return " | ".join(log.errors[-3:])[:800] or "no reason given"


def _name_devices(trt: Any, config: Any, target: EngineTarget) -> None:
    """Sets the GPUs the plan is for. Raises `UnsupportedTarget` for one that cannot be built for here."""
    if not hasattr(config, "set_compute_capability"):
        here = compute_capability()
        if target.devices not in (("current",), (here,)):
            raise UnsupportedTarget(
                f"tensorrt builds only for this machine's GPU, {here}; the target asks for {target.device}: "
                'ask for "current", or install the extra tensorrt-rtx'
            )
        return
    known = {f"sm_{name[2:]}": name for name in dir(trt.ComputeCapability) if name.startswith("SM")}
    known["current"] = "CURRENT"
    unknown = [name for name in target.devices if name not in known]
    if unknown:
        raise UnsupportedTarget(
            f"{trt.__name__} {trt.__version__} does not build for {', '.join(unknown)}; "
            f"it does for {', '.join(sorted(known))}"
        )
    if "current" in target.devices:
        if len(target.devices) > 1:
            raise UnsupportedTarget('"current" stands alone: name either it or compute capabilities')
        if (reason := no_gpu()) is not None:
            raise BackendUnavailable(f'"current" is the GPU of this machine, but {reason}: name sm_89, say')
    config.num_compute_capabilities = len(target.devices)
    for i, name in enumerate(target.devices):
        if not config.set_compute_capability(getattr(trt.ComputeCapability, known[name]), i):
            raise UnsupportedTarget(f"{trt.__name__} {trt.__version__} refuses to build for {name}")


def _parse(trt: Any, network: Any, onnx: bytes | Path, log: Any) -> None:
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse(onnx) if isinstance(onnx, bytes) else parser.parse_from_file(str(onnx))
    if not parsed:
        reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise CompileError(f"{trt.__name__} cannot parse the ONNX model: {' | '.join(reasons)[:800] or _errors(log)}")


def _settle_precision(trt: Any, network: Any, config: Any, target: EngineTarget) -> str:
    """The precision of the network's products, such as "f32" or "bf16+f32"; raises if another is asked."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    heavy = [layer for layer in layers if layer.type.name in _HEAVY]
    kinds = {_PRECISIONS.get(layer.get_output(0).dtype.name) for layer in heavy or layers} - {None}
    effective = "+".join(sorted(kind for kind in kinds if kind is not None))
    if target.precision not in ("auto", effective):
        raise UnsupportedTarget(
            f"the target asks for {target.precision}, but the ONNX model computes in "
            f"{effective or 'integers'}, and TensorRT takes precision from it: "
            f'export it in {target.precision}, or ask for "auto"'
        )
    if target.precision == "f32":
        config.clear_flag(trt.BuilderFlag.TF32)  # 10 bits of mantissa are not f32
    elif effective == "f32" and config.get_flag(trt.BuilderFlag.TF32):
        return "tf32"
    return effective


def _add_profile(builder: Any, network: Any, config: Any, target: EngineTarget) -> tuple[ProfiledInput, ...]:
    """One profile that allows the target's shape and no other; returned as read back from the builder."""
    profile = builder.create_optimization_profile()
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    for tensor in tensors:
        dims = static_dims(tensor.name, tuple(tensor.shape), target.shape)
        profile.set_shape(tensor.name, dims, dims, dims)
    if config.add_optimization_profile(profile) < 0:
        raise CompileError(f"TensorRT refuses a profile of shape {list(target.shape.dims)} for this model")
    read = {tensor.name: [tuple(x) for x in profile.get_shape(tensor.name)] for tensor in tensors}
    return tuple(
        ProfiledInput(
            name=tensor.name,
            dtype=_dtype(tensor),
            min=read[tensor.name][0],
            opt=read[tensor.name][1],
            max=read[tensor.name][2],
        )
        for tensor in tensors
    )


def _dtype(tensor: Any) -> str:
    name: str = tensor.dtype.name
    return _DTYPES.get(name, name.lower())


def _output(tensor: Any, target: EngineTarget) -> TensorSpec:
    """Its first free dimension is the batch, the second the sequence, as for inputs."""
    free: Iterator[int] = iter(target.shape.dims)
    with contextlib.suppress(StopIteration):
        dims = tuple(next(free) if dim < 0 else dim for dim in tensor.shape)
        return TensorSpec(name=tensor.name, dtype=_dtype(tensor), shape=dims)
    raise CompileError(f"output {tensor.name} has more free dimensions than [batch, sequence]: {tensor.shape}")


BACKEND = TensorRtBackend()
