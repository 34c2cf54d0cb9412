"""The record of one search: its evaluations in the order made, each on disk when `append` returns."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.errors import StoreError
from search.store.rows import canonical, check_name, check_time, parse, utc_now
from search.store.schema import reading, writing


class History:
    """Append-only; make it by `Store.history`. One process writes one search at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection, search: str, header: str, lines: list[str]) -> None:
        self.search = search
        self._path, self._connection = path, connection
        self._header, self._lines = header, lines

    @property
    def header(self) -> dict[str, Any]:
        """What the search was begun with."""
        return dict(parse(self._header))

    @property
    def candidates(self) -> tuple[dict[str, Any], ...]:
        """All evaluations, in the order they were made."""
        return tuple(parse(line) for line in self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def replay(self, position: int, **asked: Any) -> dict[str, Any] | None:
        """The evaluation at `position`, None past the end.

        `asked` are fields it must have, such as the design this search wants evaluated: `StoreError` where they
        differ, for a replay that leaves the recorded path would mix two searches into one front.
        """
        if position >= len(self._lines):
            return None
        known: dict[str, Any] = parse(self._lines[position])
        for name, value in asked.items():
            wanted = parse(canonical(value))
            if name not in known or known[name] != wanted:
                raise StoreError(
                    f"search {self.search} of {self._path} took another path: {name} of its evaluation {position + 1} "
                    f"is {_short(known.get(name))}, this search asks for {_short(wanted)}. Resume with what it was "
                    f"begun with, or drop it: atb store gc --drop-search {self.search}"
                )
        return known

    def append(self, candidate: Mapping[str, Any]) -> None:
        """Adds one evaluation, plain data; it is on disk when this returns. After an error the record is as before."""
        line = canonical(dict(candidate))
        with writing(self._path, self._connection):
            found = load(self._path, self._connection, self.search, count_only=True)
            if found != (self._header, len(self._lines)):
                raise StoreError(
                    f"only one process may write search {self.search} of {self._path}, but another has: "
                    f"stop the other one, then resume"
                )
            self._connection.execute(
                "INSERT INTO evaluations (search, position, candidate) VALUES (?, ?, ?)",
                (self.search, len(self._lines), line),
            )
        self._lines.append(line)


def begin(path: Path, connection: sqlite3.Connection, search: str, header: Mapping[str, Any]) -> History:
    """The history of `search`, begun where there is none; `StoreError` where it was begun with another header."""
    check_name("a search's id", search, longest=200)
    text = canonical(dict(header))
    with writing(path, connection):
        connection.execute(
            "INSERT INTO searches (id, header, created) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING",
            (search, text, utc_now()),
        )
        found = read(path, connection, search)
    mine, asked = found.header, parse(text)
    names = sorted({*mine, *asked})
    different = [x for x in names if (x in mine, mine.get(x)) != (x in asked, asked.get(x))]
    if different:
        listed = "; ".join(f"{x} is {_short(mine.get(x))}, asked is {_short(asked.get(x))}" for x in different)
        raise StoreError(
            f"search {search} of {path} is another search: {listed}. Resume with what it was begun with, "
            f"or drop it: atb store gc --drop-search {search}"
        )
    return found


def read(path: Path, connection: sqlite3.Connection, search: str) -> History:
    """Within the caller's transaction. `StoreError` where it is not there or damaged."""
    header, lines = load(path, connection, search)
    return History(path, connection, search, header, lines)


def load(path: Path, connection: sqlite3.Connection, search: str, *, count_only: bool = False) -> tuple[str, Any]:
    """The header and all evaluations as JSON, checked; or the header and how many there are."""
    row = connection.execute("SELECT header FROM searches WHERE id = ?", (search,)).fetchone()
    if row is None:
        raise StoreError(f"{path} has no search {search!r}; `atb store ls --searches` shows those it has")
    if count_only:
        (count,) = connection.execute("SELECT count(*) FROM evaluations WHERE search = ?", (search,)).fetchone()
        return row[0], count
    lines, damage = good_lines(connection, search)
    if damage is None and not is_object(row[0]):
        damage = "its header is no JSON object"
    if damage is not None:
        raise StoreError(
            f"the store {path} is damaged: search {search}: {damage}. `atb store gc` cuts it there, to resume before it"
        )
    return row[0], lines


def good_lines(connection: sqlite3.Connection, search: str) -> tuple[list[str], str | None]:
    """The evaluations up to the first that is damaged or missing, and what is wrong with that one."""
    lines: list[str] = []
    for position, line in connection.execute(
        "SELECT position, candidate FROM evaluations WHERE search = ? ORDER BY position", (search,)
    ):
        if position != len(lines):
            return lines, f"evaluation {len(lines) + 1} is missing"
        if not is_object(line):
            return lines, f"evaluation {len(lines) + 1} is no JSON object"
        lines.append(line)
    return lines, None


def is_object(text: object) -> bool:
    """Whether it is the JSON text of an object."""
    try:
        return isinstance(text, str) and isinstance(parse(text), dict)
    except ValueError:
        return False


def listed(path: Path, connection: sqlite3.Connection) -> list[tuple[str, dict[str, Any], str, int]]:
    """(id, header, created, number of evaluations) of every search, oldest first."""
    with reading(path, connection):
        rows = connection.execute(
            "SELECT id, header, created, (SELECT count(*) FROM evaluations WHERE search = searches.id) "
            "FROM searches ORDER BY created, id"
        ).fetchall()
    found = []
    for search, header, created, count in rows:
        try:
            check_name("a search's id", search, longest=200)
            check_time("created", created)
            if not is_object(header):
                raise ValueError("its header is no JSON object")
        except ValueError as error:
            raise StoreError(
                f"the store {path} has a damaged search, {search!r}: {error}. `atb store gc` removes it"
            ) from error
        found.append((search, parse(header), created, count))
    return found


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
