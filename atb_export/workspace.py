"""The folder of a run: one sub-folder per stage, each with a marker that says for what it is valid.

A stage is done when its `done.json` carries the fingerprint of everything it was made from and every file it names
still has its hash. A stage begun for other inputs is wiped; one begun for the same inputs is continued.

Several processes share one folder. The first makes what is not done, and writes; the others read it when it is there,
and take part in making what all make together. A run belongs to the number of processes that began it, for their
batches add up: other numbers of them may go on with all of it but the training.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from atb_export.errors import WorkspaceError
from runtime.files import sha256_of, write_whole
from supernet.processes import ALONE, Processes

Found = TypeVar("Found")
_STARTED, _DONE, _COUNT = "started.json", "done.json", "processes.json"
# A file that was written on one machine may be seen so much later on another.
_UNSEEN_S = 90.0


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
    """`with Workspace.open(folder, resume=...) as run:` one program at a time, of one or more `processes`."""

    def __init__(self, folder: Path, base: Path | None = None, processes: Processes = ALONE, trains: int = 1) -> None:
        self.folder = folder
        self.base = base
        self.processes = processes
        self.trains = trains  # how many processes the run is trained by
        self.seconds: dict[str, float] = {}
        self._alone = False
        self._read: dict[tuple[str, str], Stage] = {}

    @classmethod
    @contextmanager
    def open(
        cls, folder: Path, *, resume: bool, base: Path | None = None, processes: Processes = ALONE
    ) -> Iterator[Workspace]:
        """Stages that the run in `base` has done for the same inputs are read from there.

        Raises `WorkspaceError` where the folder holds a run and `resume` is not asked, is in use, or is not one folder
        for all processes.
        """
        if not processes.is_main:
            told = processes.hear("workspace")
            _wait_for(folder / ".lock", lambda: (folder / ".lock").read_text() == told["mark"])
            yield cls(folder, base, processes, told["trains"])
            return
        begun = any(x.name != _STARTED for x in (folder / "stages").glob("*/*"))
        if begun and not resume:
            raise WorkspaceError(f"{folder} already holds a run. Continue it with --resume, or delete the folder")
        try:
            (folder / "stages").mkdir(parents=True, exist_ok=True)
            lock = (folder / ".lock").open("a+")
        except OSError as error:
            raise WorkspaceError(f"the output folder {folder} cannot be written: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WorkspaceError(f"another process is working in {folder}; wait for it or stop it") from None
            lock.truncate(0)
            trains = _trained_by(folder, processes.count, begun=begun)
            if processes.count > 1:
                mark = uuid.uuid4().hex
                lock.write(mark)
                lock.flush()
                processes.tell("workspace", {"mark": mark, "trains": trains})
            yield cls(folder, base, processes, trains)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.processes.is_main

    def stage(
        self, name: str, inputs: object, make: Callable[[Path], dict[str, Any]], *, together: bool = False
    ) -> Stage:
        """The stage's result: read back where it is done for these `inputs`, else made by `make(folder)`.

        Of several processes the first makes it, and the others wait. `together` they all call `make` with the same
        folder: they train together there, and only the first writes (`is_main`). What it returns to others is left.
        """
        folder = self.folder / "stages" / name
        wanted = fingerprint_of(name, inputs)
        found = self._lead if self.is_main else self._follow
        stage = found(name, folder, wanted, make, together)
        self.seconds[name] = stage.seconds
        return stage

    def first(self, name: str, make: Callable[[], Found]) -> Found:
        """What `make` finds, for all of the same `name`: by the first process, which keeps it in files, then by the
        others, who find them."""
        if not self.is_main:
            self.processes.hear(name)
        found = make()
        if self.is_main:
            self.processes.tell(name)
        return found

    def _lead(
        self, name: str, folder: Path, wanted: str, make: Callable[[Path], dict[str, Any]], together: bool
    ) -> Stage:
        """The stage, in the process that makes it."""
        stage = self._finished(name, folder, wanted)
        if stage is None and self.base is not None:
            stage = self._finished(name, self.base / "stages" / name, wanted)
        if stage is None and together and self.trains != self.processes.count:
            raise WorkspaceError(
                f"the run in {self.folder} was begun by {self.trains} process(es) and goes on in "
                f"{self.processes.count}, but its stage {name!r} is not trained yet, and batches add up over "
                f"processes. Train it with {self.trains}, or choose another output"
            )
        told = {"fingerprint": wanted, "done": stage is not None}
        if together:
            assert stage is not None or not self._alone, f"the others do not take part in {name}"
            self.processes.tell(f"{name} is begun", told)
        if stage is None:
            if _marker(folder / _STARTED).get("fingerprint") != wanted:
                shutil.rmtree(folder, ignore_errors=True)
            for leftover in folder.glob(".*"):  # of a killed process: files and folders it wrote aside
                shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink()
            write_json(folder / _STARTED, {"fingerprint": wanted})
            start = time.monotonic()
            before, self._alone = self._alone, self._alone or not together
            result = make(folder)
            self._alone = before
            seconds = time.monotonic() - start
            files = [x for x in sorted(folder.rglob("*")) if x.is_file() and x.name not in (_STARTED, _DONE)]
            hashes = {x.relative_to(folder).as_posix(): sha256_of(x) for x in files}
            done = {"fingerprint": wanted, "seconds": seconds, "files": hashes, "result": result}
            write_json(folder / _DONE, done)
            stage = Stage(folder=folder, fingerprint=wanted, result=result, seconds=seconds)
        self.processes.tell(f"{name} is done", {"fingerprint": wanted, "folder": str(stage.folder)})
        return stage

    def _follow(
        self, name: str, folder: Path, wanted: str, make: Callable[[Path], dict[str, Any]], together: bool
    ) -> Stage:
        """The same in the others: what the first has told of it, read when it is there."""
        if (known := self._read.get((name, wanted))) is not None:
            return known
        if together and not self._told(f"{name} is begun", wanted)["done"]:
            make(folder)
        place = Path(self._told(f"{name} is done", wanted)["folder"])
        _wait_for(place / _DONE, lambda: _marker(place / _DONE).get("fingerprint") == wanted)
        done = _marker(place / _DONE)
        stage = Stage(folder=place, fingerprint=wanted, result=done["result"], seconds=done["seconds"])
        self._read[name, wanted] = stage
        return stage

    def _told(self, what: str, wanted: str) -> dict[str, Any]:
        told: dict[str, Any] = self.processes.hear(what)
        if told["fingerprint"] != wanted:
            raise WorkspaceError(
                f"process {self.processes.rank + 1} of {self.processes.count}: the first says that {what}, but of "
                "other inputs. All must have the same recipe, data and version"
            )
        return told

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


def _trained_by(folder: Path, count: int, *, begun: bool) -> int:
    """How many processes the run in the folder is of; a new one is of these."""
    path = folder / _COUNT
    if begun:
        return int(_marker(path).get("count", 1))
    path.unlink(missing_ok=True)
    if count > 1:
        write_json(path, {"count": count})
    return count


def _wait_for(path: Path, seen: Callable[[], bool]) -> None:
    """Until a file that another process has written is seen here."""
    until = time.monotonic() + _UNSEEN_S
    while True:
        try:
            if seen():
                return
        except OSError:
            pass
        if time.monotonic() > until:
            raise WorkspaceError(
                f"{path} is not what the first process wrote: all must see the same files. Put the output on a folder "
                "that all machines share"
            )
        time.sleep(0.05)


def _marker(path: Path) -> dict[str, Any]:
    """A marker's content; nothing where it is missing or damaged, for then the stage was not finished."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
