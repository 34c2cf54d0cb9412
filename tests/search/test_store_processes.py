"""Several processes at once, and processes that die."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search.store import Store, StoreError

ROOT = str(Path(__file__).parents[2])

# Every line on stdout acknowledges a row that must be there afterwards.
WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from search.store import EngineKey, Failure, Measurement, Store

path, name, count = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
where = dict(target="t", effective_precision="f32", batch=1, length=8, threads=1, runtime="r 1")
with Store.open(path) as store:
    history = store.history(f"search {name}", {"name": name})
    for i in range(len(history), len(history) + count):
        common = dict(reference="c" * 64, reference_ms=1, created="2026-03-01T12:00:00+00:00")
        common |= dict(ms=1 + i, ci_ms=(1, 9999), report={"samples_ms": [j / 7 for j in range(500)]})
        keys = [EngineKey(graph=f"{i:064x}", hardware=who, **where) for who in (name, "shared")]
        store.add(*(Measurement(key=key, **common) for key in keys))
        store.add(Failure(key=EngineKey(graph=f"{i:064x}", hardware="shared", **where), reason=name))
        history.append({"i": i})
        print(i, flush=True)
"""


def start(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, ROOT, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def require_whole(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_processes_that_begin_and_write_one_store_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "store.sqlite"
    writers = [start(path, f"w{i}", 25) for i in range(5)]
    said = [x.communicate(timeout=200) for x in writers]
    assert [x.returncode for x in writers] == [0] * 5, [err for _, err in said]
    require_whole(path)
    with Store.open(path, create=False) as store:
        for i in range(5):
            assert {x.key.graph for x in store.measurements(hardware=f"w{i}")} == {f"{j:064x}" for j in range(25)}
            assert store.recorded(f"search w{i}").candidates == tuple({"i": j} for j in range(25))
        assert len(store.measurements(hardware="shared")) == 25
        assert len(store.failures()) == 25
    assert sorted(os.listdir(path.parent)) == ["store.sqlite"]


@pytest.mark.parametrize("wait_rows", [0, 3, 17])
def test_what_a_killed_process_was_told_is_kept_is_there(tmp_path: Path, wait_rows: int) -> None:
    path = tmp_path / "store.sqlite"
    acknowledged: list[int] = []
    for _ in range(3):
        writer = start(path, "w", 100_000)
        assert writer.stdout is not None
        acknowledged += [int(writer.stdout.readline()) for _ in range(wait_rows + 1)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [int(x) for x in writer.stdout.read().split()]
        assert writer.wait(60) == -signal.SIGKILL
    assert len(set(acknowledged)) == len(acknowledged)
    require_whole(path)
    with Store.open(path, create=False) as store:
        recorded = [x["i"] for x in store.recorded("search w").candidates]
        assert recorded == list(range(len(recorded)))
        assert set(acknowledged) <= set(recorded)
        measured = {int(x.key.graph, 16) for x in store.measurements(hardware="w")}
        assert set(recorded) <= measured
        assert len(measured) - len(recorded) <= 1  # the row whose evaluation was not appended yet
        assert {int(x.key.graph, 16) for x in store.measurements(hardware="shared")} == measured


def test_a_process_killed_at_any_moment_of_its_beginning_leaves_no_wreck(tmp_path: Path) -> None:
    for i in range(12):
        path = tmp_path / str(i) / "store.sqlite"
        writer = start(path, "w", 1)
        end = time.monotonic() + 60
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.0005)
        time.sleep(0.001 * i)
        writer.send_signal(signal.SIGKILL)
        writer.communicate(timeout=60)
        with Store.open(path) as store:
            assert store.summary()["measurements"] in (0, 2)
        require_whole(path)


def test_a_killed_holder_of_the_lock_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    Store.open(path).close()
    script = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('BEGIN IMMEDIATE'); c.execute('DELETE FROM failures'); print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match="another process has held it"):
        Store.open(path, busy_s=0.05)
    with Store.open(path, readonly=True) as store:
        assert store.summary()["measurements"] == 0
    holder.kill()
    holder.communicate()
    with Store.open(path, busy_s=5) as store:
        store.history("s", {}).append({"x": 1})


def test_the_store_imports_nothing_heavy() -> None:
    script = (
        "import sys, search.store\n"
        "heavy = {'torch', 'numpy', 'onnx', 'openvino', 'click', 'pydantic', 'pickle'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
