"""What an ONNX file holds besides its weights, and the refusal of what no engine should be given.

ONNX is Protocol Buffers. Of its messages (onnx/onnx.proto) this reads the names of operators, functions, opsets and
external files, and passes over the weights without touching them. Standard library only.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from runtime.errors import CompileError

STANDARD = frozenset({"", "ai.onnx"})
CONTRIBUTED = frozenset({"com.microsoft"})
"""Operators that ONNX Runtime's graph optimiser writes; ONNX Runtime and OpenVINO bring their own kernels for them."""

Operator: TypeAlias = tuple[str, str]
"""Domain and type."""

_TYPES = {1: "f32", 10: "f16", 16: "bf16", 11: "f64", 2: "int8", 3: "int8"}
_PRODUCTS = {"MatMul", "Gemm"}
_DEEPEST = 16
# Field numbers of the messages that are followed.
_MODEL_OPSET, _MODEL_GRAPH, _MODEL_FUNCTION = 8, 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_INPUT, _NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 4, 5, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_TENSOR_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 2, 8, 13, 14
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN = 1, 7, 10


@dataclass(frozen=True, kw_only=True)
class ExternalData:
    """Weights in another file: its path from the model's folder, and the bytes of it (length 0: to its end)."""

    location: str
    offset: int
    length: int


@dataclass(kw_only=True)
class OnnxSummary:
    """What was found. `product_types` counts the stored weights of products by type, such as {"f16": 24}."""

    opsets: dict[str, int] = field(default_factory=dict)
    operators: set[Operator] = field(default_factory=set)
    functions: set[Operator] = field(default_factory=set)
    external: list[ExternalData] = field(default_factory=list)
    product_types: Counter[str] = field(default_factory=Counter)

    @property
    def quantised(self) -> bool:
        """Whether a node quantises."""
        return any(kind == "QuantizeLinear" for _, kind in self.operators)

    @property
    def precision(self) -> str:
        """That of most products with stored weights; "f32" where there are none."""
        return self.product_types.most_common(1)[0][0] if self.product_types else "f32"


def check_onnx(
    source: bytes | Path, *, extra_domains: frozenset[str] = frozenset(), alone: bool = False
) -> OnnxSummary:
    """What the model holds. Raises `CompileError` for what must not reach an engine's own parser.

    That is: a file that is missing, empty or cut short; operators outside ONNX and `extra_domains` that the model does
    not define itself; weights outside the model's folder, or in another file at all if the model must stand `alone` (as
    one given in bytes must).
    """
    what = str(source) if isinstance(source, Path) else f"a model of {len(source)} bytes"
    try:
        summary = read_onnx(source)
    except (MalformedError, UnicodeDecodeError) as error:
        raise CompileError(f"{what} is not an ONNX model, or was cut short: {error}") from error
    allowed = STANDARD | extra_domains
    if custom := sorted(x for x in summary.operators - summary.functions if x[0] not in allowed):
        names = ", ".join(f"{domain}::{kind}" for domain, kind in custom[:5])
        raise CompileError(
            f"{what} has custom operators: {names}; an engine takes those of ONNX"
            f"{''.join(f' and {x}' for x in sorted(extra_domains))}: export the model without them"
        )
    folder = source.parent if isinstance(source, Path) and not alone else None
    for data in summary.external:
        if (reason := _unsafe(data, folder)) is not None:
            raise CompileError(f"{what} keeps weights in {data.location!r}, {reason}")
    return summary


