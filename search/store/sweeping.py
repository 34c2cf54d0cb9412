"""Removing what nobody will ask for again."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from search.errors import StoreError
from search.store.history import good_lines, is_object
from search.store.rows import check_name, check_time
from search.store.schema import size_bytes, speaking, writing
from search.store.tables import KEY, TABLES

_TOO_OLD = f"""DELETE FROM measurements WHERE id IN (
    SELECT id FROM (
        SELECT id, row_number() OVER (PARTITION BY {", ".join(KEY)} ORDER BY created DESC, digest DESC) AS age
        FROM measurements)
    WHERE age > ?)"""  # noqa: S608


class _DryRun(Exception):  # noqa: N818 (no error: it takes the transaction back)
    pass


def sweep(
    path: Path,
    connection: sqlite3.Connection,
    *,
    keep: int | None,
    checkpoints: Collection[str] | None,
    failures_before: str | None,
    drop_searches: Collection[str],
    dry_run: bool,
) -> dict[str, Any]:
    """See `Store.gc`."""
    if keep is not None and keep < 1:
        raise ValueError(f"keep counts measurements per engine, 1 or more, got {keep}")
    if failures_before is not None:
        check_time("failures_before", failures_before)
    before, removed = size_bytes(path), dict[str, int]()
    try:
        with writing(path, connection):
            _require_whole(path, connection)
            removed["damaged"] = sum(_drop_damaged(connection, table) for table in TABLES) + _cut_searches(connection)
            removed["measurements"] = 0 if keep is None else connection.execute(_TOO_OLD, (keep,)).rowcount
            removed["failures"] = (
                0
                if failures_before is None
                else connection.execute("DELETE FROM failures WHERE created < ?", (failures_before,)).rowcount
            )
            removed["accuracies"] = 0 if checkpoints is None else _keep_checkpoints(connection, checkpoints)
            removed["searches"] = sum(_drop_search(path, connection, x) for x in dict.fromkeys(drop_searches))
            if dry_run:
                raise _DryRun
    except _DryRun:
        return {"removed": removed, "dry_run": True, "bytes_before": before, "bytes": before}
    with speaking(path):
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return {"removed": removed, "dry_run": False, "bytes_before": before, "bytes": size_bytes(path)}


def _require_whole(path: Path, connection: sqlite3.Connection) -> None:
    found = [str(x) for (x,) in connection.execute("PRAGMA integrity_check(3)")]
    if found != ["ok"]:
        raise StoreError(
            f"the store {path} is damaged: {'; '.join(found)[:500]}. "
            f"Save what can be read with `atb store export`, move the file away, and merge the export into a new one"
        )


def _drop_damaged(connection: sqlite3.Connection, table: Any) -> int:
    bad = []
    for number, values in table.raw(connection):
        try:
            table.decode(values)
        except (ValueError, TypeError, KeyError, AttributeError):
            bad.append(number)
    _delete(connection, f"DELETE FROM {table.name} WHERE id = ?", bad)  # noqa: S608
    return len(bad)


def _cut_searches(connection: sqlite3.Connection) -> int:
    """A search whose header is damaged goes; one with a damaged evaluation ends before it, to be resumed there."""
    cut = 0
    for search, header, created in connection.execute("SELECT id, header, created FROM searches").fetchall():
        try:
            check_name("id", search, longest=200)
            check_time("created", created)
            lines, damage = good_lines(connection, search) if is_object(header) else ([], "header")
        except ValueError:
            lines, damage = [], "header"
        if damage == "header":
            connection.execute("DELETE FROM searches WHERE id IS ?", (search,))
        if damage is not None:
            where = (search, len(lines))
            cut += 1
            connection.execute("DELETE FROM evaluations WHERE search IS ? AND (position >= ? OR position < 0)", where)
    connection.execute("DELETE FROM evaluations WHERE search NOT IN (SELECT id FROM searches)")
    return cut


def _keep_checkpoints(connection: sqlite3.Connection, checkpoints: Collection[str]) -> int:
    found = [x for (x,) in connection.execute("SELECT DISTINCT checkpoint FROM accuracies")]
    wanted = set(checkpoints)
    return _delete(connection, "DELETE FROM accuracies WHERE checkpoint = ?", [x for x in found if x not in wanted])


def _drop_search(path: Path, connection: sqlite3.Connection, search: str) -> int:
    if not connection.execute("DELETE FROM searches WHERE id = ?", (search,)).rowcount:
        raise StoreError(f"{path} has no search {search!r} to drop; `atb store ls --searches` shows those it has")
    connection.execute("DELETE FROM evaluations WHERE search = ?", (search,))
    return 1


def _delete(connection: sqlite3.Connection, statement: str, values: Iterable[Any]) -> int:
    return sum(connection.execute(statement, (value,)).rowcount for value in values)
