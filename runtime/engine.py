"""The two protocols every backend fulfils, and the one place that finds a backend by name."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from runtime.backends import BACKENDS
from runtime.errors import FeedError, UnsupportedTarget
from runtime.onnx_file import TensorSpec
from runtime.target import EngineTarget, Shape

Feeds: TypeAlias = Mapping[str, NDArray[Any]]
"""Input name -> array; `input_ids` and `attention_mask` are int64 [batch, sequence]."""


@runtime_checkable
class Engine(Protocol):
    """A compiled model of one fixed shape. One thread at a time may use it."""

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
        """Names, types and fixed shapes of what `infer` takes: all of them, nothing else."""
        ...

    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Output name -> array the caller owns; `logits` is float32 [batch, labels]. Raises `FeedError`."""
        ...

    def close(self) -> None:
        """Frees what the engine holds; may be called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Backend(Protocol):
    """Turns ONNX models into engines.

    `unavailable` is about building, `can_run` about running: TensorRT for RTX builds plans without a GPU.
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

    def compile(self, onnx: bytes | Path, target: EngineTarget, out: Path) -> Path:
        """Writes the engine's files into the folder `out`, whole or not at all; returns the one to `load`."""
        ...

    def load(self, artifact: Path, target: EngineTarget) -> Engine:
        """An engine from what `compile` wrote."""
        ...

    def open(self, onnx: bytes | Path, target: EngineTarget) -> Engine:
        """An engine compiled in memory."""
        ...


def backend(name: str) -> Backend:
    """The backend of that name, its package not yet imported. Raises `UnsupportedTarget` if unknown."""
    if name not in BACKENDS:
        raise UnsupportedTarget(f"no backend is called {name!r}; there are {', '.join(sorted(BACKENDS))}")
    found: Backend = importlib.import_module(BACKENDS[name]).BACKEND
    return found


class EngineBase:
    """What all engines share: the context manager, and refusing to run once closed."""

    def close(self) -> None:
        """Frees what the engine holds; may be called twice."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class FeedCheck:
    """Refuses feeds that do not match `inputs`; a few dictionary look-ups when they do."""

    def __init__(self, inputs: tuple[TensorSpec, ...]) -> None:
        self.inputs = inputs
        self._wanted = tuple((x.name, np.dtype(x.dtype), x.shape) for x in inputs)

    def __call__(self, feeds: Feeds) -> None:
        """Raises `FeedError` naming the first input that is missing, unknown, or of another type or shape."""
        if len(feeds) == len(self._wanted):
            for name, dtype, shape in self._wanted:
                array = feeds.get(name)
                if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
                    break
            else:
                return
        raise FeedError(self._explain(feeds))

    def _explain(self, feeds: Feeds) -> str:
        takes = "; the engine takes " + ", ".join(map(str, self.inputs))
        for name, dtype, shape in self._wanted:
            if name not in feeds:
                return f"input {name} is missing, got {', '.join(feeds) or 'nothing'}{takes}"
            array: object = feeds[name]
            if not isinstance(array, np.ndarray):
                return f"input {name} must be a numpy array, got {type(array).__name__}{takes}"
            if array.shape != shape or array.dtype != dtype:
                return f"input {name} is {array.dtype}{list(array.shape)}{takes} (pad or cut to its one shape)"
        unknown = sorted(set(feeds) - {name for name, _, _ in self._wanted})
        return f"unknown input {', '.join(unknown)}{takes}"


def static_dims(name: str, shape: tuple[int | str | None, ...], wanted: Shape) -> tuple[int, int]:
    """The fixed [batch, sequence] of a model input; raises `UnsupportedTarget` if the model fixes another."""
    if len(shape) != 2:
        raise UnsupportedTarget(
            f"model inputs are [batch, sequence], but {name} has {len(shape)} dimensions: {list(shape)}"
        )
    for axis, have, want in zip(("batch", "sequence"), shape, wanted.dims, strict=True):
        if type(have) is int and have > 0 and have != want:
            raise UnsupportedTarget(
                f"the target asks for {axis} {want}, but the model fixes {name} at {have}; "
                f"export it with a free {axis} dimension or ask for {have}"
            )
    return wanted.dims


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
