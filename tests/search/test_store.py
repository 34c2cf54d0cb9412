"""What is kept is read back, by whoever asks, and nothing else is."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

import search.store.schema as schema
from search.errors import SearchError
from search.store import Accuracy, EngineKey, Failure, Measurement, Store, StoreError
from supernet.space import SubnetConfig

TARGET = "openvino-CPU-bf16-b1-l64-t1"
WHERE = {"target": TARGET, "hardware": "0123456789ab", "runtime": "openvino 2026.4.1"}
GRAPH, OTHER, REFERENCE = "a" * 64, "b" * 64, "c" * 64


def at(second: int) -> str:
    return f"2026-03-01T12:00:{second:02d}+00:00"


def key(graph: str = GRAPH, **changes: Any) -> EngineKey:
    named: dict[str, Any] = {"effective_precision": "bf16", "batch": 1, "length": 64, "threads": 1, **WHERE}
    return EngineKey(graph=graph, **(named | changes))


def measurement(graph: str = GRAPH, *, second: int = 0, ms: float = 1.25, **changes: Any) -> Measurement:
    named: dict[str, Any] = {
        "key": key(graph),
        "ms": ms,
        "ci_ms": (ms * 0.99, ms * 1.02),
        "reference": REFERENCE,
        "reference_ms": 2.5,
        "report": {"samples_ms": [ms, ms / 3, 0.1], "target": TARGET},
        "flops": 10**9,
        "created": at(second),
    }
    return Measurement(**(named | changes))


def failure(graph: str = GRAPH, *, second: int = 0, reason: str = "kernel ✗\nat line 3", **changes: Any) -> Failure:
    return Failure(key=key(graph, **changes), reason=reason, created=at(second))


@pytest.fixture
def subnet() -> dict[str, Any]:
    return SubnetConfig.uniform(hidden_size=128, depth=2, heads=4, ffn_size=512, sources=(1, 4)).to_json()


@pytest.fixture
def score(subnet: dict[str, Any]) -> Callable[..., Accuracy]:
    def make(*, rows: int = 12, second: int = 0, **changes: Any) -> Accuracy:
        named: dict[str, Any] = {
            "checkpoint": "d" * 64,
            "subnet": subnet,
            "precision": "float",
            "data": "sst2 dev 0-400",
            "complete": False,
            "accuracy": 0.75,
            "correct": b"\x01" + bytes(max(0, -(-int(rows) // 8) - 1)),
        }
        return Accuracy(rows=rows, created=at(second), **(named | changes))

    return make


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "store.sqlite"


def broken(path: Path, statement: str, *values: Any) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement, values)
    connection.close()


def test_what_was_added_is_there_again(path: Path, subnet: dict[str, Any], score: Callable[..., Accuracy]) -> None:
    rows = [measurement(subnet=subnet), measurement(OTHER, second=1, flops=None, model_bytes=0), failure(), score()]
    with Store.open(path) as store:
        assert store.add(*rows) == 4
        assert store.add(*rows) == 0
    with Store.open(path, create=False) as store:
        assert store.measurements() == [rows[1], rows[0]]
        assert store.measurement(graph=GRAPH, **WHERE) == rows[0]
        assert store.failure(graph=GRAPH, **WHERE) == rows[2]
        assert store.failures() == [rows[2]]
        assert store.accuracies() == [rows[3]]
        bare = store.measurements(limit=1, reports=False)
        assert bare == [replace(rows[1], report=None)]
        with pytest.raises(ValueError, match="reports=True"):
            store.add(bare[0])
        with pytest.raises(TypeError, match="got dict"):
            store.add({"ms": 1})  # type: ignore[arg-type]
    assert sorted(os.listdir(path.parent)) == ["store.sqlite"]


def test_rows_are_json_both_ways(subnet: dict[str, Any], score: Callable[..., Accuracy]) -> None:
    for row in (measurement(subnet=subnet), failure(), score(), score(correct=None)):
        assert type(row).from_json(json.loads(json.dumps(row.to_json()))) == row


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("graph", x) for x in ("", "a" * 63, "A" * 64, None)),
        *(("target", x) for x in ("", "a\nb", "x" * 501, 3, "\udcff")),
        *(("batch", x) for x in (0, 1.0, True, 2**63)),
        ("runtime", ""),
        ("hardware", "\x00"),
    ],
)
def test_a_key_is_checked(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        key(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("ms", x) for x in (0, -1.0, float("nan"), float("inf"), "1", True, None, 10**400)),
        *(("ci_ms", x) for x in ((1.0,), (2.0, 1.0), (-1.0, 1.0), (1.0, float("inf")), None, "12")),
        ("reference_ms", 0.0),
        ("reference", "teacher"),
        *(("report", x) for x in ([], "x", {"x": float("nan")}, {"x": object()})),
        *(("flops", x) for x in (-1, 1.5)),
        ("model_bytes", 2**63),
        *(("created", x) for x in ("", "2026-03-01", "2026-03-01T12:00:00Z", "2026-03-01T12:00:00.5+00:00", 3)),
        *(("subnet", x) for x in ({}, [], {"hidden_size": 1, "layers": []})),
        ("key", {}),
    ],
    ids=lambda x: str(x)[:20],
)
def test_a_measurement_is_checked(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match="hidden_size|layer|object" if name == "subnet" else name):
        replace(measurement(), **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("rows", x) for x in (0, -1, 3.0)),
        ("complete", 1),
        *(("accuracy", x) for x in (float("nan"), None)),
        *(("correct", x) for x in (b"", b"\0", b"\0\0\0", b"\0\x10", "AA")),
        ("checkpoint", ""),
    ],
)
def test_an_accuracy_is_checked(name: str, value: Any, score: Callable[..., Accuracy]) -> None:
    with pytest.raises(ValueError, match=name):
        score(**{name: value})


def test_a_reason_may_hold_anything_but_must_be_one(path: Path) -> None:
    with pytest.raises(ValueError, match="reason"):
        failure(reason="")
    odd = failure(reason="\x00\udcff\u2028" + "long " * 50_000)
    with Store.open(path) as store:
        store.add(odd)
        assert store.failures() == [odd]


def test_the_newest_of_an_engine_is_its_measurement(path: Path) -> None:
    rows = [measurement(second=x, ms=1 + x) for x in (3, 7, 5)]
    elsewhere = measurement(second=9, key=key(hardware="ba9876543210"))
    with Store.open(path) as store:
        store.add(*rows, elsewhere)
        assert store.measurement(graph=GRAPH, **WHERE) == rows[1]
        for name, value in [("target", "x"), ("hardware", "x"), ("runtime", "openvino 2027.1"), ("graph", OTHER)]:
            assert store.measurement(**({"graph": GRAPH, **WHERE} | {name: value})) is None
        assert [x.ms for x in store.measurements(hardware=WHERE["hardware"])] == [8.0, 6.0, 4.0]
        assert store.measurements(target="x") == []
        assert store.measurements(limit=1) == [elsewhere]


def test_the_effective_precision_is_read_back_and_sets_engines_apart(path: Path) -> None:
    with Store.open(path) as store:
        store.add(measurement(), measurement(second=1, key=key(effective_precision="f32")))
        found = store.measurement(graph=GRAPH, **WHERE)
        assert found is not None
        assert found.key.effective_precision == "f32"
        assert len(store.measurements()) == 2


def test_of_failures_of_an_engine_the_newest_stays(path: Path) -> None:
    with Store.open(path) as store:
        assert store.add(failure(second=5, reason="old")) == 1
        assert store.add(failure(second=6, reason="new")) == 1
        assert store.add(failure(second=4, reason="older")) == 0
        assert [x.reason for x in store.failures()] == ["new"]


def test_the_accuracy_on_most_rows_is_the_one(path: Path, score: Callable[..., Accuracy]) -> None:
    rows = [score(rows=100, second=9), score(rows=400, complete=True), score(rows=300), score(precision="int8")]
    with Store.open(path) as store:
        store.add(*rows)
        asked = {"checkpoint": "d" * 64, "subnet": rows[0].subnet, "data": "sst2 dev 0-400"}
        assert store.accuracy(precision="float", **asked) == rows[1]
        assert store.accuracy(precision="int8", **asked) == rows[3]
        assert store.accuracy(precision="float", **(asked | {"data": "other"})) is None
        assert len(store.accuracies(checkpoint="d" * 64)) == 4
        assert store.accuracies(checkpoint="e" * 64) == []
        again = score(rows=400, complete=True, accuracy=0.8, second=1)
        assert store.add(again) == 1
        assert store.accuracy(precision="float", **asked) == again
        assert len(store.accuracies()) == 4


def test_reports_are_kept_small(path: Path) -> None:
    rng = Random(0)
    report = {"samples_ms": [round(1 + rng.random(), 6) for _ in range(5000)]}
    with Store.open(path) as store:
        store.add(measurement(report=report))
        assert store.measurements()[0].report == report
        assert store.summary()["bytes"] > 0
    (size,) = sqlite3.connect(path).execute("SELECT length(report) FROM measurements").fetchone()
    assert size < 0.6 * 5000 * 10


def test_a_bomb_in_a_report_is_not_unpacked(path: Path) -> None:
    with Store.open(path) as store:
        store.add(measurement())
    packer = zlib.compressobj()
    bomb = b"".join(packer.compress(b" " * 2**20) for _ in range(66)) + packer.flush()
    broken(path, "UPDATE measurements SET report = ?", bomb)
    with Store.open(path) as store, pytest.raises(StoreError, match=r"measurements 1: report is larger than 67108864"):
        store.measurements()


@pytest.mark.parametrize(
    "change",
    [
        "ms = 'quick'",
        "ms = -1",
        "ms = 1e999",
        "batch = 0",
        "graph = 'x'",
        "graph = x'00'",
        "target = CAST(x'ff' AS TEXT)",
        "created = 'yesterday'",
        "subnet = '{'",
        "subnet = '[]'",
        f"subnet = '{'[' * 100_000}'",
        "report = 'x'",
        "report = x'00'",
        "report = 3",
        f"report = x'{zlib.compress(b'[]').hex()}'",
        f"report = x'{zlib.compress(b'{}')[:-1].hex()}'",
        f"report = x'{zlib.compress(b'[NaN]').hex()}'",
        f"report = x'{zlib.compress(b'[' * 100_000).hex()}'",
    ],
)
def test_a_damaged_row_is_named_and_can_be_removed(path: Path, change: str) -> None:
    with Store.open(path) as store:
        store.add(measurement(), measurement(OTHER))
    broken(path, f"UPDATE measurements SET {change} WHERE id = 2")
    with Store.open(path) as store:
        with pytest.raises(StoreError, match=r"damaged row, measurements 2: .*atb store gc"):
            store.measurements()
        assert store.measurement(graph=GRAPH, **WHERE) == measurement()
        assert store.gc(dry_run=True)["removed"]["damaged"] == 1
        assert store.gc()["removed"]["damaged"] == 1
        assert store.measurements() == [measurement()]


def test_what_is_open_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store at"):
        Store.open(tmp_path / "none.sqlite", create=False)
    with pytest.raises(StoreError, match="there is no store at"):
        Store.open(tmp_path / "none.sqlite", readonly=True)
    with pytest.raises(StoreError, match="is a folder"):
        Store.open(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(StoreError, match="is empty"):
        Store.open(tmp_path / "empty", create=False)
    Store.open(tmp_path / "empty").close()
    Store.open(tmp_path / "empty", create=False).close()
    assert issubclass(StoreError, SearchError)


def test_a_closed_store_says_so(path: Path) -> None:
    store = Store.open(path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.add(measurement())


@pytest.mark.parametrize(
    "content", [b"hello", b"\x00" * 5000, b"SQLite format 3\x00", b"SQLite format 3\x00" + b"x" * 5000]
)
def test_leaves_other_files_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    for options in ({}, {"readonly": True}):
        with pytest.raises(StoreError, match="not a store of atb"):
            Store.open(path, **options)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["notes"]


def test_leaves_the_databases_of_others_alone(tmp_path: Path) -> None:
    path = tmp_path / "browser.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE measurements (id)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a store of atb"):
        Store.open(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["browser.sqlite"]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON measurements BEGIN DELETE FROM failures; END",
        "CREATE VIEW v AS SELECT 1",
        "ALTER TABLE failures ADD COLUMN more",
        "DROP TABLE accuracies",
    ],
)
def test_a_store_that_was_changed_by_others_is_refused(path: Path, statement: str) -> None:
    Store.open(path).close()
    broken(path, statement)
    for options in ({}, {"readonly": True}):
        with pytest.raises(StoreError, match="another program changed it"):
            Store.open(path, **options)


@pytest.mark.parametrize("where", [0.2, 0.5, 0.9])
def test_a_file_with_other_bytes_in_it_is_refused_or_read_right(path: Path, where: float) -> None:
    rows = [measurement(f"{i:064x}", report={"samples_ms": list(range(3000))}) for i in range(40)]
    with Store.open(path) as store:
        store.add(*rows)
    data = bytearray(path.read_bytes())
    start = int(len(data) * where)
    data[start : start + 20_000] = b"\xff" * len(data[start : start + 20_000])
    path.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"), Store.open(path) as store:
        store.measurements()
    with pytest.raises(StoreError, match="damaged"), Store.open(path) as store:
        store.gc()


def test_a_cut_off_file_is_refused(path: Path) -> None:
    with Store.open(path) as store:
        store.add(*(measurement(f"{i:064x}", report={"x": list(range(3000))}) for i in range(20)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match="damaged"), Store.open(path) as store:
        store.measurements()


def test_a_newer_schema_is_refused(path: Path) -> None:
    with Store.open(path) as store:
        store.add(measurement())
    broken(path, f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    before = path.read_bytes()
    for options in ({}, {"readonly": True}):
        with pytest.raises(StoreError, match=r"has schema 2, this version of atb reads up to 1: update atb"):
            Store.open(path, **options)
    assert path.read_bytes() == before


def test_an_older_schema_is_migrated(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(path) as store:
        store.add(measurement())
    statements = ("CREATE TABLE notes (text)", "INSERT INTO notes SELECT count(*) FROM measurements")
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, statements))
    before = path.read_bytes()
    with Store.open(path, readonly=True) as store:
        assert store.measurements() == [measurement()]
    assert path.read_bytes() == before
    with Store.open(path) as store:
        assert store.measurements() == [measurement()]
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT text FROM notes").fetchall() == [(1,)]
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()
    with Store.open(tmp_path / "new.sqlite") as store:
        store.add(measurement())


def test_a_migration_that_fails_leaves_the_older_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(path) as store:
        store.add(measurement())
    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("DROP TABLE measurements", "CREATE TABLE !")))
        with pytest.raises(StoreError, match="unrecognized token"):
            Store.open(path)
    with Store.open(path) as store:
        assert store.measurements() == [measurement()]


def test_commits_reach_the_disk_and_readers_do_not_wait(path: Path) -> None:
    with Store.open(path) as store, Store.open(path) as other:
        connection = store._connection
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        store.add(measurement())
        with schema.writing(path, connection):
            assert other.measurements() == [measurement()]


def test_a_writer_that_waited_too_long_says_so(path: Path) -> None:
    with Store.open(path) as store, Store.open(path, busy_s=0.05) as other:
        with schema.writing(path, store._connection), pytest.raises(StoreError, match="another process has held it"):
            other.add(measurement())
        other.add(measurement())
        assert store.measurements() == [measurement()]


def test_a_full_disk_keeps_what_was_there(path: Path) -> None:
    with Store.open(path) as store:
        history = store.history("s", {"seed": 1})
        store.add(measurement())
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        large = measurement(OTHER, report={"x": [i / 7 for i in range(9000)]})
        with pytest.raises(StoreError, match="the disk is full"):
            store.add(failure(), large)
        with pytest.raises(StoreError, match="the disk is full"):
            history.append({"x": "y" * 200_000})
        assert len(history) == 0
        assert store.failures() == []
        store._connection.execute("PRAGMA max_page_count = 1000000")
        store.add(failure(), large)
        history.append({"x": 1})
    with Store.open(path) as store:
        assert sorted(x.key.graph for x in store.measurements()) == [GRAPH, OTHER]
        assert store.recorded("s").candidates == ({"x": 1},)


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from random import Random
from search.store import Failure, EngineKey, Store, StoreError
key = dict(target="t", effective_precision="f32", batch=1, length=8, threads=1, runtime="r 1", hardware="h")
with Store.open(Path(sys.argv[1])) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    try:
        for i in range(1000):
            reason = Random(i).randbytes(2500).hex()
            store.add(Failure(key=EngineKey(graph=f"{i:064x}", **key), reason=reason))
            print(i, flush=True)
    except StoreError as error:
        sys.exit(str(error))
"""


