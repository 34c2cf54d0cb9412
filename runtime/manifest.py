"""A bundle: a folder whose `manifest.json` names every file by its hash, and the engines among them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, get_args

from runtime.errors import BundleError
from runtime.files import sha256_of, write_whole
from runtime.onnx_reader import read_onnx
from runtime.target import EngineTarget

MANIFEST_FILE = "manifest.json"
SCHEMA = 1
Task = Literal["classification", "regression"]


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """What a listed file must be."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        _text("sha256", self.sha256)
        if type(self.bytes) is not int or self.bytes < 0:
            raise ValueError(f"bytes is a number of bytes, got {self.bytes!r}")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What the model answers.

    `labels` are in the order of its logits; regression has one, the quantity's name. `subnet` is the
    architecture's plain data, or None where it has none of ours. `tokenizer` is a path in the bundle.
    """

    task: Task
    labels: tuple[str, ...]
    max_length: int
    subnet: Mapping[str, Any] | None = None
    tokenizer: str = "tokenizer.json"

    def __post_init__(self) -> None:
        if self.task not in get_args(Task):
            raise ValueError(f"task is one of {', '.join(get_args(Task))}, got {self.task!r}")
        if len(self.labels) < 2 if self.task == "classification" else len(self.labels) != 1:
            raise ValueError(f"classification has 2 labels or more, regression 1; got {len(self.labels)}")
        if any(not isinstance(x, str) for x in self.labels) or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels are different texts, got {self.labels}")
        if type(self.max_length) is not int or self.max_length < 1:
            raise ValueError(f"max_length is a number of tokens, got {self.max_length!r}")
        _text("tokenizer", self.tokenizer)


@dataclass(frozen=True, kw_only=True)
class EngineEntry:
    """A compiled engine: its target, the path in the bundle to `Backend.load`, and its real precision."""

    target: EngineTarget
    artifact: str
    effective_precision: str

    def __post_init__(self) -> None:
        _text("artifact", self.artifact)
        _text("effective_precision", self.effective_precision)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `manifest.json`.

    `parents` maps what this bundle was made from ("dense", "supernet", "teacher") to a SHA-256; `numbers` is
    plain data. `files` is filled in by `write_manifest`. No two engines have the same target.
    """

    name: str
    model: ModelFacts
    engines: tuple[EngineEntry, ...]
    parents: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _text("name", self.name)
        labels = [x.target.label for x in self.engines]
        if twice := sorted({x for x in labels if labels.count(x) > 1}):
            raise ValueError(f"each engine has a target of its own; there are several of {', '.join(twice)}")

    def groups(self) -> dict[str, tuple[EngineEntry, ...]]:
        """`EngineTarget.group` -> the engines that differ in length only, shortest first."""
        found: dict[str, list[EngineEntry]] = {}
        for entry in self.engines:
            found.setdefault(entry.target.group, []).append(entry)
        return {name: tuple(sorted(of, key=lambda x: x.target.shape.length)) for name, of in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        subnet = self.model.subnet
        return {
            "schema": SCHEMA,
            "name": self.name,
            "model": {
                "task": self.model.task,
                "labels": list(self.model.labels),
                "max_length": self.model.max_length,
                "subnet": None if subnet is None else dict(subnet),
                "tokenizer": self.model.tokenizer,
            },
            "engines": [
                {"target": x.target.to_json(), "artifact": x.artifact, "effective_precision": x.effective_precision}
                for x in self.engines
            ],
            "parents": dict(self.parents),
            "numbers": dict(self.numbers),
            "files": {path: {"sha256": x.sha256, "bytes": x.bytes} for path, x in sorted(self.files.items())},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """Raises `ValueError`, `KeyError` or `TypeError` where it is not a manifest of this schema."""
        if type(schema := data["schema"]) is not int or schema != SCHEMA:
            newer = type(schema) is int and schema > SCHEMA
            advice = "written by a newer atb-export, so update this one" if newer else "build the bundle again"
            raise ValueError(f"schema {schema!r} is unknown, this version reads {SCHEMA}: {advice}")
        model = data["model"]
        return cls(
            name=data["name"],
            model=ModelFacts(
                task=model["task"],
                labels=tuple(model["labels"]),
                max_length=model["max_length"],
                subnet=model["subnet"],
                tokenizer=model["tokenizer"],
            ),
            engines=tuple(
                EngineEntry(
                    target=EngineTarget.from_json(x["target"]),
                    artifact=x["artifact"],
                    effective_precision=x["effective_precision"],
                )
                for x in data["engines"]
            ),
            parents=dict(data["parents"]),
            numbers=dict(data["numbers"]),
            files={path: FileEntry(sha256=x["sha256"], bytes=x["bytes"]) for path, x in data["files"].items()},
        )


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A folder that was checked against its manifest, file by file."""

    folder: Path
    manifest: Manifest

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's file."""
        return self.folder / self.manifest.model.tokenizer

    def artifact(self, entry: EngineEntry) -> Path:
        """The file to give to `Backend.load`."""
        return self.folder / entry.artifact


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Hashes every file under `folder`, writes `manifest.json` as the last of them, and returns what it says.

    Raises `BundleError` for links, for engines or a tokenizer that are not there, and for ONNX models with weights in
    files that are not there.
    """
    paths, problems = _walk(folder)
    files = {path: FileEntry(sha256=sha256_of(folder / path), bytes=(folder / path).stat().st_size) for path in paths}
    complete = replace(manifest, files=files)
    _refuse(folder, problems + _unlisted_references(folder, complete))
    data = complete.to_json()
    write_whole(folder / MANIFEST_FILE, _as_written({**data, "sha256": _own_hash(data)}))
    return complete


def read_bundle(folder: Path) -> Bundle:
    """Reads the manifest and hashes every file. Raises `BundleError` naming what is not as it says."""
    path = folder / MANIFEST_FILE
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST_FILE}")
    try:
        written = path.read_bytes()
        data = json.loads(written, object_pairs_hook=_no_twins)
        manifest = Manifest.from_json(data)
        same = written == _as_written(data)
        own = data.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path} is not a manifest: {error!r}") from error
    unsafe = [f"{name!r} leaves the bundle" for name in manifest.files if not _stays_inside(name)]
    _refuse(folder, unsafe)  # before any of them is opened
    there, problems = _walk(folder)
    problems += [f"{name} is missing" for name in manifest.files if name not in there]
    problems += [f"{name} is not listed" for name in sorted(there) if name not in manifest.files]
    for name, entry in manifest.files.items():
        if name in there and (reason := _changed(folder / name, entry)) is not None:
            problems.append(f"{name} {reason}")
    if not same or own != _own_hash(data):
        problems.append(f"{MANIFEST_FILE} has changed: it is not as it was written")
    problems += _unlisted_references(folder, manifest)
    _refuse(folder, problems)
    return Bundle(folder=folder, manifest=manifest)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two values under one name others may read the first, so none is read."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(x for x in names if names.count(x) > 1)!r} is there twice")
    return found


def _as_written(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()


def _own_hash(data: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's content without the hash itself; against accidents, not against forgers."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _walk(folder: Path) -> tuple[set[str], list[str]]:
    """The plain files under `folder` without the manifest, and what is neither file nor folder."""
    found, problems = set(), []
    for here, folders, names in os.walk(folder):
        for name in folders + names:
            path = Path(here, name)
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink():
                problems.append(f"{relative} is a link: a bundle holds plain files")
            elif name in names and not path.is_file():
                problems.append(f"{relative} is not a plain file")
            elif name in names and relative != MANIFEST_FILE:
                found.add(relative)
    return found, problems


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        name == path.as_posix()
        and name not in (".", MANIFEST_FILE)
        and ".." not in path.parts
        and not path.is_absolute()
        and "\\" not in name
        and "\0" not in name
        and not PureWindowsPath(name).drive
    )


def _changed(path: Path, entry: FileEntry) -> str | None:
    if (size := path.stat().st_size) != entry.bytes:
        return f"has {size} bytes, the manifest says {entry.bytes}"
    if sha256_of(path) != entry.sha256:
        return "has changed: its SHA-256 is not the manifest's"
    return None


def _unlisted_references(folder: Path, manifest: Manifest) -> list[str]:
    """What the engines, the tokenizer and the ONNX models need beside them and the manifest does not list."""
    wanted = [(f"{x.target.label} is at", x.artifact) for x in manifest.engines]
    wanted.append(("the tokenizer is at", manifest.model.tokenizer))
    problems = []
    for name in sorted(x for x in manifest.files if x.lower().endswith(".onnx") and (folder / x).is_file()):
        try:
            used = sorted({x.location for x in read_onnx(folder / name).external})
        except ValueError as error:
            problems.append(f"{name} is not an ONNX model: {error}")
        else:
            wanted += [(f"weights of {name} are at", (PurePosixPath(name).parent / x).as_posix()) for x in used]
    return problems + [f"{who} {path}, which is not a file of it" for who, path in wanted if path not in manifest.files]


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} is a text, got {value!r}")


def _refuse(folder: Path, problems: list[str]) -> None:
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise BundleError(
            f"the bundle {folder} is not intact: {'; '.join(problems[:5])}{more}. Fetch or build it again"
        )
