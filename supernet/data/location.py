"""Where rows lie: files inside an installed package, local files and directories."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from supernet.errors import DataError

PACKAGE_PREFIX = "package:"
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".txt", ".raw")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "validation", "valid", "val"),
    "test": ("test", "testing"),
}


def package_path(path: str) -> Path:
    """The file or directory that `package:NAME/relative/path` names; the package is found, never imported.

    Raises `DataError` where the form is wrong, the package is not installed or holds no such path.
    """
    name, _, relative = path.removeprefix(PACKAGE_PREFIX).partition("/")
    if not path.startswith(PACKAGE_PREFIX) or not name.isidentifier() or not relative:
        raise DataError(f"a path inside a package is package:NAME/relative/path, got {path!r}")
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise DataError(f"{path!r} needs the Python package {name}, which is not installed; install it with pip")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    for folder in folders:
        found = Path(os.path.normpath(folder / relative))
        if found.is_relative_to(folder) and found.exists():
            return found
    where = ", ".join(map(str, folders)) or "a single module without files"
    raise DataError(f"the package {name} holds no {relative!r} (looked in {where})")


def local_path(path: str) -> Path | None:
    """The existing file or directory, or None where `path` can only be the name of a hub data set.

    Raises `DataError` where it is meant as a file and there is none.
    """
    if path.startswith(PACKAGE_PREFIX):
        return package_path(path)
    if not path or "\0" in path:
        raise DataError(f"a data path is a file, a directory, package:NAME/file or a hub name, got {path!r}")
    found = Path(path)
    if found.exists():
        return found
    looks_local = found.suffix.lower() in SUFFIXES or path[0] in "./~\\" or path.count("/") > 1 or path.endswith("/")
    if looks_local:
        raise DataError(f"there is no {path!r}; paths are relative to the current directory, {Path.cwd()}")
    return None


def files_of(path: Path, split: str | None) -> list[Path]:
    """The data files at `path`: itself, or, in a directory, the file or the numbered parts of that split.

    `dev`, `validation` and `val` are one split. A directory with one data file needs no split.
    """
    if not path.is_dir():
        return [path]
    known = sorted(f for f in path.iterdir() if f.is_file() and f.suffix.lower() in SUFFIXES)
    listed = ", ".join(f.name for f in known[:12]) or f"no file ending in {', '.join(SUFFIXES)}"
    if split is None:
        if len(known) == 1:
            return known
        raise DataError(f"{path} is a directory: name its split (train, dev or test); it holds {listed}")
    for name in _aliases(split):
        whole = [f for f in known if f.stem.lower() == name]
        parts = [f for f in known if f.stem.lower().startswith(f"{name}-")]
        if len(whole) > 1:
            raise DataError(
                f"{path} holds the split {split!r} twice ({', '.join(f.name for f in whole)}); name the file"
            )
        if whole or parts:
            return whole or parts
    raise DataError(f"{path} holds no split {split!r}; it holds {listed}")


def _aliases(split: str) -> tuple[str, ...]:
    for names in SPLIT_NAMES.values():
        if split.lower() in names:
            return (split.lower(), *(name for name in names if name != split.lower()))
    return (split.lower(),)
