"""The record of a search: append-only, in order, and of one search alone."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from search.store import Store, StoreError

HEADER = {"space": "f" * 64, "constraints_ms": [1.5, None], "seed": 7, "context": "weights abc"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def broken(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()


def test_what_was_appended_is_there_again_in_its_order(path: Path) -> None:
    some = [{"x": 0.1 + i, "why": "naïve\nkernel ✗", "pair": [1, None]} for i in range(12)]
    with Store.open(path) as store:
        history = store.history("quickstart", HEADER)
        assert history.candidates == ()
        for candidate in some:
            history.append(candidate)
        assert history.candidates == tuple(some)
        assert len(history) == 12
    with Store.open(path) as store:
        again = store.history("quickstart", HEADER)
        assert again.candidates == tuple(some)
        assert again.header == HEADER
        assert store.recorded("quickstart").candidates == tuple(some)
        ((search, header, created, count),) = store.searches()
        assert (search, header, count) == ("quickstart", HEADER, 12)
        assert created.endswith("+00:00")


def test_what_a_caller_changes_is_not_the_record(path: Path) -> None:
    with Store.open(path) as store:
        history = store.history("s", HEADER)
        mine = {"x": [1]}
        history.append(mine)
        mine["x"].append(2)
        history.candidates[0]["x"].append(3)
        history.header["seed"] = 8
        assert history.candidates == ({"x": [1]},)
        assert history.header == HEADER


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seed": 8}, "seed is 7, asked is 8"),
        ({"constraints_ms": [1.6, None]}, r"constraints_ms is \[1.5, None\], asked is \[1.6, None\]"),
        ({"more": None}, "more is None, asked is None"),
        ({"seed": 8, "context": "x"}, "context is 'weights abc', asked is 'x'; seed is 7, asked is 8"),
    ],
)
def test_refuses_the_record_of_another_search(path: Path, changes: dict[str, Any], text: str) -> None:
    with Store.open(path) as store:
        store.history("s", HEADER).append({"x": 1})
        with pytest.raises(StoreError, match=f"another search: {text}. Resume with"):
            store.history("s", HEADER | changes)
        with pytest.raises(StoreError, match="another search: seed is 7, asked is None"):
            store.history("s", {k: v for k, v in HEADER.items() if k != "seed"})
        assert store.history("s", dict(reversed(HEADER.items()))).candidates == ({"x": 1},)
        store.history("other", HEADER | changes)
        assert [x[0] for x in store.searches()] == ["s", "other"]


def test_a_replay_follows_the_record(path: Path) -> None:
    with Store.open(path) as store:
        history = store.history("s", HEADER)
        for i in range(3):
            history.append({"design": {"depth": (i,)}, "ms": i})
        assert history.replay(0, design={"depth": [0]}) == {"design": {"depth": [0]}, "ms": 0}
        assert history.replay(2) == {"design": {"depth": [2]}, "ms": 2}
        assert history.replay(3, design=None) is None
        with pytest.raises(StoreError, match=r"another path: design of its evaluation 2 is .*\[1\].* asks for .*\[2\]"):
            history.replay(1, design={"depth": (2,)})
        with pytest.raises(StoreError, match="another path: key of its evaluation 1 is None"):
            history.replay(0, key=None)


def test_notices_a_second_writer(path: Path) -> None:
    with Store.open(path) as store, Store.open(path) as other:
        first, second = store.history("s", HEADER), other.history("s", HEADER)
        apart = other.history("t", HEADER)
        first.append({"x": 1})
        apart.append({"x": 1})
        with pytest.raises(StoreError, match="only one process may write search s"):
            second.append({"x": 2})
        first.append({"x": 3})
        assert first.candidates == ({"x": 1}, {"x": 3})
        other.gc(drop_searches=["s"])
        with pytest.raises(StoreError, match="no search 's'"):
            first.append({"x": 4})


@pytest.mark.parametrize("candidate", [{"x": float("nan")}, {"x": object()}, {"x": b"y"}])
def test_takes_plain_data_only(path: Path, candidate: dict[str, Any]) -> None:
    with Store.open(path) as store:
        history = store.history("s", HEADER)
        with pytest.raises(ValueError, match=r"plain data|JSON"):
            history.append(candidate)
        with pytest.raises(ValueError, match=r"plain data|JSON"):
            store.history("t", candidate)
        for name in ("", "a\nb", "x" * 201):
            with pytest.raises(ValueError, match="search's id"):
                store.history(name, HEADER)
        assert len(history) == 0
        assert len(store.searches()) == 1


@pytest.mark.parametrize(
    ("statement", "left"),
    [
        ("UPDATE evaluations SET candidate = '{' WHERE position = 1", 1),
        ("UPDATE evaluations SET candidate = '[]' WHERE position = 2", 2),
        ("UPDATE evaluations SET candidate = x'7b7d' WHERE position = 0", 0),
        ("DELETE FROM evaluations WHERE position = 1", 1),
        ("UPDATE evaluations SET position = -1 WHERE position = 0", 0),
    ],
)
def test_a_damaged_record_can_be_cut_and_resumed(path: Path, statement: str, left: int) -> None:
    with Store.open(path) as store:
        history = store.history("s", HEADER)
        for i in range(4):
            history.append({"x": i})
    broken(path, statement)
    with Store.open(path) as store:
        with pytest.raises(StoreError, match=rf"search s: evaluation {left + 1} is .*atb store gc"):
            store.history("s", HEADER)
        assert store.gc()["removed"]["damaged"] == 1
        history = store.history("s", HEADER)
        assert history.candidates == tuple({"x": i} for i in range(left))
        history.append({"x": 9})


@pytest.mark.parametrize("change", ["header = 'x'", "header = '[]'", "created = 'x'", "id = x'00'"])
def test_a_search_with_a_damaged_head_can_be_removed(path: Path, change: str) -> None:
    with Store.open(path) as store:
        store.history("s", HEADER).append({"x": 1})
        store.history("t", HEADER).append({"x": 1})
    broken(path, f"UPDATE searches SET {change} WHERE id = 's'")
    with Store.open(path) as store:
        with pytest.raises(StoreError, match="damaged search"):
            store.searches()
        store.gc()
        assert [x[0] for x in store.searches()] == ["t"]
        assert store.summary()["evaluations"] == 1
