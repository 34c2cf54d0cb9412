"""Rows to columns and back."""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from search.errors import StoreError
from search.store.rows import LARGEST_REPORT_BYTES, Accuracy, EngineKey, Failure, Measurement, Row, canonical, parse

KEY = ("graph", "target", "effective_precision", "batch", "length", "threads", "runtime", "hardware")

T = TypeVar("T", Measurement, Failure, Accuracy)


def unpack(blob: object) -> dict[str, Any]:
    """Raises `ValueError` where it is damaged or would fill the memory."""
    if not isinstance(blob, bytes):
        raise ValueError(f"report is compressed JSON, got {type(blob).__name__}")
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(blob, LARGEST_REPORT_BYTES + 1)
    except zlib.error as error:
        raise ValueError(f"report is not compressed data: {error}") from error
    if len(data) > LARGEST_REPORT_BYTES:
        raise ValueError(f"report is larger than {LARGEST_REPORT_BYTES} bytes")
    if not stream.eof:
        raise ValueError("report is cut off")
    found = parse(data)
    if not isinstance(found, dict):
        raise ValueError(f"report is an object, got {type(found).__name__}")
    return found


@dataclass(frozen=True, kw_only=True)
class Table(Generic[T]):
    """One table: its rows' class, its columns but `id`, what happens to a row whose key is there already."""

    name: str
    row: type[T]
    columns: tuple[str, ...]
    conflict: str
    encode: Callable[[T], tuple[Any, ...]]
    decode: Callable[[dict[str, Any]], T]

    def insert(self, connection: sqlite3.Connection, row: T) -> bool:
        """Within the caller's transaction; whether the store changed."""
        marks = ", ".join("?" * len(self.columns))
        statement = f"INSERT INTO {self.name} ({', '.join(self.columns)}) VALUES ({marks}) ON CONFLICT {self.conflict}"  # noqa: S608
        return connection.execute(statement, self.encode(row)).rowcount > 0

    def select(
        self,
        path: Path,
        connection: sqlite3.Connection,
        *,
        order: str,
        limit: int | None = None,
        without: tuple[str, ...] = (),
        **equal: str | None,
    ) -> Iterator[T]:
        """Rows whose columns have these values (None: any), each checked; `StoreError` names a damaged one."""
        for number, values in self.raw(connection, order=order, limit=limit, without=without, **equal):
            try:
                yield self.decode(values)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise StoreError(
                    f"the store {path} has a damaged row, {self.name} {number}: {error}. `atb store gc` removes it"
                ) from error

    def raw(
        self,
        connection: sqlite3.Connection,
        *,
        order: str = "id",
        limit: int | None = None,
        without: tuple[str, ...] = (),
        **equal: str | None,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """(id, values by column but those in `without`), unchecked."""
        asked: dict[str, str] = {name: value for name, value in equal.items() if value is not None}
        names = [x for x in self.columns if x not in without]
        where = " AND ".join(f"{name} = ?" for name in asked) or "1"
        statement = f"SELECT id, {', '.join(names)} FROM {self.name} WHERE {where} ORDER BY {order} LIMIT ?"  # noqa: S608
        found = connection.execute(statement, (*asked.values(), -1 if limit is None else limit))
        for number, *values in found:
            yield number, dict(zip(names, values, strict=True))


def _key(values: dict[str, Any]) -> EngineKey:
    return EngineKey(**{name: values.pop(name) for name in KEY})


def _from_key(key: EngineKey) -> tuple[Any, ...]:
    return tuple(getattr(key, name) for name in KEY)


def _from_measurement(row: Measurement) -> tuple[Any, ...]:
    if row.report is None:
        raise ValueError("this measurement was read without its report; read it with reports=True to keep it")
    subnet = None if row.subnet is None else canonical(row.subnet)
    numbers = (row.ms, *row.ci_ms, subnet, row.reference, row.reference_ms, row.flops, row.model_bytes)
    report = canonical(row.report).encode()
    # Of all that the row says: rows with the same one are the same row.
    digest = hashlib.sha256(canonical(row.to_json() | {"report": None}).encode() + b"\n" + report).hexdigest()
    return (digest, *_from_key(row.key), *numbers, row.created, zlib.compress(report))


def _to_measurement(values: dict[str, Any]) -> Measurement:
    values.pop("digest")
    subnet = values.pop("subnet")
    report = unpack(values.pop("report")) if "report" in values else None
    return Measurement(
        key=_key(values),
        ci_ms=(values.pop("ci_low_ms"), values.pop("ci_high_ms")),
        subnet=None if subnet is None else parse(subnet),
        report=report,
        **values,
    )


def _from_failure(row: Failure) -> tuple[Any, ...]:
    return (*_from_key(row.key), row.reason, row.created)


def _to_failure(values: dict[str, Any]) -> Failure:
    return Failure(key=_key(values), **values)


def _from_accuracy(row: Accuracy) -> tuple[Any, ...]:
    what = (row.checkpoint, canonical(row.subnet), row.precision, row.data, row.rows)
    return (*what, int(row.complete), row.accuracy, row.correct, row.created)


def _to_accuracy(values: dict[str, Any]) -> Accuracy:
    complete = {0: False, 1: True}[values.pop("complete")]
    return Accuracy(subnet=parse(values.pop("subnet")), complete=complete, **values)


def _newer(table: str, key: tuple[str, ...], values: tuple[str, ...]) -> str:
    """The newest row of a key stays, whichever came first: stores merged in any order end alike."""
    sets = ", ".join(f"{x} = excluded.{x}" for x in values)
    mine, theirs = (", ".join(f"{where}.{x}" for x in values[:2]) for where in (table, "excluded"))
    return f"({', '.join(key)}) DO UPDATE SET {sets} WHERE ({theirs}) > ({mine})"


_NUMBERS = ("ms", "ci_low_ms", "ci_high_ms", "subnet", "reference", "reference_ms", "flops", "model_bytes")
SCORED = ("checkpoint", "subnet", "precision", "data", "rows", "complete")

MEASUREMENTS = Table(
    name="measurements",
    row=Measurement,
    columns=("digest", *KEY, *_NUMBERS, "created", "report"),
    conflict="(digest) DO NOTHING",
    encode=_from_measurement,
    decode=_to_measurement,
)
FAILURES = Table(
    name="failures",
    row=Failure,
    columns=(*KEY, "reason", "created"),
    conflict=_newer("failures", KEY, ("created", "reason")),
    encode=_from_failure,
    decode=_to_failure,
)
ACCURACIES = Table(
    name="accuracies",
    row=Accuracy,
    columns=(*SCORED, "accuracy", "correct", "created"),
    conflict=_newer("accuracies", SCORED, ("created", "accuracy", "correct")),
    encode=_from_accuracy,
    decode=_to_accuracy,
)
TABLES: tuple[Table[Any], ...] = (MEASUREMENTS, FAILURES, ACCURACIES)


def table_of(row: Row) -> Table[Any]:
    """Raises `TypeError` for what is no row."""
    for table in TABLES:
        if type(row) is table.row:
            return table
    raise TypeError(f"the store keeps a Measurement, Failure or Accuracy, got {type(row).__name__}")
