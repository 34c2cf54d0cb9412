"""The store as the rest of the house sees it."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from search.store import exchange, sweeping
from search.store.history import History, begin, listed, read
from search.store.rows import Accuracy, Failure, Measurement, Row, canonical, plain_subnet
from search.store.schema import BUSY_S, MIGRATIONS, connect, reading, size_bytes, speaking, writing
from search.store.tables import ACCURACIES, FAILURES, MEASUREMENTS, table_of

_NEWEST = "created DESC, id DESC"
_NEWEST_MEASURED = "created DESC, digest DESC"  # not by id, which depends on the order of merges


class Store:
    """Every measurement, failure, accuracy and search in one SQLite file, shared by any number of processes.

    Make it by `Store.open`; use it in the thread and the process that opened it. Every method raises `StoreError`
    where the file is damaged, busy or full; what a method was to write is then not kept.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path, *, create: bool = True, readonly: bool = False, busy_s: float = BUSY_S) -> Self:
        """Opens the store at `path`, or begins one there; an older one is migrated.

        `readonly` neither writes nor creates, and needs no right to. `busy_s` bounds the wait for other writers.
        """
        return cls(path, connect(path, create=create, readonly=readonly, busy_s=busy_s))

    def close(self) -> None:
        """May be called again."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def add(self, *rows: Row) -> int:
        """Keeps the rows in one transaction, on disk when this returns; says how many were new.

        Of failures of one engine, and of accuracies of one subnet on equally many rows, the newest stays.
        """
        tables = [table_of(row) for row in rows]
        with writing(self.path, self._connection):
            return sum(table.insert(self._connection, row) for table, row in zip(tables, rows, strict=True))

    def measurement(
        self, *, graph: str, target: str, hardware: str, runtime: str, reports: bool = True
    ) -> Measurement | None:
        """The newest of this engine; its key says the precision that was effective."""
        with speaking(self.path):
            rows = MEASUREMENTS.select(
                self.path,
                self._connection,
                order=_NEWEST_MEASURED,
                limit=1,
                without=() if reports else ("report",),
                graph=graph,
                target=target,
                hardware=hardware,
                runtime=runtime,
            )
            return next(rows, None)

    def measurements(
        self,
        *,
        graph: str | None = None,
        target: str | None = None,
        hardware: str | None = None,
        runtime: str | None = None,
        limit: int | None = None,
        reports: bool = True,
    ) -> list[Measurement]:
        """Newest first; without `reports` it is many times quicker."""
        with reading(self.path, self._connection):
            rows = MEASUREMENTS.select(
                self.path,
                self._connection,
                order=_NEWEST_MEASURED,
                limit=limit,
                without=() if reports else ("report",),
                graph=graph,
                target=target,
                hardware=hardware,
                runtime=runtime,
            )
            return list(rows)

    def failure(self, *, graph: str, target: str, hardware: str, runtime: str) -> Failure | None:
        """Why this engine could not be measured, the last time that happened; a measurement may be newer."""
        with speaking(self.path):
            rows = FAILURES.select(
                self.path,
                self._connection,
                order=_NEWEST,
                limit=1,
                graph=graph,
                target=target,
                hardware=hardware,
                runtime=runtime,
            )
            return next(rows, None)

    def failures(
        self, *, target: str | None = None, hardware: str | None = None, limit: int | None = None
    ) -> list[Failure]:
        """Newest first."""
        with reading(self.path, self._connection):
            rows = FAILURES.select(
                self.path, self._connection, order=_NEWEST, limit=limit, target=target, hardware=hardware
            )
            return list(rows)

    def accuracy(self, *, checkpoint: str, subnet: Mapping[str, Any], precision: str, data: str) -> Accuracy | None:
        """The one on most rows."""
        with speaking(self.path):
            rows = ACCURACIES.select(
                self.path,
                self._connection,
                order=f"rows DESC, complete DESC, {_NEWEST}",
                limit=1,
                checkpoint=checkpoint,
                subnet=canonical(plain_subnet(subnet)),
                precision=precision,
                data=data,
            )
            return next(rows, None)

    def accuracies(
        self, *, checkpoint: str | None = None, data: str | None = None, limit: int | None = None
    ) -> list[Accuracy]:
        """Newest first."""
        with reading(self.path, self._connection):
            rows = ACCURACIES.select(
                self.path, self._connection, order=_NEWEST, limit=limit, checkpoint=checkpoint, data=data
            )
            return list(rows)

    def history(self, search: str, header: Mapping[str, Any]) -> History:
        """The record of this search, begun where there is none.

        `header` is all that its numbers hold for: space, constraints, seed, weights, targets. `StoreError` lists what
        differs where the search was begun with another.
        """
        return begin(self.path, self._connection, search, header)

    def recorded(self, search: str) -> History:
        """The record of a search that is there, whatever its header."""
        with reading(self.path, self._connection):
            return read(self.path, self._connection, search)

    def searches(self) -> list[tuple[str, dict[str, Any], str, int]]:
        """(id, header, created, number of evaluations) of every search, oldest first."""
        return listed(self.path, self._connection)

    def summary(self) -> dict[str, Any]:
        """How much there is, in all and by target and hardware: plain data."""
        with reading(self.path, self._connection):

            def count(what: str, table: str) -> int:
                number: int = self._connection.execute(f"SELECT count({what}) FROM {table}").fetchone()[0]  # noqa: S608
                return number

            places: dict[tuple[str, str], dict[str, Any]] = {}
            for table in ("measurements", "failures"):
                for target, hardware, rows, engines in self._connection.execute(
                    f"SELECT target, hardware, count(*), count(DISTINCT graph) FROM {table} GROUP BY target, hardware"  # noqa: S608
                ):
                    place = places.setdefault(
                        (str(target), str(hardware)), {"graphs": 0, "measurements": 0, "failures": 0}
                    )
                    place[table] = rows
                    if table == "measurements":
                        place["graphs"] = engines
            summary: dict[str, Any] = {
                "schema": len(MIGRATIONS),
                "bytes": size_bytes(self.path),
                **{name: count("*", name) for name in ("measurements", "failures", "accuracies", "searches")},
                "evaluations": count("*", "evaluations"),
                "graphs": count("DISTINCT graph", "measurements"),
                "checkpoints": count("DISTINCT checkpoint", "accuracies"),
            }
        by_place = [{"target": x, "hardware": y, **numbers} for (x, y), numbers in sorted(places.items())]
        return {**summary, "targets": by_place}

    def export(self, path: Path, *, kind: Literal["jsonl", "sqlite"] = "jsonl") -> dict[str, int]:
        """Writes all of it to the new file `path`, whole or not at all; says how many rows of each kind.

        Two stores with the same content give the same JSON lines.
        """
        return exchange.export(self.path, self._connection, path, kind=kind)

    def merge(self, other: Path) -> dict[str, dict[str, int]]:
        """Takes over what another store, or an export of one, has and this one has not.

        Every row is checked before the first is kept. Says by kind how many were `added` and `skipped`; a search is
        `added` too where this store had only its beginning, and `skipped` where it went another way. To merge again
        what was merged changes nothing.
        """
        return exchange.merge(self.path, self._connection, other)

    def gc(
        self,
        *,
        keep: int | None = None,
        checkpoints: Collection[str] | None = None,
        failures_before: str | None = None,
        drop_searches: Collection[str] = (),
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Removes what is not wanted any more, and always damaged rows; gives the room back to the disk.

        keep: so many of the newest measurements of each engine stay. checkpoints: accuracies of others go.
        failures_before: a time as `utc_now` writes it; older failures go. drop_searches: ids. Says how many of each
        went, or with `dry_run` would go.
        """
        return sweeping.sweep(
            self.path,
            self._connection,
            keep=keep,
            checkpoints=checkpoints,
            failures_before=failures_before,
            drop_searches=drop_searches,
            dry_run=dry_run,
        )
