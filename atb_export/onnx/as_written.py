"""A typed graph computed as it is written: every value rounded to its type, products summed in float32 as GPUs do.

ONNX Runtime drops the casts between its float32 kernels on a CPU, so that f16 neither rounds nor overflows there. Here
onnx's own evaluator walks the nodes; only what is slow in it, products and GELU, is computed otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


class _MatMul(OpRun):  # type: ignore[misc]
    """Float32 sums of products of rounded numbers, then rounded to their type."""

    op_domain = ""

    def _run(self, a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any]]:
        with np.errstate(over="ignore"):  # that it overflows is what is asked
            return (np.matmul(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype),)


_MatMul.__name__ = "MatMul"  # by which the evaluator finds it


class _Gelu(OpRun):  # type: ignore[misc]
    """The exact one, by the error function."""

    op_domain = ""

    def _run(self, x: NDArray[Any], approximate: str | None = None) -> tuple[NDArray[Any]]:
        wide = torch.from_numpy(x.astype(np.float32))  # a copy: weights cannot be written to
        return (torch.nn.functional.gelu(wide, approximate=approximate or "none").numpy().astype(x.dtype),)


_Gelu.__name__ = "Gelu"


class AsWritten:
    """`run` as `FreeSession` has it. Raises `ValueError` for a model that is none or has operators of others."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.inputs = tuple(x.name for x in model.graph.input)
        self._outputs = [x.name for x in model.graph.output]
        try:
            self._evaluator = ReferenceEvaluator(model, new_ops=[_MatMul, _Gelu])
        except Exception as error:
            raise ValueError(f"the model cannot be computed as it is written: {error}") from error

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Output name -> array."""
        with np.errstate(over="ignore", invalid="ignore"):
            return dict(zip(self._outputs, self._evaluator.run(self._outputs, dict(feeds)), strict=True))
