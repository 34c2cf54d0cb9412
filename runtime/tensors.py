"""What an engine takes and gives. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
