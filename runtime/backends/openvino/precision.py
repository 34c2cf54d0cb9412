"""What a compiled OpenVINO model really computes in.

An int8 target takes a model that carries Q/DQ. What is not an int8 product stays in f32, even where the CPU has bf16:
on an AVX-512 CPU with both that is 1 to 4 % faster up to length 64 and 1 to 4 % slower at 128, and rounds nothing.
"""

from __future__ import annotations

from typing import Any

from runtime.target import EngineTarget

_PRODUCTS = {"FullyConnected", "Gemm"}  # with weights; OpenVINO's own names of the layers that were compiled
_EIGHT_BITS = {"i8", "u8"}


def precision_of(compiled: Any) -> str:
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


def other_precision(target: EngineTarget, effective: str, model: Any) -> str:
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
