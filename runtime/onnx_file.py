"""An ONNX model as a file: what the exporter writes and the engine world reads. Standard library only."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SHA256 = re.compile(r"[0-9a-f]{64}")


def sha256_of(path: Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output: numpy's `dtype` name, and per dimension its size, or its name where it is free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a tensor needs a name")
        for dim in self.shape:
            if type(dim) is int and dim > 0:
                continue
            if not isinstance(dim, str) or not dim:
                raise ValueError(f"{self.name}: a dimension is a positive integer or a name, got {dim!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorSpec:
        """Raises `ValueError` where a field is missing, unknown or of the wrong type."""
        if set(data) != {"name", "dtype", "shape"}:
            raise ValueError(f"a tensor has name, dtype and shape; got {', '.join(sorted(data))}")
        return cls(name=data["name"], dtype=data["dtype"], shape=tuple(data["shape"]))

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A model whose bytes are named by `sha256`; weights are inside the file."""

    path: Path
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int

    def __post_init__(self) -> None:
        if _SHA256.fullmatch(self.sha256) is None:
            raise ValueError(f"sha256 is 64 hexadecimal digits, got {self.sha256!r}")
        if not self.inputs or not self.outputs:
            raise ValueError("an ONNX model has at least one input and one output")

    def is_intact(self) -> bool:
        """Whether the file is there and still has the bytes it was recorded with."""
        return self.path.is_file() and sha256_of(self.path) == self.sha256

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return {
            "path": self.path.as_posix(),
            "sha256": self.sha256,
            "inputs": [x.to_json() for x in self.inputs],
            "outputs": [x.to_json() for x in self.outputs],
            "opset": self.opset,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OnnxFile:
        """Raises `ValueError` where a field is missing, unknown or of the wrong type."""
        fields = {"path", "sha256", "inputs", "outputs", "opset"}
        if set(data) != fields:
            raise ValueError(f"an ONNX file has {', '.join(sorted(fields))}; got {', '.join(sorted(data))}")
        return cls(
            path=Path(data["path"]),
            sha256=data["sha256"],
            inputs=tuple(TensorSpec.from_json(x) for x in data["inputs"]),
            outputs=tuple(TensorSpec.from_json(x) for x in data["outputs"]),
            opset=data["opset"],
        )
