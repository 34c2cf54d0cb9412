"""The native parts' own tests, where they were built: by `make`, or in the folder that ATB_NATIVE_BUILD names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _folder() -> Path | None:
    """The build that was touched last."""
    if named := os.environ.get("ATB_NATIVE_BUILD"):
        return Path(named)
    built = [x.parent for x in ROOT.glob("build/*/CTestTestfile.cmake")]
    return max(built, key=lambda x: (x / "CMakeCache.txt").stat().st_mtime, default=None)


def _programs() -> list[Path]:
    folder = _folder()
    found = sorted((folder / "tests/runtime/native").glob("test_*")) if folder is not None else []
    return [x for x in found if x.is_file() and os.access(x, os.X_OK)]


def _keeps_its_laws(program: Path, folder: Path, cores: set[int] | None = None) -> None:
    done = subprocess.run(
        [program, "--color_output=no"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("program", _programs() or [None], ids=lambda x: x.name if x else "none")
def test_a_part_keeps_its_laws(program: Path | None, tmp_path: Path) -> None:
    if program is None:
        pytest.skip("no native tests are built here: cmake -S . -B build/native -G Ninja -DATB_TESTS=ON")
    _keeps_its_laws(program, tmp_path)


def test_the_server_keeps_its_laws_where_its_loop_computes(tmp_path: Path) -> None:
    server = next((x for x in _programs() if x.name == "test_server"), None)
    if server is None:
        pytest.skip("no native tests are built here: cmake -S . -B build/native -G Ninja -DATB_TESTS=ON")
    _keeps_its_laws(server, tmp_path, cores={min(os.sched_getaffinity(0))})
