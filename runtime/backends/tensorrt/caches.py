"""Files that spare the next build its timing and the next load its just-in-time compilation; never needed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from runtime.files import write_whole


def timing_file(cache: Path, trt: Any, devices: str) -> Path:
    """One per flavour, release and named GPUs: TensorRT refuses timings of another."""
    return cache / f"{trt.__name__}-{trt.__version__}-{devices.replace(',', '+')}.timings"


def attach_timings(config: Any, file: Path) -> None:
    """Gives the builder what earlier builds left in `file`, or an empty cache to fill."""
    for known in (_content(file), b""):
        with contextlib.suppress(Exception):  # bindings raise what they like for bytes that are no cache
            if (timings := config.create_timing_cache(known)) is not None and config.set_timing_cache(timings, False):
                return


def keep_timings(config: Any, file: Path) -> None:
    """Writes what the builder knows now."""
    timings = config.get_timing_cache()
    memory = None if timings is None else timings.serialize()
    _keep(file, memory)


def runtime_file(cache: Path, trt: Any, plan_sha256: str) -> Path:
    """One per plan and release; TensorRT for RTX itself refuses one of another GPU or driver."""
    return cache / f"{trt.__name__}-{trt.__version__}-{plan_sha256[:16]}.kernels"


class RuntimeCache:
    """Kernels that TensorRT for RTX compiles on the device for a plan, kept in a file from one process to the next."""

    def __init__(self, config: Any, file: Path) -> None:
        """Attaches to a runtime configuration that contexts are then made with."""
        self._file = file
        self._cache = config.create_runtime_cache()
        self._known = _content(file)
        if self._known:
            with contextlib.suppress(Exception):
                self._cache.deserialize(self._known)
        config.set_runtime_cache(self._cache)

    def keep(self) -> None:
        """Writes it if there is more than was read."""
        _keep(self._file, self._cache.serialize(), known=self._known)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _keep(file: Path, memory: Any, *, known: bytes = b"") -> None:
    """A folder that cannot be written to costs the next call its time, and this one nothing."""
    data = b"" if memory is None else bytes(memory)
    if data and data != known:
        with contextlib.suppress(OSError):
            write_whole(file, data)
