"""OpenVINO: compiles ONNX in memory or to an IR file, for one shape or any up to one, and a thread count."""

from runtime.backends.openvino.backend import BACKEND, OpenVinoBackend
from runtime.backends.openvino.core import capabilities

__all__ = ["BACKEND", "OpenVinoBackend", "capabilities"]
