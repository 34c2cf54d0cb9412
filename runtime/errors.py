"""Every error the engine world raises, in one tree.

AtbRuntimeError
├── BackendUnavailable   the package, driver or device is not on this machine
├── UnsupportedTarget    it is, but cannot do what the target asks
├── CompileError         the backend refused the model
├── FeedError            inputs of the wrong name, type or shape (also a ValueError)
└── BundleError          an artifact or bundle is not what its manifest says
"""

from __future__ import annotations


class AtbRuntimeError(Exception):
    """Base of all errors of `runtime` that a caller may want to catch."""


class BackendUnavailable(AtbRuntimeError):  # noqa: N818 - reads as what it says
    """A package, driver or device is missing here; the message says how to get it."""


class UnsupportedTarget(AtbRuntimeError):  # noqa: N818
    """The backend works but cannot give what the target asks; nothing is silently replaced."""


class CompileError(AtbRuntimeError):
    """The backend could not turn the ONNX model into an engine."""


class FeedError(AtbRuntimeError, ValueError):
    """An engine was fed other names, types or shapes than it takes."""


class BundleError(AtbRuntimeError):
    """Files are missing, changed, unlisted or unsafe."""
