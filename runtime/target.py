"""What an engine is built for: backend, device, precision, shape and threads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Precision = Literal["auto", "f32", "bf16", "f16", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

_BACKEND = re.compile(r"[a-z][a-z0-9_]*")
_DEVICE = re.compile(r"[A-Za-z0-9_.]+(,[A-Za-z0-9_.]+)*")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _count(name: str, value: object) -> None:
    _check(type(value) is int and value > 0, f"{name} must be a whole number of 1 or more, got {value!r}")


@dataclass(frozen=True, kw_only=True, order=True)
class Shape:
    """What an engine takes: `batch` rows of `length` tokens; of a dynamic target the most of each."""

    batch: int
    length: int

    def __post_init__(self) -> None:
        _count("batch", self.batch)
        _count("length", self.length)

    @property
    def dims(self) -> tuple[int, int]:
        """[batch, sequence], as arrays have it."""
        return self.batch, self.length

    def to_json(self) -> dict[str, int]:
        """Plain data; `from_json` reads it back."""
        return {"batch": self.batch, "length": self.length}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Shape:
        """Raises `ValueError` where a field is missing, unknown or not a positive integer."""
        _fields("a shape", data, {"batch", "length"})
        return cls(batch=data["batch"], length=data["length"])


@dataclass(frozen=True, kw_only=True, order=True)
class EngineTarget:
    """One kind of engine.

    `device` is the backend's own name ("CPU"); TensorRT's is a comma-separated list of compute capabilities
    such as "sm_89,sm_120", or "current" for the GPU of this machine. `precision` "auto" leaves the choice to
    the backend: what it chose is the engine's `effective_precision`. "int8" is that of the products with weights; it
    takes a model that carries QuantizeLinear and DequantizeLinear around them. `threads` are those of one inference.
    A `dynamic` engine takes any batch and any length up to `shape`, others `shape` alone.
    """

    backend: str
    device: str = "CPU"
    precision: Precision = "auto"
    shape: Shape
    threads: int = 1
    dynamic: bool = False

    def __post_init__(self) -> None:
        _check(
            isinstance(self.backend, str) and _BACKEND.fullmatch(self.backend) is not None,
            f"backend is a lower-case name such as openvino, got {self.backend!r}",
        )
        _check(
            isinstance(self.device, str) and _DEVICE.fullmatch(self.device) is not None,
            f'device is a name or names joined by commas ("CPU", "sm_89,sm_120"), got {self.device!r}',
        )
        _check(
            self.precision in PRECISIONS,
            f"precision is one of {', '.join(PRECISIONS)}, got {self.precision!r}",
        )
        _check(len(set(self.devices)) == len(self.devices), f"device repeats a name: {self.device!r}")
        _check(isinstance(self.shape, Shape), f"shape is a Shape, got {type(self.shape).__name__}")
        _count("threads", self.threads)
        _check(type(self.dynamic) is bool, f"dynamic is true or false, got {self.dynamic!r}")

    @property
    def devices(self) -> tuple[str, ...]:
        """The names in `device`, in order."""
        return tuple(self.device.split(","))

    @property
    def label(self) -> str:
        """Names this target in tables, files and folders, such as `openvino-CPU-bf16-b1-l64-t1`."""
        return self._name(f"b{self.shape.batch}-l{self.shape.length}")

    @property
    def group(self) -> str:
        """The label without the length, such as `openvino-CPU-bf16-b1-t1`: what the lengths of one engine share."""
        return self._name(f"b{self.shape.batch}")

    def _name(self, sizes: str) -> str:
        device = self.device.replace(",", "+")
        return f"{self.backend}-{device}-{self.precision}-{sizes}-t{self.threads}" + "-dynamic" * self.dynamic

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back. Only dynamic targets name `dynamic`."""
        plain = {
            "backend": self.backend,
            "device": self.device,
            "precision": self.precision,
            "shape": self.shape.to_json(),
            "threads": self.threads,
        }
        return {**plain, "dynamic": True} if self.dynamic else plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EngineTarget:
        """Raises `ValueError` where a field is missing, unknown or out of range."""
        _fields("a target", data, {"backend", "device", "precision", "shape", "threads"}, {"dynamic"})
        return cls(
            backend=data["backend"],
            device=data["device"],
            precision=data["precision"],
            shape=Shape.from_json(data["shape"]),
            threads=data["threads"],
            dynamic=data.get("dynamic", False),
        )

    def __str__(self) -> str:
        return self.label


def _fields(what: str, data: object, fields: set[str], optional: frozenset[str] | set[str] = frozenset()) -> None:
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} is an object, got {type(data).__name__}")
    _check(
        set(data) - optional == fields,
        f"{what} has {', '.join(sorted(fields))}; got {', '.join(sorted(map(str, data)))}",
    )
