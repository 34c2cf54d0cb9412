"""From store to store: a copy of the file, or one line of JSON per row."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

from runtime.files import appearing
from search.errors import StoreError
from search.store.history import load
from search.store.rows import (
    LARGEST_REPORT_BYTES,
    Measurement,
    Row,
    canonical,
    check_name,
    check_time,
    parse,
    require_fields,
)
from search.store.schema import BUSY_S, MAGIC, connect, foreign, reading, speaking, writing
from search.store.tables import ACCURACIES, FAILURES, KEY, MEASUREMENTS, SCORED, Table, table_of

_KIND, _SCHEMA = "atb-store-export", 1
_LONGEST_LINE = LARGEST_REPORT_BYTES + 2**20
_ROWS_PER_TRANSACTION = 200  # others may write between two
# By name in the export: table and the order that does not depend on who came first.
_KINDS: dict[str, tuple[Table[Any], str]] = {
    "measurement": (MEASUREMENTS, "created, digest"),
    "failure": (FAILURES, f"created, {', '.join(KEY)}"),
    "accuracy": (ACCURACIES, f"created, {', '.join(SCORED)}"),
}


@dataclass(frozen=True, kw_only=True)
class _Search:
    """The record of one search; header and evaluations are JSON."""

    id: str
    header: str
    created: str
    evaluations: tuple[str, ...]

    def __post_init__(self) -> None:
        check_name("a search's id", self.id, longest=200)
        check_time("created", self.created)

    def to_json(self) -> dict[str, Any]:
        evaluations = [parse(x) for x in self.evaluations]
        return {"id": self.id, "header": parse(self.header), "created": self.created, "evaluations": evaluations}

    @classmethod
    def from_json(cls, data: object) -> _Search:
        values = require_fields("a search", data, {"id", "header", "created", "evaluations"})
        evaluations = values["evaluations"]
        if not isinstance(evaluations, list) or not all(isinstance(x, dict) for x in (values["header"], *evaluations)):
            raise ValueError("a search has an object as header and objects as evaluations")
        return cls(
            id=values["id"],
            header=canonical(values["header"]),
            created=values["created"],
            evaluations=tuple(map(canonical, evaluations)),
        )


_Item: TypeAlias = Row | _Search
_Source: TypeAlias = Callable[[], Iterator[_Item]]


def _items(path: Path, connection: sqlite3.Connection) -> Iterator[_Item]:
    """All a store has, checked, in a fixed order; within the caller's read transaction."""
    with speaking(path):
        for table, order in _KINDS.values():
            yield from table.select(path, connection, order=order)
        for search, created in connection.execute("SELECT id, created FROM searches ORDER BY created, id").fetchall():
            header, lines = load(path, connection, search)
            try:
                plain = [parse(x) for x in lines]
                item = _Search.from_json(
                    {"id": search, "header": parse(header), "created": created, "evaluations": plain}
                )
            except ValueError as error:
                raise StoreError(
                    f"the store {path} has a damaged search, {search!r}: {error}. `atb store gc` removes it"
                ) from error
            yield item


def _kind(item: _Item) -> str:
    if isinstance(item, _Search):
        return "search"
    return next(name for name, (table, _) in _KINDS.items() if type(item) is table.row)


def export(
    path: Path, connection: sqlite3.Connection, target: Path, *, kind: Literal["jsonl", "sqlite"]
) -> dict[str, int]:
    """See `Store.export`."""
    if kind not in ("jsonl", "sqlite"):
        raise ValueError(f"kind is jsonl or sqlite, got {kind!r}")
    if target.exists():
        raise StoreError(f"{target} exists already; name a new file")
    with speaking(target), appearing(target.parent) as aside:
        if kind == "sqlite":
            with speaking(path):
                connection.execute("VACUUM INTO ?", (str(aside / target.name),))
                return _counts(connection)
        with reading(path, connection), (aside / target.name).open("wb") as file:
            counts = _counts(connection)
            file.write(_line({"kind": _KIND, "schema": _SCHEMA, "counts": counts}))
            for item in _items(path, connection):
                file.write(_line({_kind(item): item.to_json()}))
    return counts


