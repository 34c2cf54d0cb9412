"""Files named by their content, and written so that they appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sha256_of(path: Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Yields an empty folder; the files left in it move into `folder` at the end, or vanish on an error.

    They move in the order of their names: what vouches for another file has a later name (`model.xml` after
    `model.bin`, `plan.json` after `model.plan`).
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".aside-", dir=folder))
    try:
        yield aside
        for path in sorted(aside.iterdir()):
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if new and not any(folder.iterdir()):
            folder.rmdir()


def write_whole(path: Path, data: bytes) -> None:
    """Replaces `path` by a file of these bytes, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for the owner alone; a bundle is for whoever may read the folder.
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
