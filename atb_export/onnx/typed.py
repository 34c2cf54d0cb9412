"""The lean graph in f16 or bf16, its precision written in the types, as TensorRT takes it (strongly typed networks).

Every weight and every product is of the asked type. Softmax and LayerNorm are computed in float32 between casts: a
LayerNorm's epsilon of 1e-12 is 0 in f16, and a sum of squares leaves its range; so is ELU, which opset 20 does not have
in bf16. Inputs stay int64, logits float32.

On a CPU nobody computes such a graph as it is written: OpenVINO widens its weights, ONNX Runtime has no bf16 and drops
the casts between its float32 kernels for f16, so that what overflows on a GPU does not there: see `onnx.as_written`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from atb_export.errors import ExportError
from atb_export.onnx.builder import GraphBuilder
from atb_export.onnx.graph import graph_bytes
from supernet.model import Supernet
from supernet.space import SubnetConfig

TypedPrecision = Literal["f16", "bf16"]

_TYPES: dict[str, Any] = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}


def typed_graph_bytes(
    net: Supernet, subnet: SubnetConfig | None = None, *, token_types: bool, precision: TypedPrecision
) -> bytes:
    """`graph_bytes` with weights and products of `precision`.

    Raises `ExportError` for a weight that is not finite in that type. What overflows only while computing is seen by
    `AsWritten`.
    """
    return graph_bytes(net, subnet, token_types=token_types, builder=partial(TypedBuilder, precision=precision))


class TypedBuilder(GraphBuilder):
    """Writes float32 weights in another float type, and the casts where float32 is needed."""

    sliced_heads = False  # typed graphs are for GPUs

    def __init__(self, name: str, *, precision: TypedPrecision) -> None:
        if precision not in _TYPES:
            raise ValueError(f"a graph is typed {' or '.join(_TYPES)}, got {precision!r}")
        super().__init__(name)
        self.precision = precision
        self.type = np.dtype(_TYPES[precision])
        self.tensor_type: int = helper.np_dtype_to_tensor_dtype(self.type)
        self._wide: dict[str, str] = {}

    def weight(self, name: str, values: NDArray[Any]) -> str:
        """As `GraphBuilder.weight`; float32 is rounded to the graph's type. Raises `ExportError` where it overflows."""
        if values.dtype != np.float32:
            return super().weight(name, values)
        with np.errstate(over="ignore"):
            rounded = values.astype(self.type)
        if not np.isfinite(rounded).all():
            limit = float((np.finfo if self.precision == "f16" else ml_dtypes.finfo)(self.type).max)
            raise ExportError(
                f"the weight {name} reaches {np.abs(values).max():.6g}, and {self.precision} ends at {limit:.6g}: "
                f"export in {'bf16 or f32' if self.precision == 'f16' else 'f32'}"
            )
        return super().weight(name, rounded)

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """As `GraphBuilder.node`; casts to float32 become casts to the graph's type, softmax and ELU stay float32."""
        if op == "Cast" and attributes.get("to") == TensorProto.FLOAT:
            return super().node(op, inputs, name, to=self.tensor_type)
        if op in ("Softmax", "Elu"):
            wide = self._widened(inputs[0])
            found = super().node(op, [wide, *inputs[1:]], f"{name}.in_float32", **attributes)
            return self._narrowed(found, name)
        return super().node(op, inputs, name, **attributes)

    def layer_norm(self, x: str, name: str, weight: NDArray[Any], bias: NDArray[Any], eps: float) -> str:
        """As `GraphBuilder.layer_norm`, in float32 with float32 weights."""
        names = [GraphBuilder.weight(self, f"{name}.{end}", x) for end, x in (("weight", weight), ("bias", bias))]
        inputs = [self._widened(x), *names]
        found = super().node("LayerNormalization", inputs, f"{name}.in_float32", axis=-1, epsilon=eps)
        return self._narrowed(found, name)

    def output(self, name: str, shape: Sequence[int | str]) -> None:
        """As `GraphBuilder.output`; the value is cast to float32."""
        (maker,) = (node for node in self._nodes if name in node.output)
        narrow = f"{name}.{self.precision}"
        maker.output[list(maker.output).index(name)] = narrow
        maker.name = narrow
        super().node("Cast", [narrow], name, to=TensorProto.FLOAT)
        super().output(name, shape)

    def _widened(self, x: str) -> str:
        if x not in self._wide:
            self._wide[x] = super().node("Cast", [x], f"{x}.as_float32", to=TensorProto.FLOAT)
        return self._wide[x]

    def _narrowed(self, x: str, name: str) -> str:
        return super().node("Cast", [x], name, to=self.tensor_type)
