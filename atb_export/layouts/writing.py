"""What every layout is written with: a folder that appears whole, and copies that are checked while they are made."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from atb_export.errors import AtbError
from runtime.errors import BundleError
from runtime.manifest import Bundle

_CHUNK = 1 << 20


class LayoutError(AtbError):
    """The bundle cannot be laid out as asked; the message says what can."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A finished layout: its folder, the model's name in it, the engines it serves, and what its user should know."""

    folder: Path
    name: str
    engines: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """Every file, as a path in the folder."""
        return tuple(sorted(x.relative_to(self.folder).as_posix() for x in self.folder.rglob("*") if x.is_file()))

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum((self.folder / name).stat().st_size for name in self.files)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields an empty folder beside `out` that becomes `out` at the end, or vanishes on an error.

    Raises `LayoutError` where `out` exists.
    """
    if out.exists() or out.is_symlink():
        raise LayoutError(f"{out} exists already; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield aside
        os.chmod(aside, 0o755)  # noqa: S103 - a layout is for whoever may read its parent
        aside.replace(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def copy_checked(bundle: Bundle, name: str, to: Path) -> None:
    """Copies a file of the bundle, hashing the very bytes that are written; raises `BundleError` if they changed."""
    to.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with (bundle.folder / name).open("rb") as source, to.open("xb") as target:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())
    if digest.hexdigest() != bundle.manifest.files[name].sha256:
        raise BundleError(f"{bundle.folder / name} changed while it was copied; fetch or build the bundle again")


def write_text(path: Path, text: str) -> None:
    """A UTF-8 file whose folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def plain_name(name: str) -> str:
    """A name that is safe as a folder, a URL's part and a configuration's text."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-")[:80] or "model"


def plain_line(text: str) -> str:
    """One line without the signs of Markdown, HTML or a table: names and labels come from strangers."""
    return "".join(" " if c in "|<>`[]" or not c.isprintable() else c for c in text)
