"""Builds a plan: a strongly typed network from ONNX, one optimisation profile per shape, for GPUs named beforehand."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.backends.tensorrt.caches import attach_timings, keep_timings, timing_file
from runtime.backends.tensorrt.cuda import gpu, no_gpu
from runtime.backends.tensorrt.flavour import errors_of, new_log
from runtime.backends.tensorrt.record import PlanRecord, Profile, ShapeRange
from runtime.engine import AXES, static_dims
from runtime.errors import BackendUnavailable, CompileError, UnsupportedTarget
from runtime.files import sha256_of
from runtime.target import EngineTarget, Shape
from runtime.tensors import TensorSpec

PORTABLE = {"ampere_plus": "AMPERE_PLUS", "same_capability": "SAME_COMPUTE_CAPABILITY"}
"""Devices of a target that stand for several GPUs at once, with TensorRT's names; slower than a plan for one."""

_PRECISIONS = {"FLOAT": "f32", "HALF": "f16", "BF16": "bf16"}
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32"}
_HEAVY = ("MATRIX_MULTIPLY", "CONVOLUTION", "ATTENTION")


@dataclass(frozen=True, kw_only=True)
class GpuRange:
    """Which GPUs a plan runs on, as `PlanRecord` has it."""

    capabilities: tuple[str, ...]
    gpu: str | None = None


