"""From store to store, and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

import search.store.exchange as exchange
import search.store.schema as schema
from search.store import Accuracy, EngineKey, Failure, Measurement, Store, StoreError
from supernet.space import SubnetConfig

NOTHING = {name: {"added": 0, "skipped": 0} for name in ("measurement", "failure", "accuracy", "search")}


def at(second: int) -> str:
    return f"2026-03-01T12:00:{second:02d}+00:00"


def key(number: int, hardware: str) -> EngineKey:
    return EngineKey(
        graph=f"{number:064x}",
        target="openvino-CPU-bf16-b1-l64-t1",
        effective_precision="bf16",
        batch=1,
        length=64,
        threads=1,
        runtime="openvino 2026.4.1",
        hardware=hardware,
    )


@pytest.fixture
def fill() -> Callable[..., None]:
    def add(store: Store, numbers: range, *, hardware: str = "mine", second: int = 0, ms: float = 1.0) -> None:
        for i in numbers:
            subnet = SubnetConfig.uniform(hidden_size=128, depth=1, heads=4, ffn_size=4 + i).to_json()
            rows = (
                Measurement(
                    key=key(i, hardware),
                    ms=ms + i,
                    ci_ms=(ms + i, ms + i),
                    subnet=subnet,
                    reference="c" * 64,
                    reference_ms=2,
                    report={"samples_ms": [i, 1 / (i + 1)]},
                    created=at(second),
                ),
                Failure(key=key(1000 + i, hardware), reason=f"no kernel {i}", created=at(second)),
                Accuracy(
                    checkpoint="d" * 64,
                    subnet=subnet,
                    precision="float",
                    data=hardware,
                    rows=9,
                    complete=True,
                    accuracy=ms / 10,
                    correct=b"\x0f\x01",
                    created=at(second),
                ),
            )
            store.add(*rows)

    return add


@pytest.fixture
def two(tmp_path: Path, fill: Callable[..., None]) -> tuple[Path, Path]:
    """Mine has 0..4, theirs 3..6: 3 and 4 are the same rows in both."""
    mine, theirs = tmp_path / "mine.sqlite", tmp_path / "theirs.sqlite"
    with Store.open(mine) as store:
        fill(store, range(5))
        store.history("both", {"seed": 1}).append({"x": 1})
    with Store.open(theirs) as store:
        fill(store, range(3, 7))
        fill(store, range(2), hardware="theirs")
        for name, lines in (("both", [1, 2, 3]), ("new", [7])):
            history = store.history(name, {"seed": 1})
            for x in lines:
                history.append({"x": x})
    return mine, theirs


def content(path: Path, tmp_path: Path) -> list[bytes]:
    with Store.open(path, readonly=True) as store:
        out = tmp_path / f"content-{Random(path.stat().st_mtime_ns).random()}.jsonl"
        store.export(out)
    lines = out.read_bytes().splitlines()
    out.unlink()
    return lines


@pytest.mark.parametrize("form", ["sqlite", "jsonl", "copy"])
def test_a_merge_adds_what_is_new_once(two: tuple[Path, Path], tmp_path: Path, form: str) -> None:
    mine, theirs = two
    if form != "sqlite":
        with Store.open(theirs) as store:
            counts = store.export(tmp_path / f"out.{form}", kind="jsonl" if form == "jsonl" else "sqlite")
        assert counts == {"measurement": 6, "failure": 6, "accuracy": 6, "search": 2}
        theirs = tmp_path / f"out.{form}"
    before = theirs.read_bytes()
    with Store.open(mine) as store:
        assert store.merge(theirs) == {
            **{name: {"added": 4, "skipped": 2} for name in ("measurement", "failure", "accuracy")},
            "search": {"added": 2, "skipped": 0},
        }
        assert store.recorded("both").candidates == ({"x": 1}, {"x": 2}, {"x": 3})
        assert store.recorded("new").candidates == ({"x": 7},)
        again = store.merge(theirs)
        assert all(x["added"] == 0 for x in again.values())
        assert store.summary()["measurements"] == 9
        assert len(store.measurements(hardware="theirs")) == 2
        apart = {"graph": f"{0:064x}", "target": "openvino-CPU-bf16-b1-l64-t1", "runtime": "openvino 2026.4.1"}
        for hardware in ("mine", "theirs"):
            found = store.measurement(hardware=hardware, **apart)
            assert found is not None
            assert found.key.hardware == hardware
    assert theirs.read_bytes() == before


def test_stores_merged_in_any_order_end_alike(tmp_path: Path, fill: Callable[..., None]) -> None:
    sources = []
    for i, ms in enumerate((1.0, 3.0, 2.0)):
        sources.append(tmp_path / f"{i}.sqlite")
        with Store.open(sources[-1]) as store:
            fill(store, range(4), second=i // 2, ms=ms)
    ends = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        path = tmp_path / f"end{order}.sqlite"
        with Store.open(path) as store:
            for i in order:
                store.merge(sources[i])
        ends.append(content(path, tmp_path))
    assert ends[0] == ends[1] == ends[2]
    assert len(ends[0]) == 1 + 12 + 4 + 4


def test_an_export_is_whole_and_reads_back_the_same(two: tuple[Path, Path], tmp_path: Path) -> None:
    mine, _ = two
    first = content(mine, tmp_path)
    header = json.loads(first[0])
    assert header["kind"] == "atb-store-export"
    assert header["counts"] == {"measurement": 5, "failure": 5, "accuracy": 5, "search": 1}
    with Store.open(mine) as store:
        store.export(tmp_path / "a" / "out.jsonl")
        for name in ("a/out.jsonl", "mine.sqlite"):
            with pytest.raises(StoreError, match="exists already"):
                store.export(tmp_path / name)
        with pytest.raises(ValueError, match="kind"):
            store.export(tmp_path / "x", kind="csv")  # type: ignore[arg-type]
    assert [x.name for x in (tmp_path / "a").iterdir()] == ["out.jsonl"]
    with Store.open(tmp_path / "again.sqlite") as store:
        store.merge(tmp_path / "a" / "out.jsonl")
    assert content(tmp_path / "again.sqlite", tmp_path) == first


def test_an_export_that_fails_leaves_no_file(two: tuple[Path, Path], tmp_path: Path) -> None:
    mine, _ = two
    with sqlite3.connect(mine) as connection:
        connection.execute("UPDATE accuracies SET accuracy = 'x' WHERE id = 5")
    connection.close()
    with Store.open(mine) as store, pytest.raises(StoreError, match="accuracies 5"):
        store.export(tmp_path / "a" / "out.jsonl")
    assert not (tmp_path / "a").exists()


def test_a_search_that_went_another_way_stays(two: tuple[Path, Path]) -> None:
    mine, theirs = two
    with Store.open(mine) as store:
        store.recorded("both").append({"x": 99})
        assert store.merge(theirs)["search"] == {"added": 1, "skipped": 1}
        assert store.recorded("both").candidates == ({"x": 1}, {"x": 99})
        store.gc(drop_searches=["both"])
        store.history("both", {"seed": 2}).append({"x": 1})
        assert store.merge(theirs)["search"] == {"added": 0, "skipped": 2}
        assert store.recorded("both").header == {"seed": 2}


def damage_line(number: int, change: Callable[[dict[str, Any]], Any]) -> Callable[[list[bytes]], list[bytes]]:
    def damage(lines: list[bytes]) -> list[bytes]:
        lines[number] = json.dumps(change(json.loads(lines[number]))).encode()
        return lines

    return damage


def swap(kind: str, **changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda data: {kind: data[kind] | changes}


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda x: x[:-1], "is cut off"),
        (lambda x: [*x, x[1]], "is cut off"),
        (lambda x: [*x[:3], x[3][:-5], *x[4:]], "line 4 is damaged"),
        (lambda x: [*x[:3], b"[" * 200_000, *x[4:]], "line 4 is damaged: it nests too deep"),
        (lambda x: [*x[:3], b'{"measurement": {"x": NaN}}', *x[4:]], "line 4 is damaged: NaN"),
        (lambda x: [*x[:3], b"\xff", *x[4:]], "line 4 is damaged"),
        (lambda x: [*x[:3], b'{"pickle": "gASV"}', *x[4:]], "line 4 is damaged: a line is an object with one of"),
        (lambda x: [b"{}", *x[1:]], "not a store of atb"),
        (lambda x: [], "not a store of atb"),
        (lambda x: [b"hello"], "not a store of atb"),
        (lambda x: x[1:], "not a store of atb"),
        (damage_line(0, lambda x: x | {"schema": 2}), "is an export of schema 2"),
        (damage_line(0, lambda x: x | {"counts": "many"}), "is cut off"),
        (damage_line(1, swap("measurement", ms=-1)), "line 2 is damaged: ms"),
        (damage_line(1, swap("measurement", more=1)), "line 2 is damaged: a measurement has .* unknown: more"),
        (damage_line(1, swap("measurement", key=[])), "line 2 is damaged"),
        (damage_line(1, swap("measurement", report=None)), "with its report only"),
        (damage_line(1, swap("measurement", subnet={"hidden_size": 3, "layers": [{}]})), "line 2 is damaged"),
        (damage_line(7, swap("failure", reason=7)), "line 8 is damaged"),
        (damage_line(13, swap("accuracy", correct="!")), "line 14 is damaged"),
        (damage_line(19, swap("search", header=[])), "line 20 is damaged"),
        (damage_line(19, swap("search", evaluations=[1])), "line 20 is damaged"),
    ],
)
def test_of_a_damaged_export_nothing_is_merged(
    two: tuple[Path, Path], tmp_path: Path, damage: Callable[[list[bytes]], list[bytes]], text: str
) -> None:
    mine, theirs = two
    lines = damage(content(theirs, tmp_path))
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b"".join(line + b"\n" for line in lines))
    before = content(mine, tmp_path)
    with Store.open(mine) as store, pytest.raises(StoreError, match=text):
        store.merge(bad)
    assert content(mine, tmp_path) == before


def test_a_report_too_large_to_be_read_again_is_not_merged(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = two
    lines = content(theirs, tmp_path)
    row = json.loads(lines[1])
    row["measurement"]["report"] = {"x": "y" * 3000}
    lines[1] = json.dumps(row).encode()
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b"".join(line + b"\n" for line in lines))
    with Store.open(mine) as store:
        with monkeypatch.context() as patched:
            patched.setattr("search.store.rows.LARGEST_REPORT_BYTES", 2000)
            with pytest.raises(StoreError, match="report has at most 2000 bytes"):
                store.merge(bad)
            patched.setattr(exchange, "_LONGEST_LINE", 2000)
            with pytest.raises(StoreError, match="line 2 is damaged: the line is cut off or too long"):
                store.merge(bad)
        assert store.merge(bad)["measurement"]["added"] > 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE measurements SET ms = 'x' WHERE id = 6",
        "UPDATE failures SET reason = '' WHERE id = 6",
        "UPDATE accuracies SET rows = 10000 WHERE id = 6",
        "UPDATE searches SET created = 'x' WHERE id = 'new'",
        "UPDATE evaluations SET candidate = '3' WHERE search = 'new'",
    ],
)
def test_of_a_damaged_store_nothing_is_merged(two: tuple[Path, Path], tmp_path: Path, statement: str) -> None:
    mine, theirs = two
    with sqlite3.connect(theirs) as connection:
        assert connection.execute(statement).rowcount == 1
    connection.close()
    before = content(mine, tmp_path)
    with (
        Store.open(mine) as store,
        pytest.raises(StoreError, match=r"nothing of .*theirs.sqlite was merged: .*damaged"),
    ):
        store.merge(theirs)
    assert content(mine, tmp_path) == before


def test_what_cannot_be_merged_is_said(two: tuple[Path, Path], tmp_path: Path) -> None:
    mine, theirs = two
    (tmp_path / "link.sqlite").symlink_to(mine)
    with sqlite3.connect(tmp_path / "foreign.sqlite") as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    data = bytearray(theirs.read_bytes())
    data[len(data) // 2 :] = b"\xff" * (len(data) - len(data) // 2)
    (tmp_path / "torn.sqlite").write_bytes(data)
    with Store.open(mine) as store:
        for name, text in [
            ("mine.sqlite", "this very store"),
            ("link.sqlite", "this very store"),
            ("none.sqlite", "there is no store or export"),
            ("foreign.sqlite", "not a store of atb"),
            ("torn.sqlite", "damaged"),
            (".", "cannot be read"),
        ]:
            with pytest.raises(StoreError, match=text):
                store.merge(tmp_path / name)


def test_an_older_store_is_merged_without_being_touched(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = two
    before = theirs.read_bytes()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE notes (text)",)))
    with Store.open(mine) as store:
        assert store.merge(theirs)["measurement"] == {"added": 4, "skipped": 2}
    assert theirs.read_bytes() == before


def test_a_store_may_be_merged_while_it_is_written(two: tuple[Path, Path], fill: Callable[..., None]) -> None:
    mine, theirs = two
    with Store.open(theirs) as busy, Store.open(mine) as store:
        fill(busy, range(20, 22))
        assert store.merge(theirs)["measurement"]["added"] == 6
        fill(busy, range(22, 23))
        assert store.merge(theirs)["measurement"]["added"] == 1


def test_merging_an_empty_store_is_no_error(two: tuple[Path, Path], tmp_path: Path) -> None:
    Store.open(tmp_path / "empty.sqlite").close()
    with Store.open(two[0]) as store:
        assert store.merge(tmp_path / "empty.sqlite") == NOTHING
