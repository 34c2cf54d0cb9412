"""Runs a TensorRT engine on the GPU through cuda-python, which is imported only here and only when used."""

from __future__ import annotations

import ctypes
import importlib
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engine import EngineBase, FeedCheck, Feeds
from runtime.errors import AtbRuntimeError, BackendUnavailable
from runtime.onnx_file import TensorSpec
from runtime.target import EngineTarget

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def no_gpu() -> str | None:
    """None where a GPU can be used, else what is missing and how to get it."""
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        return f"there is no NVIDIA driver on this machine ({_DRIVER} cannot be loaded)"
    try:
        cuda = _cuda()
    except ImportError:
        return "the package cuda-python is not installed: pip install cuda-python"
    error, count = cuda.cudaGetDeviceCount()
    if int(error) != 0:
        return f"the NVIDIA driver answers {error!s}: update it, or give this process a GPU"
    return None if count > 0 else "the NVIDIA driver sees no GPU"


def compute_capability() -> str:
    """The first GPU's, such as "sm_89". Raises `BackendUnavailable`."""
    if (reason := no_gpu()) is not None:
        raise BackendUnavailable(reason)
    cuda = _cuda()
    attributes = cuda.cudaDeviceAttr
    numbers = [
        _done(cuda.cudaDeviceGetAttribute(attribute, 0))
        for attribute in (
            attributes.cudaDevAttrComputeCapabilityMajor,
            attributes.cudaDevAttrComputeCapabilityMinor,
        )
    ]
    return "sm_{}{}".format(*numbers)


class TensorRtEngine(EngineBase):
    """One execution context on one stream, with device buffers that are reused by every call."""

    def __init__(
        self, trt: Any, engine: Any, target: EngineTarget, effective_precision: str, *, keep: object = None
    ) -> None:
        """`keep` is held as long as the engine: its runtime and logger must not go first."""
        self.target = target
        self.effective_precision = effective_precision
        self._cuda = _cuda()
        self._engine = engine
        self._keep = keep
        self._device: dict[str, int] = {}
        self._stream: Any = None
        self._context = engine.create_execution_context()
        if self._context is None:
            raise AtbRuntimeError("TensorRT cannot make an execution context; is the GPU's memory full?")
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        taken = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        try:
            self._stream = _done(self._cuda.cudaStreamCreate())
            for name in taken:
                self._context.set_input_shape(name, target.shape.dims)
            buffers = {name: self._allocate(trt, name) for name in names}
        except BaseException:
            self.close()
            raise
        self.inputs = tuple(TensorSpec(name=x, shape=buffers[x][0], dtype=buffers[x][1].name) for x in taken)
        self._outputs = [(name, *buffers[name]) for name in names if name not in taken]
        self._check = FeedCheck(self.inputs)

    def _allocate(self, trt: Any, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Gives a tensor its device memory; returns its shape and type."""
        dtype = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))
        shape = tuple(self._context.get_tensor_shape(name))
        self._device[name] = _done(self._cuda.cudaMalloc(int(np.prod(shape)) * dtype.itemsize))
        self._context.set_tensor_address(name, self._device[name])
        return shape, dtype

    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Output name -> array that the caller owns; copying to and from the GPU is part of it."""
        if self._context is None:
            raise AtbRuntimeError(f"the engine {self.target.label} is closed; open or load it again")
        self._check(feeds)
        cuda, stream = self._cuda, self._stream
        kinds = cuda.cudaMemcpyKind
        held = [np.ascontiguousarray(feeds[x.name]) for x in self.inputs]  # alive until the stream is done
        for spec, array in zip(self.inputs, held, strict=True):
            address, kind = array.ctypes.data, kinds.cudaMemcpyHostToDevice
            _done(cuda.cudaMemcpyAsync(self._device[spec.name], address, array.nbytes, kind, stream))
        if not self._context.execute_async_v3(int(stream)):
            raise AtbRuntimeError(f"TensorRT could not run the engine {self.target.label}")
        results = {name: np.empty(shape, dtype) for name, shape, dtype in self._outputs}
        for name, array in results.items():
            address, kind = array.ctypes.data, kinds.cudaMemcpyDeviceToHost
            _done(cuda.cudaMemcpyAsync(address, self._device[name], array.nbytes, kind, stream))
        _done(cuda.cudaStreamSynchronize(stream))
        return results

    def close(self) -> None:
        """Frees device memory and the stream; may be called twice."""
        if self._context is None:
            return
        self._context = self._engine = self._keep = None
        for address in self._device.values():
            self._cuda.cudaFree(address)
        self._device.clear()
        if self._stream is not None:
            self._cuda.cudaStreamDestroy(self._stream)


def _done(answer: Any) -> Any:
    """The value of a CUDA call, which answers (error, value...). Raises `AtbRuntimeError`."""
    error, *values = answer
    if int(error) != 0:
        raise AtbRuntimeError(f"CUDA answers {error!s}")
    return values[0] if values else None


def _cuda() -> Any:
    """The runtime API of cuda-python 12.6 or later, or of an earlier one. Raises `ImportError`."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        return importlib.import_module("cuda.cudart")
