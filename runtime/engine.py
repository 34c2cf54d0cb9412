"""The protocols every backend fulfils, and the one place that finds a backend by name."""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeAlias, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from runtime.backends import BACKENDS
from runtime.errors import FeedError, UnsupportedTarget
from runtime.target import EngineTarget, Shape
from runtime.tensors import TensorSpec

Feeds: TypeAlias = Mapping[str, NDArray[Any]]
"""Input name -> array; `input_ids` and `attention_mask` are int64 [batch, sequence]."""

AXES = ("batch", "sequence")

Hint: TypeAlias = Literal["latency", "throughput"]
"""What an engine is loaded for: the shortest single answer, or the most answers per second from `infer_many`."""


@runtime_checkable
class Engine(Protocol):
    """A compiled model of one fixed shape, or of any up to a shape. One thread at a time may use it."""

    @property
    def target(self) -> EngineTarget:
        """What it was built for."""
        ...

    @property
    def effective_precision(self) -> str:
        """The precision it computes in, as read back from the backend: "f32", "bf16", "f16", "tf32", "int8", ..."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Names, types and shapes of what `infer` takes: all of them, nothing else. A free dimension is a name."""
        ...

    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Output name -> array the caller owns; `logits` is float32 [batch, labels]. Raises `FeedError`."""
        ...

    def close(self) -> None:
        """Frees what the engine holds; may be called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class ParallelEngine(Engine, Protocol):
    """An engine whose compiled model several threads, or many rows at a time, can share."""

    def infer_many(self, feeds: Iterable[Feeds]) -> Iterator[dict[str, NDArray[Any]]]:
        """The answers in the order of `feeds`, which are taken as they are needed. Raises `FeedError`."""
        ...

    def clone(self) -> Self:
        """An engine of the same compiled model for another thread; each is closed by itself."""
        ...


class Backend(Protocol):
    """Turns ONNX models into engines.

    `unavailable` is about building, `can_run` about running: TensorRT for RTX builds plans without a GPU. A `cache` is
    a folder of the caller's, made where it is missing, in which a backend may leave what makes the next call faster;
    one that is empty or stale costs time and nothing else.
    """

    @property
    def name(self) -> str:
        """As `EngineTarget.backend` names it."""
        ...

    def unavailable(self) -> str | None:
        """None where it can build here, else the reason and how to get it."""
        ...

    def can_run(self) -> str | None:
        """None where its engines can run here, else the reason and how to get it."""
        ...

    def precisions(self, device: str) -> tuple[str, ...]:
        """What a target of that device may ask for, least rounded first; nothing where there is no such device."""
        ...

    def compile(
        self,
        onnx: bytes | Path,
        target: EngineTarget,
        out: Path,
        shapes: tuple[Shape, ...] = (),
        *,
        cache: Path | None = None,
    ) -> Path:
        """Writes the engine's files into the folder `out`, whole or not at all; returns the one to `load`.

        `shapes`, the target's among them, are all that the artifact must serve: an artifact of OpenVINO or ONNX Runtime
        serves any, one of TensorRT those alone.
        """
        ...

    def load(
        self, artifact: Path, target: EngineTarget, *, cache: Path | None = None, hint: Hint = "latency"
    ) -> Engine:
        """An engine from what `compile` wrote."""
        ...

    def open(self, onnx: bytes | Path, target: EngineTarget, *, hint: Hint = "latency") -> Engine:
        """An engine compiled in memory."""
        ...


def backend(name: str) -> Backend:
    """The backend of that name, its package not yet imported. Raises `UnsupportedTarget` if unknown."""
    if name not in BACKENDS:
        raise UnsupportedTarget(f"no backend is called {name!r}; there are {', '.join(sorted(BACKENDS))}")
    found: Backend = importlib.import_module(BACKENDS[name]).BACKEND
    return found


def infer_many(engine: Engine, feeds: Iterable[Feeds]) -> Iterator[dict[str, NDArray[Any]]]:
    """The answers in the order of `feeds`: at once where the engine can, else one after the other."""
    return engine.infer_many(feeds) if isinstance(engine, ParallelEngine) else map(engine.infer, feeds)


