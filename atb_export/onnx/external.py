"""The weights of a bundle's ONNX files, stored once: as ranges of files beside them.

ONNX calls it external data: a file's name, an offset and a length. The file may be any, so a weight that
`model.safetensors` holds already is read from there, and the f16, bf16 and int8 graphs share what they have in common
with the f32 one. Where the graph has a matrix turned, or query, key and value as one, the file names the tensors as
`model.safetensors` has them and the nodes that turn and join them, which every compiler folds. So the ONNX files of a
MiniLM-L6 add 0.8 MB to its 91, and not 91 each; engines are as fast, and are loaded as fast as from an IR (OpenVINO
0.14 s, with the weights inside the ONNX 0.22 s).

Each ONNX file names the SHA-256 of the files it reads, so that its own hash vouches for all of the model.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from runtime.files import sha256_of

_SMALLEST = 1024  # bytes; smaller ones stay inside: shapes and axes are read while a graph is parsed
_ALIGNMENT = 64
_FEW = 16  # numbers that are compared before all are
_VOUCHED = "sha256 of "


@dataclass(frozen=True)
class _Place:
    """A range of a file."""

    file: str
    offset: int


@dataclass(frozen=True)
class _Part:
    """A stored tensor of `shape` and what it is multiplied with."""

    place: _Place
    shape: tuple[int, ...]
    scale: float


class WeightFiles:
    """What the files of one folder hold, so that no weight is written twice."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[int, list[_Place]] = {}  # by length in bytes
        self._hashes: dict[str, str] = {}

    def add_safetensors(self, name: str) -> None:
        """Makes the tensors of a safetensors file known."""
        with (self.folder / name).open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size))
        for key, entry in header.items():
            if key != "__metadata__":
                start, end = entry["data_offsets"]
                self._add(end - start, _Place(name, 8 + size + start))

    def add_onnx(self, name: str) -> None:
        """Makes the external weights of an ONNX file of the folder known."""
        model = onnx.load(self.folder / name, load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                entry = {x.key: x.value for x in tensor.external_data}
                self._add(int(entry["length"]), _Place(entry["location"], int(entry["offset"])))

    def write(self, model: bytes, name: str, *, scales: Sequence[float] = ()) -> Path:
        """Writes an ONNX file whose weights are ranges of files: of known ones, or of `name`.data.

        `scales` are factors that a known tensor may have been multiplied with.
        """
        parsed = onnx.load_from_string(model)
        used, position = set(), 0
        with (self.folder / f"{name}.data").open("wb") as data:
            made: list[onnx.NodeProto] = []
            for tensor in list(parsed.graph.initializer):
                if len(tensor.raw_data) < _SMALLEST:
                    continue
                values = np.frombuffer(tensor.raw_data, np.uint8)
                place = self._find(values)
                if place is None and (parts := self._parts(tensor, scales)) is not None:
                    made += _joined(parsed.graph, tensor, parts)
                    used |= {part.place.file for part in parts}
                    continue
                if place is None:
                    position += data.write(b"\0" * (-position % _ALIGNMENT))
                    place = _Place(f"{name}.data", position)
                    position += data.write(values.data)
                    data.flush()
                    self._add(len(values), place)
                _point(tensor, place, len(values))
                used.add(place.file)
            nodes = [*made, *parsed.graph.node]
            del parsed.graph.node[:]
            parsed.graph.node.extend(nodes)
        if not position:
            (self.folder / f"{name}.data").unlink()
        for file in sorted(used):
            if file not in self._hashes:
                self._hashes[file] = sha256_of(self.folder / file)
            parsed.metadata_props.add(key=f"{_VOUCHED}{file}", value=self._hashes[file])
        path = self.folder / name
        path.write_bytes(parsed.SerializeToString())
        return path

    def _add(self, length: int, place: _Place) -> None:
        places = self._places.setdefault(length, [])
        if place not in places:
            places.append(place)

    def _find(self, values: NDArray[Any], scale: float = 1.0) -> _Place | None:
        """Where the numbers are, or those that become them multiplied with `scale`."""
        few = values.reshape(-1)[:_FEW]
        for place in self._places.get(values.nbytes, ()):
            held = np.memmap(self.folder / place.file, values.dtype, "r", place.offset, values.size)
            factor = held.dtype.type(scale)
            with np.errstate(all="ignore"):  # bytes of another kind may be anything, read as these
                if np.array_equal(held[:_FEW] * factor, few) and np.array_equal(held * factor, values.reshape(-1)):
                    return place
        return None

    def _parts(self, tensor: TensorProto, scales: Sequence[float]) -> list[_Part] | None:
        """The known tensors that a float32 matrix is made of: turned, and one or three below each other."""
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            return None
        turned = np.ascontiguousarray(numpy_helper.to_array(tensor).swapaxes(-1, -2))
        for count in (1, 3) if turned.ndim == 2 and len(turned) % 3 == 0 else (1,):
            blocks = np.split(turned, count) if count > 1 else [turned]
            found = [self._part(block, scales) for block in blocks]
            if all(found):
                return [part for part in found if part is not None]
        return None

    def _part(self, block: NDArray[np.float32], scales: Sequence[float]) -> _Part | None:
        for scale in (1.0, *scales):
            if (place := self._find(block, scale)) is not None:
                return _Part(place, block.shape, scale)
        return None


def _joined(graph: onnx.GraphProto, tensor: TensorProto, parts: list[_Part]) -> list[onnx.NodeProto]:
    """Replaces an initializer by stored tensors; returns the nodes that make it of them, under its name."""
    name, nodes, names = tensor.name, [], []
    graph.initializer.remove(tensor)
    for i, part in enumerate(parts):
        stored = f"{name}.stored{i if len(parts) > 1 else ''}"
        made = graph.initializer.add(name=stored, data_type=TensorProto.FLOAT, dims=part.shape)
        _point(made, part.place, 4 * math.prod(part.shape))
        if part.scale != 1.0:
            factor = numpy_helper.from_array(np.array(part.scale, np.float32), f"{stored}.scale")
            graph.initializer.append(factor)
            nodes.append(helper.make_node("Mul", [stored, factor.name], [f"{stored}.scaled"], name=f"{stored}.scaled"))
            stored = f"{stored}.scaled"
        names.append(stored)
    if len(names) > 1:
        nodes.append(helper.make_node("Concat", names, [f"{name}.joined"], name=f"{name}.joined", axis=0))
        names = [f"{name}.joined"]
    axes = list(range(len(parts[0].shape)))
    order = [*axes[:-2], axes[-1], axes[-2]]
    return [*nodes, helper.make_node("Transpose", names, [name], name=name, perm=order)]


def _point(tensor: TensorProto, place: _Place, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place.file), ("offset", place.offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def read_whole(path: Path) -> onnx.ModelProto:
    """An ONNX file with its weights inside, joined or turned by nodes where it has them so."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")
    kept = [x for x in model.metadata_props if not x.key.startswith(_VOUCHED)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model


def strangeness(path: Path) -> list[str]:
    """What an ONNX file of a bundle must not have: weights of other folders or other files than it vouches for, and
    operators outside the standard."""
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        return [f"{path.name} is no ONNX model: {str(error).splitlines()[0]}"]
    found = []
    vouched = {x.key.removeprefix(_VOUCHED): x.value for x in model.metadata_props if x.key.startswith(_VOUCHED)}
    places = {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for place in sorted(places):
        if "/" in place or "\\" in place or place in ("", ".", ".."):
            found.append(f"{path.name} has weights in {place!r}: they must lie beside it")
        elif not (path.parent / place).is_file():
            found.append(f"{path.name} has weights in {place}, which is not there")
    for file, sha256 in vouched.items():
        if file in places and (path.parent / file).is_file() and sha256_of(path.parent / file) != sha256:
            found.append(f"{path.name} was written for another {file}: its SHA-256 is another")
    custom = {f"{node.domain}::{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    if custom:
        found.append(f"{path.name} has operators outside the ONNX standard: {', '.join(sorted(custom)[:5])}")
    return found
