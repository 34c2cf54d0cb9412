"""Which of the two packages is used, and what it says while it works."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from runtime.errors import BackendUnavailable

FLAVOURS = ("tensorrt_rtx", "tensorrt")


def flavour(wanted: str | None = None) -> str:
    """`wanted`, else the first package that is installed and imports. Raises `BackendUnavailable`."""
    reasons = []
    for name in FLAVOURS if wanted is None else (wanted,):
        if name not in FLAVOURS or importlib.util.find_spec(name) is None:
            continue
        try:
            importlib.import_module(name)
        except Exception as error:
            reasons.append(f"{name} is installed but does not import: {error}")
        else:
            return name
    if reasons:
        raise BackendUnavailable("; ".join(reasons))
    missing = f"the package {wanted} is not" if wanted else "neither tensorrt nor tensorrt_rtx is"
    raise BackendUnavailable(
        f"{missing} installed: pip install 'atb-export[tensorrt-rtx]' (builds without a GPU) "
        "or 'atb-export[tensorrt]' (needs one)"
    )


def new_log(trt: Any) -> Any:
    """A logger that prints nothing and keeps the errors for the messages of our own."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def errors_of(log: Any) -> str:
    """The last of what it was told."""
    return " | ".join(log.errors[-3:])[:800] or "no reason given"
