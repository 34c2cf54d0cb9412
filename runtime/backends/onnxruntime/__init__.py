"""ONNX Runtime: the independent second opinion on what a model computes, and an engine on the CPU and on CUDA."""

from runtime.backends.onnxruntime.backend import BACKEND, OnnxRuntimeBackend
from runtime.backends.onnxruntime.free_session import FreeSession

__all__ = ["BACKEND", "FreeSession", "OnnxRuntimeBackend"]
