"""The file of a store: its tables, the way from older ones to these, how it is opened, and what SQLite's errors mean.

WAL, so that readers never wait for the writer. `synchronous=FULL`: a commit is on the disk when it returns. With
NORMAL it would survive a killed process, but the last commits could be lost to a power cut; a commit costs some
milliseconds beside the second that a measurement takes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from search.errors import StoreError

APPLICATION_ID = 0x41544253  # "ATBS"
BUSY_S = 60.0
MAGIC = b"SQLite format 3\0"
_LARGEST_VALUE = 128 * 2**20

_ENGINE = """
    graph TEXT NOT NULL, target TEXT NOT NULL, effective_precision TEXT NOT NULL, batch INTEGER NOT NULL,
    length INTEGER NOT NULL, threads INTEGER NOT NULL, runtime TEXT NOT NULL, hardware TEXT NOT NULL"""

# Migration i makes version i + 1 from version i; a new file goes through all of them. Never change one that was
# released: append another.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        f"""CREATE TABLE measurements (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE,{_ENGINE},
    ms REAL NOT NULL, ci_low_ms REAL NOT NULL, ci_high_ms REAL NOT NULL, subnet TEXT, reference TEXT NOT NULL,
    reference_ms REAL NOT NULL, flops INTEGER, model_bytes INTEGER, created TEXT NOT NULL, report BLOB NOT NULL)""",
        "CREATE INDEX measurements_of_engine ON measurements (graph, target, hardware, runtime, created)",
        "CREATE INDEX measurements_of_target ON measurements (target, hardware, created)",
        f"""CREATE TABLE failures (
    id INTEGER PRIMARY KEY,{_ENGINE}, reason TEXT NOT NULL, created TEXT NOT NULL,
    UNIQUE (graph, target, effective_precision, batch, length, threads, runtime, hardware))""",
        """CREATE TABLE accuracies (
    id INTEGER PRIMARY KEY, checkpoint TEXT NOT NULL, subnet TEXT NOT NULL, precision TEXT NOT NULL,
    data TEXT NOT NULL, rows INTEGER NOT NULL, complete INTEGER NOT NULL, accuracy REAL NOT NULL, correct BLOB,
    created TEXT NOT NULL, UNIQUE (checkpoint, subnet, precision, data, rows, complete))""",
        "CREATE TABLE searches (id TEXT PRIMARY KEY NOT NULL, header TEXT NOT NULL, created TEXT NOT NULL)",
        """CREATE TABLE evaluations (
    search TEXT NOT NULL, position INTEGER NOT NULL, candidate TEXT NOT NULL, PRIMARY KEY (search, position))""",
    ),
)


def connect(path: Path, *, create: bool, readonly: bool, busy_s: float = BUSY_S) -> sqlite3.Connection:
    """Opens the store at `path`, migrated to this version; nothing foreign is written to.

    Raises `StoreError` where there is none and `create` is not asked for, and where it is foreign, damaged, newer,
    busy for `busy_s`, or cannot be written (unless `readonly`).
    """
    _require_ours(path, create=create and not readonly)
    with speaking(path):
        if readonly:
            return _open_readonly(path, busy_s)
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        connection = _open(path, "mode=rwc" if create else "mode=rw", busy_s)
        try:
            with writing(path, connection):
                _migrate(path, connection, create=create)
            _use_wal(path, connection, busy_s)
        except BaseException:
            connection.close()
            raise
    return connection


def _open(path: Path, mode: str, busy_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=busy_s, isolation_level=None)
    try:
        _configure(connection)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection) -> None:
    # Bytes that are no UTF-8 become text that no row accepts, instead of an error that names no row.
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE)
    for pragma in ("synchronous=FULL", "trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"):
        connection.execute(f"PRAGMA {pragma}")


def _open_readonly(path: Path, busy_s: float) -> sqlite3.Connection:
    try:
        connection = _open(path, "mode=ro", busy_s)
    except sqlite3.OperationalError:
        # In a folder that cannot be written WAL has no place for its index. Without a log nobody is writing.
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise
        connection = _open(path, "mode=ro&immutable=1", busy_s)
    try:
        if _version(connection) >= len(MIGRATIONS):
            _check(path, connection)
            return connection
        copy = sqlite3.connect(":memory:", isolation_level=None)
        connection.backup(copy)
        connection.close()
        connection = copy
        _configure(connection)
        with writing(path, connection):
            _migrate(path, connection, create=False)
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _objects(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    found = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
    return sorted(found.fetchall())


def _migrate(path: Path, connection: sqlite3.Connection, *, create: bool) -> None:
    """Within a transaction: all of it happens or nothing."""
    version = _version(connection)
    new = version == 0 and not _objects(connection)
    if new and not create:
        raise StoreError(f"{path} is empty: it is no store yet; a search fills one")
    if new:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    if new or 0 < version < len(MIGRATIONS):
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
    _check(path, connection)


def _check(path: Path, connection: sqlite3.Connection) -> None:
    version = _version(connection)
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{path} has schema {version}, this version of atb reads up to {len(MIGRATIONS)}: "
            f"update atb, or name another store"
        )
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise foreign(path)
    expected = sqlite3.connect(":memory:")
    try:
        for statements in MIGRATIONS:
            for statement in statements:
                expected.execute(statement)
        mine, found = _objects(expected), _objects(connection)
    finally:
        expected.close()
    # A stranger's trigger or view would run inside our own statements.
    if mine != found:
        names = sorted({f"{kind} {name}" for kind, name, _ in set(mine) ^ set(found)})
        raise StoreError(
            f"{path} says it is a store of schema {version}, but differs in {', '.join(names)}: "
            f"another program changed it; name another store"
        )


def foreign(path: Path) -> StoreError:
    """What to say of a file that is something else."""
    return StoreError(f"{path} exists but is not a store of atb; name another file, or move this one")


def _require_ours(path: Path, *, create: bool) -> None:
    """Looks at the first bytes alone, for SQLite may write to whatever it opens."""
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        if not create:
            raise StoreError(f"there is no store at {path}; a search makes one, or name another") from None
        return
    except IsADirectoryError:
        raise StoreError(f"{path} is a folder; name a file, such as {path / 'store.sqlite'}") from None
    except OSError as error:
        raise StoreError(f"the store {path} cannot be read: {error.strerror}") from error
    # An interrupted beginning left a journal, by which SQLite undoes it.
    if not head or path.with_name(f"{path.name}-journal").exists():
        return
    if head[:16] != MAGIC or int.from_bytes(head[68:72], "big") != APPLICATION_ID:
        raise foreign(path)


def _use_wal(path: Path, connection: sqlite3.Connection, busy_s: float) -> None:
    """Needs the file for itself for a moment, which SQLite does not wait for."""
    end = time.monotonic() + busy_s
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            if _code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > end:
                raise
            time.sleep(0.02)
    if mode != "wal":
        raise StoreError(
            f"{path} lies where SQLite cannot share a file among processes (a network folder?); keep it on a local disk"
        )


def size_bytes(path: Path) -> int:
    """Of the file and of what was written but is not in it yet."""
    total = 0
    for part in (path, path.with_name(f"{path.name}-wal")):
        with suppress(FileNotFoundError):
            total += part.stat().st_size
    return total


@contextmanager
def writing(path: Path, connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction that holds the write lock from its beginning; on any error nothing of it stays."""
    with speaking(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


@contextmanager
def reading(path: Path, connection: sqlite3.Connection) -> Iterator[None]:
    """One state of the store, whatever others write meanwhile."""
    with speaking(path):
        connection.execute("BEGIN")
        try:
            yield
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _code(error: sqlite3.Error) -> int | None:
    # The lowest byte is the family; above it are details.
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


_MEANINGS = {
    sqlite3.SQLITE_FULL: "the disk is full: nothing of this step was kept. Free some space and go on",
    sqlite3.SQLITE_READONLY: "it cannot be written: make the file and its folder writable, or name another store",
    sqlite3.SQLITE_PERM: "its permissions do not allow that: change them, or name another store",
    sqlite3.SQLITE_CANTOPEN: "the file or its folder cannot be opened or written: check that they exist and are yours",
    sqlite3.SQLITE_BUSY: "another process has held it for too long: wait for that one or stop it, then go on",
    sqlite3.SQLITE_LOCKED: "another process has held it for too long: wait for that one or stop it, then go on",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: restore a copy, or move it away to begin a new one",
    sqlite3.SQLITE_NOTADB: "the file is damaged or not a store: restore a copy, or name another",
    sqlite3.SQLITE_IOERR: "the disk refused to read or write: nothing of this step was kept. Check the disk and go on",
    sqlite3.SQLITE_TOOBIG: f"a row has a value of more than {_LARGEST_VALUE // 2**20} MiB: it was not kept",
}


@contextmanager
def speaking(path: Path) -> Iterator[None]:
    """Turns what SQLite and the system say into a `StoreError` that tells what to do."""
    try:
        yield
    except sqlite3.Error as error:
        meaning = _MEANINGS.get(_code(error) or 0, "SQLite refused")
        raise StoreError(f"the store {path}: {meaning} ({error})") from error
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise StoreError(f"the store {path} cannot be used: {error.strerror}{where}") from error
