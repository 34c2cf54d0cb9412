"""A model of any shape under ONNX Runtime: no engine, but what engines are calibrated by and held against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from runtime.backends.onnxruntime import session
from runtime.engine import Feeds
from runtime.errors import BackendUnavailable, CompileError
from runtime.onnx_reader import CONTRIBUTED, check_onnx


class FreeSession:
    """On the CPU. Not `optimised`, every node is run as written: Q/DQ round, and what lies between them is float32."""

    def __init__(self, onnx: bytes | Path, *, optimised: bool, threads: int = 1) -> None:
        """Raises `BackendUnavailable`, or `CompileError` for a model that ONNX Runtime cannot open."""
        if (reason := session.unavailable()) is not None:
            raise BackendUnavailable(reason)
        check_onnx(onnx, extra_domains=CONTRIBUTED)
        source = onnx if isinstance(onnx, bytes) else str(onnx)
        options = session.session_options(threads, optimised=optimised)
        try:
            self._session = session.onnxruntime().InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise CompileError(f"ONNX Runtime cannot open the model: {str(error)[:600]}") from error
        self.inputs = tuple(x.name for x in self._session.get_inputs())
        self._outputs = [x.name for x in self._session.get_outputs()]

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Output name -> array, for `inputs` of any one [batch, sequence]."""
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))
