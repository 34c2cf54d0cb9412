"""The folder of a run: one sub-folder per stage, each with a marker that says for what it is valid.

A stage is done when its `done.json` carries the fingerprint of everything it was made from and every file it names
still has its hash. A stage begun for other inputs is wiped; one begun for the same inputs is continued.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atb_export.errors import WorkspaceError
from runtime.files import sha256_of, write_whole

_STARTED, _DONE = "started.json", "done.json"


def fingerprint_of(*parts: object) -> str:
    """sha256 (hexadecimal) of plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_json(path: Path, data: Any) -> None:
    """A JSON file, whole or not at all."""
    write_whole(path, (json.dumps(data, indent=1) + "\n").encode())


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a finished stage left: its folder, its plain-data result, and how long it took."""

    folder: Path
    fingerprint: str
    result: dict[str, Any]
    seconds: float


class Workspace:
    """`with Workspace.open(folder, resume=...) as run:` one process at a time."""

    def __init__(self, folder: Path, base: Path | None = None) -> None:
        self.folder = folder
        self.base = base
        self.seconds: dict[str, float] = {}

    @classmethod
    @contextmanager
    def open(cls, folder: Path, *, resume: bool, base: Path | None = None) -> Iterator[Workspace]:
        """Stages that the run in `base` has done for the same inputs are read from there.

        Raises `WorkspaceError` where the folder holds a run and `resume` is not asked, or is in use.
        """
        if not resume and any(x.name != _STARTED for x in (folder / "stages").glob("*/*")):
            raise WorkspaceError(f"{folder} already holds a run. Continue it with --resume, or delete the folder")
        try:
            (folder / "stages").mkdir(parents=True, exist_ok=True)
            lock = (folder / ".lock").open("w")
        except OSError as error:
            raise WorkspaceError(f"the output folder {folder} cannot be written: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WorkspaceError(f"another process is working in {folder}; wait for it or stop it") from None
            yield cls(folder, base)

    def stage(self, name: str, inputs: object, make: Callable[[Path], dict[str, Any]]) -> Stage:
        """The stage's result: read back where it is done for these `inputs`, else made by `make(folder)`."""
        folder = self.folder / "stages" / name
        wanted = fingerprint_of(name, inputs)
        stage = self._finished(name, folder, wanted)
        if stage is None and self.base is not None:
            stage = self._finished(name, self.base / "stages" / name, wanted)
        if stage is None:
            if _marker(folder / _STARTED).get("fingerprint") != wanted:
                shutil.rmtree(folder, ignore_errors=True)
            for leftover in folder.glob(".*"):  # of a killed process: files and folders it wrote aside
                shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink()
            write_json(folder / _STARTED, {"fingerprint": wanted})
            start = time.monotonic()
            result = make(folder)
            seconds = time.monotonic() - start
            files = [x for x in sorted(folder.rglob("*")) if x.is_file() and x.name not in (_STARTED, _DONE)]
            hashes = {x.relative_to(folder).as_posix(): sha256_of(x) for x in files}
            done = {"fingerprint": wanted, "seconds": seconds, "files": hashes, "result": result}
            write_json(folder / _DONE, done)
            stage = Stage(folder=folder, fingerprint=wanted, result=result, seconds=seconds)
        self.seconds[name] = stage.seconds
        return stage

    def _finished(self, name: str, folder: Path, wanted: str) -> Stage | None:
        done = _marker(folder / _DONE)
        if done.get("fingerprint") != wanted:
            return None
        for file, digest in done["files"].items():
            path = folder / file
            if not path.is_file() or sha256_of(path) != digest:
                state = "changed since it was written" if path.is_file() else "is gone"
                raise WorkspaceError(f"{path} {state}. Delete {folder} and resume: the stage {name!r} runs again")
        return Stage(folder=folder, fingerprint=wanted, result=done["result"], seconds=done["seconds"])


def _marker(path: Path) -> dict[str, Any]:
    """A marker's content; nothing where it is missing or damaged, for then the stage was not finished."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
