"""NVIDIA's CUDA runtime through cuda-python, which is imported only here and only when used."""

from __future__ import annotations

import ctypes
import importlib
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import AtbRuntimeError, BackendUnavailable

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def no_gpu() -> str | None:
    """None where a GPU can be used, else what is missing and how to get it."""
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        return f"there is no NVIDIA driver on this machine ({_DRIVER} cannot be loaded)"
    try:
        cuda = cuda_runtime()
    except ImportError:
        return "the package cuda-python is not installed: pip install cuda-python"
    error, count = cuda.cudaGetDeviceCount()
    if int(error) != 0:
        return f"the NVIDIA driver answers {error!s}: update it, or give this process a GPU"
    return None if count > 0 else "the NVIDIA driver sees no GPU"


def gpu() -> tuple[str, str]:
    """The first GPU's compute capability and name, such as "sm_89" and "NVIDIA L4". Raises `BackendUnavailable`."""
    if (reason := no_gpu()) is not None:
        raise BackendUnavailable(reason)
    found = done(cuda_runtime().cudaGetDeviceProperties(0))
    return f"sm_{found.major}{found.minor}", found.name.split(b"\0")[0].decode(errors="replace").strip()


def done(answer: Any) -> Any:
    """The value of a CUDA call, which answers (error, value...). Raises `AtbRuntimeError`."""
    error, *values = answer
    if int(error) != 0:
        raise AtbRuntimeError(f"CUDA answers {error!s}")
    return values[0] if values else None


def cuda_runtime() -> Any:
    """The runtime API of cuda-python 12.6 or later, or of an earlier one. Raises `ImportError`."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        return importlib.import_module("cuda.cudart")


class Buffer:
    """A tensor's memory on the device, and as much of the host's that the device can read and write by itself."""

    def __init__(self, cuda: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """`shape` is the largest it will hold."""
        self._cuda = cuda
        self.dtype = dtype
        self.device = self._host = 0
        size = max(int(np.prod(shape)) * dtype.itemsize, 1)
        try:
            self.device = int(done(cuda.cudaMalloc(size)))
            self._host = int(done(cuda.cudaMallocHost(size)))
        except BaseException:
            self.close()
            raise
        self._memory = memoryview((ctypes.c_char * size).from_address(self._host)).cast("B")
        self.reshape(shape)

    def reshape(self, shape: tuple[int, ...]) -> None:
        """From now on `view` and the copies are of this shape."""
        count = int(np.prod(shape))
        self.view: NDArray[Any] = np.frombuffer(self._memory, self.dtype, count).reshape(shape)

    def upload(self, stream: Any) -> None:
        """Queues the copy from host to device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        done(self._cuda.cudaMemcpyAsync(self.device, self._host, self.view.nbytes, kind, stream))

    def download(self, stream: Any) -> None:
        """Queues the copy from device to host."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        done(self._cuda.cudaMemcpyAsync(self._host, self.device, self.view.nbytes, kind, stream))

    def close(self) -> None:
        """Frees both; may be called twice."""
        device, host, self.device, self._host = self.device, self._host, 0, 0
        if device:
            self._cuda.cudaFree(device)
        if host:
            self._cuda.cudaFreeHost(host)