def build_plan(
    trt: Any,
    onnx: bytes | Path,
    target: EngineTarget,
    shapes: Sequence[Shape],
    *,
    version_compatible: bool,
    cache: Path | None,
) -> tuple[bytes, PlanRecord]:
    """The plan with its record. Raises `UnsupportedTarget`, or `CompileError` with what TensorRT said."""
    log = new_log(trt)
    builder = trt.Builder(log)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # 11 has no other kind
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    config = builder.create_builder_config()
    if version_compatible:
        if trt.__name__ != "tensorrt":
            raise UnsupportedTarget("TensorRT for RTX has no plans that load with other releases: build one for each")
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    gpus = name_devices(trt, config, target)
    _parse(trt, network, onnx, log)
    effective = _settle_precision(trt, network, config, target)
    profiles = tuple(_add_profile(builder, network, config, target, shape) for shape in shapes)
    timings = None
    if cache is not None and trt.__name__ == "tensorrt":  # TensorRT for RTX times nothing while it builds
        timings = timing_file(cache, trt, target.device)
        attach_timings(config, timings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise CompileError(f"{trt.__name__} builds no plan for {target.label}: {errors_of(log)}")
    if timings is not None:
        keep_timings(config, timings)
    data = bytes(plan)
    record = PlanRecord(
        flavour=trt.__name__,
        version=trt.__version__,
        version_compatible=version_compatible,
        target=target,
        compute_capabilities=gpus.capabilities,
        gpu=gpus.gpu,
        effective_precision=effective,
        inputs=tuple(_spec(network.get_input(i)) for i in range(network.num_inputs)),
        outputs=tuple(_spec(network.get_output(i)) for i in range(network.num_outputs)),
        profiles=profiles,
        plan_sha256=hashlib.sha256(data).hexdigest(),
        plan_bytes=len(data),
        onnx_sha256=hashlib.sha256(onnx).hexdigest() if isinstance(onnx, bytes) else sha256_of(onnx),
    )
    return data, record


def name_devices(trt: Any, config: Any, target: EngineTarget) -> GpuRange:
    """Sets the GPUs the plan is for. Raises `UnsupportedTarget` for one that cannot be built for here."""
    if not hasattr(config, "set_compute_capability"):
        return _beside(trt, config, target)
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
    return GpuRange(capabilities=(gpu()[0],) if target.device == "current" else target.devices)


def _beside(trt: Any, config: Any, target: EngineTarget) -> GpuRange:
    """The ranges that plain TensorRT knows, all around the GPU it builds on."""
    capability, name = gpu()
    if target.device in ("current", capability):
        return GpuRange(capabilities=(capability,), gpu=name)
    level = getattr(getattr(trt, "HardwareCompatibilityLevel", None), PORTABLE.get(target.device, ""), None)
    if level is None:
        raise UnsupportedTarget(
            f"tensorrt {trt.__version__} builds only around this machine's GPU, {capability}; the target asks for "
            f'{target.device}: ask for "current" or {" or ".join(PORTABLE)}, or install the extra tensorrt-rtx'
        )
    config.hardware_compatibility_level = level
    return GpuRange(capabilities=("sm_80+",) if target.device == "ampere_plus" else (capability,))


def _parse(trt: Any, network: Any, onnx: bytes | Path, log: Any) -> None:
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse(onnx) if isinstance(onnx, bytes) else parser.parse_from_file(str(onnx))
    if not parsed:
        found = [parser.get_error(i) for i in range(parser.num_errors)]
        reasons = [f"{x.node_operator() or 'the model'}: {x.desc()}" for x in found]
        raise CompileError(f"{trt.__name__} cannot parse the ONNX model: {' | '.join(reasons)[:800] or errors_of(log)}")


def _settle_precision(trt: Any, network: Any, config: Any, target: EngineTarget) -> str:
    """The precision of the network's products, such as "f32" or "bf16+f32"; raises if another is asked."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    heavy = [layer for layer in layers if layer.type.name in _HEAVY]
    kinds = {_PRECISIONS.get(layer.get_output(0).dtype.name) for layer in heavy or layers} - {None}
    effective = "+".join(sorted(kind for kind in kinds if kind is not None))
    rounded = {layer.get_output(0).name for layer in layers if layer.type.name == "DEQUANTIZE"}
    if sum(_all_rounded(layer, rounded) for layer in heavy) * 2 > len(_with_weights(heavy, layers)) > 0:
        effective = "int8"
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


def _all_rounded(layer: Any, rounded: set[str]) -> bool:
    """Whether all that a product takes was just dequantised: TensorRT then computes it in int8."""
    return all(layer.get_input(i).name in rounded for i in range(layer.num_inputs))


def _with_weights(heavy: Sequence[Any], layers: Sequence[Any]) -> list[Any]:
    """The products one of whose sides is stored in the model, as it is or rounded."""
    stored = {layer.get_output(0).name for layer in layers if layer.type.name == "CONSTANT"}
    for layer in layers:  # in the order of computation: what is made of stored values alone is stored
        inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
        if inputs and all(x is not None and x.name in stored for x in inputs):
            stored.add(layer.get_output(0).name)
    return [x for x in heavy if any(x.get_input(i).name in stored for i in range(x.num_inputs))]


def _add_profile(builder: Any, network: Any, config: Any, target: EngineTarget, shape: Shape) -> Profile:
    """One profile that allows the shape and no other, or if the target is dynamic any up to it; read back."""
    profile = builder.create_optimization_profile()
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    for tensor in tensors:
        most = static_dims(tensor.name, tuple(tensor.shape), shape)
        least = tuple(1 if dim < 0 else dim for dim in tensor.shape) if target.dynamic else most
        profile.set_shape(tensor.name, least, most, most)
    if config.add_optimization_profile(profile) < 0:
        raise CompileError(f"TensorRT refuses a profile of shape {list(shape.dims)} for this model")
    read = {tensor.name: [tuple(x) for x in profile.get_shape(tensor.name)] for tensor in tensors}
    ranges = {name: ShapeRange(min=least, opt=usual, max=most) for name, (least, usual, most) in read.items()}
    return Profile(shape=shape, ranges=ranges)


def _dtype(tensor: Any) -> str:
    name: str = tensor.dtype.name
    return _DTYPES.get(name, name.lower())


def _spec(tensor: Any) -> TensorSpec:
    """Its first free dimension is the batch, the second the sequence."""
    free = iter(AXES)
    with contextlib.suppress(StopIteration):
        dims = tuple(next(free) if dim < 0 else dim for dim in tensor.shape)
        return TensorSpec(name=tensor.name, dtype=_dtype(tensor), shape=dims)
    raise CompileError(f"{tensor.name} has more free dimensions than [batch, sequence]: {tensor.shape}")
