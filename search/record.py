"""The record of a search on disk: every evaluation as soon as it is known, so that a killed one goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from search.candidate import Candidate
from search.errors import RecordError
from supernet.space import SearchSpace

_KIND, _SCHEMA = "atb-search-record", 1


def space_fingerprint(space: SearchSpace) -> str:
    """Sha256 (hexadecimal) of the space's choices."""
    text = json.dumps(dataclasses.asdict(space), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Record:
    """An append-only JSONL file: a header that names the search, then one line per evaluation, each fsync'ed.

    Make it by `Record.open`. One process writes it at a time.
    """

    def __init__(self, path: Path, header: dict[str, Any], candidates: list[Candidate], size_bytes: int) -> None:
        self.path = path
        self._header = header
        self._candidates = candidates
        self._size_bytes = size_bytes

    @classmethod
    def open(cls, path: Path, *, space: SearchSpace, constraint_ms: float, seed: int, context: str = "") -> Record:
        """Opens the record of this search, or begins it where there is none; drops a torn last line.

        `context` names whatever else the numbers hold for (the weights, the engine target): a fingerprint.
        Raises `RecordError` where the file is damaged or belongs to another search.
        """
        header = {
            "kind": _KIND,
            "schema": _SCHEMA,
            "space": space_fingerprint(space),
            "constraint_ms": float(constraint_ms),
            "seed": seed,
            "context": context,
        }
        if not path.exists() or path.stat().st_size == 0:
            line = _line(header)
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            try:
                _write(aside, line, mode="wb")
                os.replace(aside, path)
            finally:
                aside.unlink(missing_ok=True)
            return cls(path, header, [], len(line))
        whole, newline, torn = path.read_bytes().rpartition(b"\n")
        lines = whole.split(b"\n")
        # The header comes whole (written aside, then renamed): without a line end this is no record.
        _require(path, lines[0] if newline else b"", header)
        candidates = [_read(path, i, line) for i, line in enumerate(lines[1:], start=2)]
        size_bytes = len(whole) + 1
        if torn:
            os.truncate(path, size_bytes)
        return cls(path, header, candidates, size_bytes)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All evaluations, in the order they were made."""
        return tuple(self._candidates)

    def require(self, *, space: SearchSpace, constraint_ms: float) -> None:
        """Raises `RecordError` unless this record is of a search in `space` under `constraint_ms`."""
        asked = self._header | {"space": space_fingerprint(space), "constraint_ms": float(constraint_ms)}
        _require(self.path, _line(self._header), asked)

    def append(self, candidate: Candidate) -> None:
        """Adds one evaluation; it is on disk when this returns. After an `OSError` the file is as before."""
        line = _line(candidate.to_json())
        found = self.path.stat().st_size
        if found != self._size_bytes:
            raise RecordError(
                f"only one search may write {self.path}, but it has {found} bytes instead of "
                f"{self._size_bytes}; "
                f"stop the other one, then resume"
            )
        try:
            _write(self.path, line, mode="ab")
        except OSError:
            os.truncate(self.path, self._size_bytes)
            raise
        self._size_bytes += len(line)
        self._candidates.append(candidate)


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _write(path: Path, data: bytes, *, mode: str) -> None:
    with open(path, mode) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _require(path: Path, line: bytes, header: dict[str, Any]) -> None:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("kind") != _KIND:
        raise RecordError(f"{path} exists but is not a record of a search; name another file, or move this one")
    different = [name for name in header if found.get(name) != header[name]]
    if different:
        listed = "; ".join(f"{name} is {found.get(name)!r}, asked is {header[name]!r}" for name in different)
        raise RecordError(
            f"{path} is the record of another search: {listed}. "
            f"Resume with what it was begun with, or delete it to begin anew"
        )


def _read(path: Path, number: int, line: bytes) -> Candidate:
    try:
        return Candidate.from_json(json.loads(line))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise RecordError(
            f"{path} line {number} is not an evaluation ({error}): the file was damaged. "
            f"Remove that line and all after it to resume from there, or delete the file to begin anew"
        ) from error