def read_onnx(source: bytes | Path) -> OnnxSummary:
    """The summary alone, nothing refused but what cannot be read."""
    if isinstance(source, bytes):
        return _model(memoryview(source))
    if not source.is_file():
        raise CompileError(f"there is no model file {source}")
    if source.stat().st_size == 0:
        raise MalformedError("the file is empty")
    with source.open("rb") as file:
        return _model(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def _unsafe(data: ExternalData, folder: Path | None) -> str | None:
    if folder is None:
        return "which does not come with it: store them inside the model"
    path = (folder / data.location).resolve()
    if not path.is_relative_to(folder.resolve()):
        return "outside its own folder: store them inside the model, or beside it"
    if not path.is_file():
        return "which is not there"
    if (size := path.stat().st_size) < (wanted := data.offset + data.length):
        return f"which has {size} bytes and should have {wanted} or more: fetch it again"
    return None


class MalformedError(ValueError):
    """The bytes are not those of the message that should be there."""


def _model(data: memoryview) -> OnnxSummary:
    found = OnnxSummary()
    graphs = 0
    for number, value in _fields(data):
        if number == _MODEL_OPSET:
            opset = dict(_fields(_bytes(value)))
            version = opset.get(2, 0)
            if not isinstance(version, int):
                raise MalformedError("an opset has no version")
            found.opsets[_text(opset.get(1, memoryview(b"")))] = version
        elif number == _MODEL_GRAPH:
            _graph(_bytes(value), found, depth=0)
            graphs += 1
        elif number == _MODEL_FUNCTION:
            _function(_bytes(value), found)
    if graphs != 1 or not found.opsets:
        raise MalformedError("it has no graph" if graphs != 1 else "it names no opset")
    return found


def _graph(data: memoryview, found: OnnxSummary, *, depth: int) -> None:
    if depth > _DEEPEST:
        raise MalformedError(f"graphs lie more than {_DEEPEST} deep in each other")
    types: dict[str, str] = {}
    products: list[str] = []
    for number, value in _fields(data):
        if number == _GRAPH_NODE:
            products += _node(_bytes(value), found, depth=depth)
        elif number == _GRAPH_INITIALIZER:
            name, kind = _tensor(_bytes(value), found)
            types[name] = kind
        elif number == _GRAPH_SPARSE:
            _sparse(_bytes(value), found)
    found.product_types.update(types[name] for name in products if types.get(name))


def _node(data: memoryview, found: OnnxSummary, *, depth: int) -> list[str]:
    """The inputs of a product, of other nodes none."""
    kind = domain = ""
    inputs = []
    for number, value in _fields(data):
        if number == _NODE_TYPE:
            kind = _text(value)
        elif number == _NODE_DOMAIN:
            domain = _text(value)
        elif number == _NODE_INPUT:
            inputs.append(_text(value))
        elif number == _NODE_ATTRIBUTE:
            for part, inner in _fields(_bytes(value)):
                if part in _ATTRIBUTE_TENSORS:
                    _tensor(_bytes(inner), found)
                elif part in _ATTRIBUTE_GRAPHS:
                    _graph(_bytes(inner), found, depth=depth + 1)
                elif part in _ATTRIBUTE_SPARSE:
                    _sparse(_bytes(inner), found)
    found.operators.add((domain, kind))
    return inputs if kind in _PRODUCTS else []


def _function(data: memoryview, found: OnnxSummary) -> None:
    name = domain = ""
    for number, value in _fields(data):
        if number == _FUNCTION_NODE:
            _node(_bytes(value), found, depth=1)
        elif number == _FUNCTION_NAME:
            name = _text(value)
        elif number == _FUNCTION_DOMAIN:
            domain = _text(value)
    found.functions.add((domain, name))


def _tensor(data: memoryview, found: OnnxSummary) -> tuple[str, str]:
    """Name and type, "" for a type that is no number of a model's."""
    name = kind = ""
    external: dict[str, str] = {}
    elsewhere = False
    for number, value in _fields(data):
        if number == _TENSOR_NAME:
            name = _text(value)
        elif number == _TENSOR_TYPE and isinstance(value, int):
            kind = _TYPES.get(value, "")
        elif number == _TENSOR_LOCATION:
            elsewhere = value == 1
        elif number == _TENSOR_EXTERNAL:
            entry = dict(_fields(_bytes(value)))
            external[_text(entry.get(1, 0))] = _text(entry.get(2, 0))
    if elsewhere or external:
        found.external.append(_external(external))
    return name, kind


def _external(entries: Mapping[str, str]) -> ExternalData:
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", "0"))
        location = entries["location"]
    except (KeyError, ValueError) as error:
        raise MalformedError(f"external data says {dict(entries)}") from error
    if min(offset, length) < 0:
        raise MalformedError(f"external data says {dict(entries)}")
    return ExternalData(location=location, offset=offset, length=length)


def _sparse(data: memoryview, found: OnnxSummary) -> None:
    for number, value in _fields(data):
        if number in (1, 2):
            _tensor(_bytes(value), found)


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise MalformedError("a number stands where a message should")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode()


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a message; fields of fixed width come as their bytes."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise MalformedError(f"no field has the wire type {kind}")
        if number == 0 or size > end - at:
            raise MalformedError(
                f"a field of {size} bytes has {end - at} left" if number else "a field has the number 0"
            )
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise MalformedError("a number has no end")