def _counts(connection: sqlite3.Connection) -> dict[str, int]:
    names = {**{name: table.name for name, (table, _) in _KINDS.items()}, "search": "searches"}
    return {
        name: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
        for name, table in names.items()
    }


def _line(data: dict[str, Any]) -> bytes:
    return canonical(data).encode() + b"\n"


def merge(path: Path, connection: sqlite3.Connection, other: Path) -> dict[str, dict[str, int]]:
    """See `Store.merge`."""
    try:
        with other.open("rb") as file:
            head = file.read(len(MAGIC))
            if other.samefile(path):
                raise StoreError(f"{other} is this very store; name another one to merge into it")
            if head != MAGIC:
                return _take(path, connection, other, lambda: _lines(other, file))
    except FileNotFoundError:
        raise StoreError(f"there is no store or export at {other}") from None
    except OSError as error:
        raise StoreError(f"{other} cannot be read: {error.strerror}") from error
    with closing(connect(other, create=False, readonly=True, busy_s=BUSY_S)) as source:
        with speaking(other):
            (verdict,) = source.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(f"the store {other} is damaged: {str(verdict)[:500]}. Nothing of it was merged")
        with reading(other, source):
            return _take(path, connection, other, lambda: _items(other, source))


def _take(path: Path, connection: sqlite3.Connection, other: Path, source: _Source) -> dict[str, dict[str, int]]:
    try:
        for _ in source():
            pass
    except StoreError as error:
        raise StoreError(f"nothing of {other} was merged: {error}") from error
    counts = {name: {"added": 0, "skipped": 0} for name in (*_KINDS, "search")}
    items = source()
    more = True
    while more:
        with writing(path, connection):
            for _ in range(_ROWS_PER_TRANSACTION):
                found = next(items, None)
                if found is None:
                    more = False
                    break
                if isinstance(found, _Search):
                    added = _take_search(path, connection, found)
                else:
                    added = table_of(found).insert(connection, found)
                counts[_kind(found)]["added" if added else "skipped"] += 1
    return counts


def _take_search(path: Path, connection: sqlite3.Connection, item: _Search) -> bool:
    """Adds it, or the end of it where this store has its beginning; a search that went another way stays as it is."""
    known = 0
    if connection.execute("SELECT 1 FROM searches WHERE id = ?", (item.id,)).fetchone():
        header, lines = load(path, connection, item.id)
        known = len(lines)
        same = parse(header) == parse(item.header) and tuple(lines) == item.evaluations[:known]
        if not same or known == len(item.evaluations):
            return False
    else:
        connection.execute(
            "INSERT INTO searches (id, header, created) VALUES (?, ?, ?)", (item.id, item.header, item.created)
        )
    connection.executemany(
        "INSERT INTO evaluations (search, position, candidate) VALUES (?, ?, ?)",
        [(item.id, i, line) for i, line in enumerate(item.evaluations) if i >= known],
    )
    return True


def _lines(path: Path, file: BinaryIO) -> Iterator[_Item]:
    """All an export has, checked."""
    file.seek(0)
    try:
        header = parse(file.readline(_LONGEST_LINE))
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("kind") != _KIND:
        raise foreign(path)
    if header.get("schema") != _SCHEMA:
        raise StoreError(
            f"{path} is an export of schema {header.get('schema')!r}, this version of atb reads {_SCHEMA}: update atb"
        )
    counts: dict[str, int] = dict.fromkeys((*_KINDS, "search"), 0)
    number = 1
    while line := file.readline(_LONGEST_LINE):
        number += 1
        try:
            if not line.endswith(b"\n"):
                raise ValueError("the line is cut off or too long")
            data = parse(line)
            if not isinstance(data, dict) or len(data) != 1 or not set(data) <= set(counts):
                raise ValueError(f"a line is an object with one of {', '.join(counts)}")
            ((kind, values),) = data.items()
            item: _Item = (_Search if kind == "search" else _KINDS[kind][0].row).from_json(values)
            if isinstance(item, Measurement) and item.report is None:
                raise ValueError("a measurement is merged with its report only")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"{path} line {number} is damaged: {error}") from error
        counts[kind] += 1
        yield item
    if counts != header.get("counts"):
        raise StoreError(f"{path} is cut off: it has {counts}, and should have {header.get('counts')!r}"[:500])
