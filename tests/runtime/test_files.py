from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from runtime.files import appearing, sha256_of, write_whole


def test_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 100_000)
    assert sha256_of(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_files_appear_at_the_end_only(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with appearing(out) as aside:
        (aside / "x").write_text("new")
        assert not (out / "x").exists()
        assert aside.stat().st_dev == out.stat().st_dev
    assert [p.name for p in out.iterdir()] == ["x"]
    assert (out / "x").read_text() == "new"


def test_nothing_appears_after_an_error_and_the_old_stays(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")

    def half_done() -> None:
        with appearing(tmp_path) as aside:
            (aside / "x").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half_done()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_they_move_in_the_order_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (moved.append(self.name), replace(self, to))[1])
    with appearing(tmp_path) as aside:
        for name in ("model.xml", "model.bin"):
            (aside / name).write_text("")
    assert moved == ["model.bin", "model.xml"]


def test_write_whole_replaces_and_is_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "new" / "m.json"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["m.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_write_whole_leaves_the_old_when_the_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.json"]
