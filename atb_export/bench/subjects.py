"""What the user wants to see side by side, as named on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from atb_export.bench.errors import BenchError
from runtime.errors import BundleError
from runtime.manifest import MANIFEST_FILE

Framework = Literal["torch", "torch.compile", "pipeline"]
Kind = Literal["bundle", "onnx", "torch", "torch.compile", "pipeline"]
FORMS = (
    "a bundle's folder, an ONNX file, or torch:FOLDER, torch.compile:FOLDER, pipeline:FOLDER of a transformers model"
)

_NAME = re.compile(r"(?P<name>[^=/\\:@]+)=(?P<rest>.+)")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """`[NAME=]BUNDLE[@ENGINE]`, `[NAME=]FILE.onnx[@BACKEND[:PRECISION]]` or `[NAME=]FRAMEWORK:FOLDER[@PRECISION]`."""

    kind: Kind
    path: Path
    engine: str | None = None
    name: str | None = None


def parse_subject(text: str) -> Subject:
    """A file or folder whose own name holds a "=" or "@" is taken as it is.

    Raises `BenchError` for what is not there or none of the forms, and `BundleError` for a folder that is no bundle.
    """
    name, rest = None, text
    if not Path(text).exists() and (named := _NAME.fullmatch(text)) is not None:
        name, rest = named["name"].strip(), named["rest"]
    framework, _, tail = rest.partition(":")
    kind = next((x for x in get_args(Framework) if x == framework and tail), None)
    path, engine = Path(tail if kind is not None else rest), None
    if not path.exists() and "@" in path.name:
        before, _, engine = str(path).rpartition("@")
        path = Path(before)
    if not path.exists():
        raise BenchError(f"{text!r} is no subject of a benchmark: there is no {path}. A subject is {FORMS}")
    if engine == "":
        raise BenchError(f"{text!r} names no engine after its @")
    if kind is not None:
        if not (path / "config.json").is_file():
            raise BenchError(f"{text!r}: {path} holds no model of transformers: it has no config.json")
        return Subject(kind=kind, path=path, engine=engine, name=name)
    if path.is_file():
        if path.suffix != ".onnx":
            raise BenchError(f"{text!r} is no subject of a benchmark: {path} is no .onnx file. A subject is {FORMS}")
        return Subject(kind="onnx", path=path, engine=engine, name=name)
    if not (path / MANIFEST_FILE).is_file():
        hint = f". Name the model of transformers in it torch:{path}" if (path / "config.json").is_file() else ""
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST_FILE}{hint}. A subject is {FORMS}")
    return Subject(kind="bundle", path=path, engine=engine, name=name)