class EngineBase(ABC):
    """What all engines share: the context manager, and refusing to run once closed."""

    @abstractmethod
    def close(self) -> None:
        """Frees what the engine holds; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class FeedCheck:
    """Refuses feeds that do not match `inputs`; a few dictionary look-ups when they do.

    A free dimension, "batch" or "sequence", may have any size up to that of `most`, the same in all inputs.
    """

    def __init__(self, inputs: tuple[TensorSpec, ...], most: Shape | None = None) -> None:
        self.inputs = inputs
        self._wanted = tuple((x.name, np.dtype(x.dtype), x.shape) for x in inputs)
        self._free = any(isinstance(dim, str) for x in inputs for dim in x.shape)
        self._most = {} if most is None else dict(zip(AXES, most.dims, strict=True))

    def __call__(self, feeds: Feeds) -> None:
        """Raises `FeedError` naming the first input that is missing, unknown, or of another type or shape."""
        wanted = self._sized(feeds) if self._free else self._wanted
        if len(feeds) == len(wanted):
            for name, dtype, shape in wanted:
                array = feeds.get(name)
                if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
                    break
            else:
                return
        raise FeedError(self._explain(feeds))

    def _sized(self, feeds: Feeds) -> tuple[tuple[str, np.dtype[Any], tuple[int | str, ...]], ...]:
        """What is wanted, each free dimension with the size that the first input gives it, if that is allowed."""
        first = getattr(feeds.get(self._wanted[0][0]), "shape", ())
        sizes = {
            axis: size
            for axis, size in zip(self._wanted[0][2], first, strict=False)
            if isinstance(axis, str) and 1 <= size <= self._most.get(axis, size)
        }
        return tuple((name, dtype, tuple(sizes.get(str(x), x) for x in shape)) for name, dtype, shape in self._wanted)

    def _explain(self, feeds: Feeds) -> str:
        takes = "; the engine takes " + ", ".join(map(str, self.inputs))
        if self._free:
            takes += " with " + " and ".join(f"{axis} up to {size}" for axis, size in self._most.items())
        for name, dtype, shape in self._sized(feeds) if self._free else self._wanted:
            if name not in feeds:
                return f"input {name} is missing, got {', '.join(feeds) or 'nothing'}{takes}"
            array: object = feeds[name]
            if not isinstance(array, np.ndarray):
                return f"input {name} must be a numpy array, got {type(array).__name__}{takes}"
            if array.shape != shape or array.dtype != dtype:
                return f"input {name} is {array.dtype}{list(array.shape)}{takes} ({self._advice()})"
        unknown = sorted(set(feeds) - {name for name, _, _ in self._wanted})
        return f"unknown input {', '.join(unknown)}{takes}"

    def _advice(self) -> str:
        return "one size for all inputs" if self._free else "pad or cut to its one shape"


def static_dims(name: str, shape: tuple[int | str | None, ...], wanted: Shape) -> tuple[int, int]:
    """The fixed [batch, sequence] of a model input; raises `UnsupportedTarget` if the model fixes another."""
    if len(shape) != 2:
        raise UnsupportedTarget(
            f"model inputs are [batch, sequence], but {name} has {len(shape)} dimensions: {list(shape)}"
        )
    for axis, have, want in zip(AXES, shape, wanted.dims, strict=True):
        if type(have) is int and have > 0 and have != want:
            raise UnsupportedTarget(
                f"the target asks for {axis} {want}, but the model fixes {name} at {have}; "
                f"export it with a free {axis} dimension or ask for {have}"
            )
    return wanted.dims


def engine_dims(name: str, shape: tuple[int | str | None, ...], target: EngineTarget) -> tuple[int | str, int | str]:
    """[batch, sequence] of an engine's input: `static_dims`, or names of those that a dynamic target leaves free."""
    fixed = static_dims(name, shape, target.shape)
    if not target.dynamic:
        return fixed
    batch, length = (
        size if size == 1 or (type(have) is int and have > 0) else axis
        for axis, have, size in zip(AXES, shape, fixed, strict=True)
    )
    return batch, length


def refuse_unknown_hint(hint: str) -> None:
    """Raises `UnsupportedTarget` for what is not a `Hint`."""
    if hint not in get_args(Hint):
        raise UnsupportedTarget(f"the hint is one of {', '.join(get_args(Hint))}, got {hint!r}")


def usable_cpus() -> int:
    """How many CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def refuse_missing_threads(target: EngineTarget) -> None:
    """Backends clamp or oversubscribe silently; here asking for more threads than CPUs is an error."""
    if target.threads > (available := usable_cpus()):
        raise UnsupportedTarget(
            f"the target asks for {target.threads} threads, but this process may use {available} CPUs; "
            f"ask for at most {available}"
        )
