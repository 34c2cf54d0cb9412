"""A thin pen for ONNX graphs: it names values, keeps weights and adds nodes in order.

Opset 20 is the first with Gelu as one operator (LayerNormalization came with 17), and the last that all three runtimes
take in every version we name: OpenVINO 2026 and ONNX Runtime (from 1.17 on) read it and later ones, the parser of
TensorRT 10.0 ends there, that of TensorRT 11 at 25. Only standard operators are written. Gelu and LayerNormalization
stay whole because OpenVINO fuses the first into the product before it and makes one node of the second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

OPSET = 20
# onnxruntime refuses files of a newer IR version than it knows; 10 is what opset 20 came with.
IR_VERSION = 10


class GraphBuilder:
    """Collects one graph. Values are named by what makes them, so that a departing engine can be located."""

    sliced_heads = True
    """Whether heads are cut and joined by slices, else by transposition; a builder for other runtimes may choose."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, NDArray[Any]] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int | str]) -> str:
        """Declares an int64 input; a string names a dynamic dim."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, list(shape)))
        return name

    def output(self, name: str, shape: Sequence[int | str]) -> None:
        """Declares a float32 output."""
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))

    def weight(self, name: str, values: NDArray[Any]) -> str:
        """Stores a constant once, under its own name; its values are read when the graph is built."""
        known = self._weights.setdefault(name, values)
        if known is not values and not np.array_equal(known, values):
            raise ValueError(f"the weight {name} is given twice with different values")
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Adds a node of one output, whose name it returns."""
        self._nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def linear(self, x: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """`x` [..., in] times `weight` [in, out] plus `bias` [out]."""
        product = self.node("MatMul", [x, self.weight(f"{name}.weight", weight)], f"{name}.product")
        return self.node("Add", [product, self.weight(f"{name}.bias", bias)], name)

    def softmax(self, x: str, name: str) -> str:
        """Over the last axis."""
        return self.node("Softmax", [x], name, axis=-1)

    def layer_norm(self, x: str, name: str, weight: NDArray[Any], bias: NDArray[Any], eps: float) -> str:
        """LayerNormalization over the last axis."""
        names = [x, self.weight(f"{name}.weight", weight), self.weight(f"{name}.bias", bias)]
        return self.node("LayerNormalization", names, name, axis=-1, epsilon=eps)

    def split(self, x: str, names: Sequence[str], sizes: Sequence[int], axis: int = -1) -> list[str]:
        """Cuts an axis, the last one unless told."""
        lengths = self.weight("sizes." + "_".join(map(str, sizes)), np.array(sizes, dtype=np.int64))
        self._nodes.append(helper.make_node("Split", [x, lengths], list(names), name=f"split.{names[0]}", axis=axis))
        return list(names)

    def structure(self) -> str:
        """Sha256 (hexadecimal) of everything but the values of float weights, which no latency depends on.

        Nodes with their attributes, inputs, outputs, opset, and of every weight name, shape and type; int64 weights,
        which are shapes and axes, count with their values.
        """
        found = hashlib.sha256(f"opset {OPSET}".encode())
        for part in (*self._inputs, *self._outputs, *self._nodes):
            text = part.SerializeToString(deterministic=True)
            found.update(f"\n{len(text)} ".encode() + text)
        for name, values in self._weights.items():
            constant = values.tolist() if values.dtype == np.int64 else ""
            found.update(f"\n{name} {values.dtype.name} {list(values.shape)} {constant}".encode())
        return found.hexdigest()

    def build(self) -> onnx.ModelProto:
        """The finished model, checked against the ONNX specification: what `to_bytes` writes, read back."""
        return onnx.load_from_string(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The finished model as a file's content."""
        return b"".join(self.to_parts())

    def to_parts(self, *, outside: Mapping[str, str] | None = None) -> list[bytes | memoryview]:
        """A file's content in pieces, weights not copied where they lie in order; joined what onnx would write.

        The weights named in `outside` are not in it but in the files given, each whole, as raw little-endian values
        beside the model (ONNX's external data).
        onnx's own way copies tens of megabytes of weights four times, and its checker once more, which for a small
        net takes longer than compiling it. Here the structure is checked, with the weights declared as inputs.
        """
        weights = {name: np.asarray(values, order="C") for name, values in self._weights.items()}
        head = onnx.ModelProto(ir_version=IR_VERSION, producer_name="atb-export")
        nodes = onnx.GraphProto(node=self._nodes, name=self.name)
        ports = onnx.GraphProto(input=self._inputs, output=self._outputs)
        tail = onnx.ModelProto(opset_import=[helper.make_opsetid("", OPSET)])
        _check(head, nodes, ports, tail, weights)
        parts: list[bytes | memoryview] = [nodes.SerializeToString()]
        for name, values in weights.items():
            described = onnx.TensorProto(dims=values.shape, data_type=_type(values), name=name)
            if outside is not None and name in outside:
                described.data_location = TensorProto.EXTERNAL
                for key, value in (("location", outside[name]), ("offset", "0"), ("length", str(values.nbytes))):
                    described.external_data.add(key=key, value=value)
                spec = described.SerializeToString()
                parts += [_lead(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, len(spec)), spec]
                continue
            spec = described.SerializeToString()
            spec += _lead(onnx.TensorProto.RAW_DATA_FIELD_NUMBER, values.nbytes)
            parts += [_lead(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, len(spec) + values.nbytes), spec]
            parts.append(values.reshape(-1).view(np.uint8).data)
        parts.append(ports.SerializeToString())
        size = sum(memoryview(part).nbytes for part in parts)
        start = head.SerializeToString() + _lead(onnx.ModelProto.GRAPH_FIELD_NUMBER, size)
        return [start, *parts, tail.SerializeToString()]


def _check(
    head: onnx.ModelProto,
    nodes: onnx.GraphProto,
    ports: onnx.GraphProto,
    tail: onnx.ModelProto,
    weights: dict[str, NDArray[Any]],
) -> None:
    model = onnx.ModelProto()
    model.MergeFrom(head)
    model.MergeFrom(tail)
    model.graph.MergeFrom(nodes)
    model.graph.MergeFrom(ports)
    model.graph.input.extend(helper.make_tensor_value_info(name, _type(x), x.shape) for name, x in weights.items())
    onnx.checker.check_model(model)


def _type(values: NDArray[Any]) -> int:
    found: int = helper.np_dtype_to_tensor_dtype(values.dtype)
    return found


def _lead(field: int, size: int) -> bytes:
    """What comes before a field of `size` bytes: its key and its size as varints (protobuf's wire format)."""
    found = bytearray([field << 3 | 2])
    while size > 0x7F:
        found.append(size & 0x7F | 0x80)
        size >>= 7
    found.append(size)
    return bytes(found)
