"""The native programs: where they are, and what to do where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import runtime
from atb_export.serving.errors import ServingError

PROGRAMS = {
    "atb-server": "the native server",
    "atb-load": "the load generator",
    "atb-overhead": "the benchmark of engine and tokenizer alone (built with -DATB_TESTS=ON, never installed)",
}


def native_program(name: str, folder: Path | None = None) -> Path:
    """`name` of `folder` or of the installed package. Raises `ServingError` saying how to get it."""
    folders = [folder] if folder is not None else [Path(x) / "_bin" for x in runtime.__path__]
    for place in folders:
        path = place / name
        if path.is_file() and os.access(path, os.X_OK):
            return path.absolute()
    looked = " or ".join(str(x) for x in folders)
    raise ServingError(
        f"{PROGRAMS[name]} {name} is not in {looked}: it is built when the package is installed where there is a C++20 "
        "compiler (Debian, Ubuntu: apt-get install g++), by pip install --force-reinstall --no-deps . in the source "
        "folder; or build it with cmake (see CONTRIBUTING.md) and name the folder that holds it with --bin or ATB_BIN"
    )
