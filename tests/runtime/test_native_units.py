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


@pytest.mark.parametrize("program", _programs() or [None], ids=lambda x: x.name if x else "none")
def test_a_part_keeps_its_laws(program: Path | None, tmp_path: Path) -> None:
    if program is None:
        pytest.skip("no native tests are built here: cmake -S . -B build/native -G Ninja -DATB_TESTS=ON")
    done = subprocess.run([program, "--color_output=no"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