def test_a_system_that_takes_no_more_is_told_and_survived(path: Path) -> None:
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", FULL, path, root], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nothing of this step was kept" in done.stderr
    assert "Traceback" not in done.stderr
    acknowledged = len(done.stdout.split())
    assert acknowledged > 3
    with Store.open(path) as store:
        assert len(store.failures()) == acknowledged
        assert store._connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


READONLY = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from search.store import Store, StoreError
if os.geteuid() == 0:
    os.setuid(65534)
path = Path(sys.argv[1])
with Store.open(path, readonly=True) as store:
    print(len(store.failures()), store.summary()["failures"])
for target in (path, path.parent / "new.sqlite"):
    try:
        Store.open(target)
    except StoreError as error:
        print(error)
"""


def test_what_may_only_be_read_can_be_read() -> None:
    root = str(Path(__file__).parents[2])
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "store.sqlite"
        with Store.open(path) as store:
            store.add(failure())
        path.chmod(0o444)
        path.parent.chmod(0o555)
        try:
            command = [sys.executable, "-c", READONLY, str(path), root]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        finally:
            path.parent.chmod(0o755)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == "1 1"
    assert "writable" in second or "opened or written" in second
    assert "opened or written" in third


def test_what_is_opened_to_read_is_not_written(path: Path) -> None:
    with Store.open(path) as store:
        store.add(measurement())
    with Store.open(path, readonly=True) as store, pytest.raises(StoreError, match="cannot be written"):
        store.add(measurement(OTHER))
    with pytest.raises(StoreError, match=os.strerror(errno.ENOTDIR)):
        Store.open(path / "below" / "store.sqlite")


def test_the_summary_counts_by_target_and_machine(path: Path, score: Callable[..., Accuracy]) -> None:
    with Store.open(path) as store:
        store.add(measurement(), measurement(second=1), measurement(OTHER), failure("e" * 64), score(), score(rows=3))
        store.add(measurement(key=key(hardware="ba9876543210")), failure("e" * 64, target="onnxruntime"))
        store.history("s", {}).append({"x": 1})
        summary = store.summary()
    assert summary.pop("bytes") > 10_000
    assert summary.pop("targets") == [
        {"target": "onnxruntime", "hardware": WHERE["hardware"], "graphs": 0, "measurements": 0, "failures": 1},
        {"target": TARGET, "hardware": WHERE["hardware"], "graphs": 2, "measurements": 3, "failures": 1},
        {"target": TARGET, "hardware": "ba9876543210", "graphs": 1, "measurements": 1, "failures": 0},
    ]
    assert summary == {
        "schema": 1,
        "measurements": 4,
        "failures": 2,
        "accuracies": 2,
        "searches": 1,
        "evaluations": 1,
        "graphs": 2,
        "checkpoints": 1,
    }


def test_gc_removes_what_was_named_and_nothing_else(path: Path, score: Callable[..., Accuracy]) -> None:
    measured = [measurement(second=x, report={"x": [i / (x + 7) for i in range(20_000)]}) for x in range(5)]
    apart = [measurement(key=key(effective_precision="f32")), measurement(OTHER)]
    other = score(checkpoint="e" * 64)
    with Store.open(path) as store:
        store.add(*measured, *apart, failure(second=1), failure(OTHER, second=2), score(), other)
        store.history("old", {}).append({"x": 1})
        store.history("new", {}).append({"x": 2})
        options: dict[str, Any] = {
            "keep": 2,
            "checkpoints": ["e" * 64, "unknown"],
            "failures_before": at(2),
            "drop_searches": ["old"],
        }
        before = store.summary()
        removed = {"damaged": 0, "measurements": 3, "failures": 1, "accuracies": 1, "searches": 1}
        dry = store.gc(**options, dry_run=True)
        assert dry["removed"] == removed
        assert store.summary() == before
        wet = store.gc(**options)
        assert wet["removed"] == removed
        assert wet["bytes"] < wet["bytes_before"]
        assert set(x.created for x in store.measurements()) == {at(0), at(3), at(4)}
        assert len(store.measurements()) == 4
        assert [x.created for x in store.failures()] == [at(2)]
        assert store.accuracies() == [other]
        assert [x[0] for x in store.searches()] == ["new"]
        assert store.history("old", {"other": 1}).candidates == ()
        assert set(store.gc()["removed"].values()) == {0}
        with pytest.raises(StoreError, match="no search 'none'"):
            store.gc(drop_searches=["none"])
        with pytest.raises(ValueError, match="keep"):
            store.gc(keep=0)
        with pytest.raises(ValueError, match="failures_before"):
            store.gc(failures_before="yesterday")
