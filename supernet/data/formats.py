"""Readers of csv, tsv, jsonl, parquet and plain text: each gives the wanted columns of every record."""

from __future__ import annotations

import csv
import difflib
import itertools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from supernet.errors import DataError

# One field of a csv; far above any text, far below a file whose quote is never closed.
MAX_FIELD_CHARACTERS = 10_000_000
_FIELD_LIMIT = threading.Lock()
_CSV_RECORDS = 1000  # read at a time

# The place of a record in its file, for messages, and its values in the order of the wanted columns.
Record = tuple[int, Sequence[Any]]


def read_records(path: Path, columns: Sequence[str], *, header: bool, skip_ragged: bool = False) -> Iterator[Record]:
    """Every record of one file, as they are read; raises `DataError` where the file is not what its suffix says.

    Without a header (csv and tsv only) columns are named by position: "0", "1", ... With `skip_ragged` lines of a tsv
    that have another number of columns than its first are left out.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: rows are read from {', '.join(_READERS)} files, got {path.suffix or 'no suffix'!r}")
    if not header and path.suffix.lower() not in (".csv", ".tsv"):
        raise DataError(f"{path}: only csv and tsv files can lack a header")
    try:
        if skip_ragged and path.suffix.lower() == ".tsv":
            yield from _read_tsv(path, columns, header, skip_ragged=True)
        else:
            yield from reader(path, columns, header)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text at byte {error.start}; convert it to UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def find_columns(path: object, wanted: Sequence[str], present: Sequence[str]) -> list[int]:
    """The position of each wanted column; raises `DataError` that names the nearest where one is missing."""
    for name in wanted:
        if name not in present:
            near = difflib.get_close_matches(name, present, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise DataError(f'{path} has no column "{name}"{hint} Its columns are {_listed(present)}')
    return [list(present).index(name) for name in wanted]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(f'"{name[:60]}"' for name in names[:20]) + more


def _select(
    path: Path, columns: Sequence[str], header: bool, lines: Iterator[Record], *, skip_ragged: bool = False
) -> Iterator[Record]:
    """Picks the columns out of split lines, each as wide as the first."""
    first = next(lines, None)
    if first is None:
        raise DataError(f"{path} is empty; it needs {'a header and ' if header else ''}rows")
    width = len(first[1])
    places = find_columns(path, columns, first[1] if header else [str(i) for i in range(width)])
    if not header:
        yield first[0], [first[1][i] for i in places]
    for number, fields in lines:
        if len(fields) != width:
            if skip_ragged:
                continue
            raise DataError(
                f"{path}, line {number}: every line has as many columns as the first ({width}), "
                f"got {len(fields)}; a text with the separator in it is quoted in a csv, impossible in a tsv"
            )
        yield number, [fields[i] for i in places]


def _csv_lines(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        records = ((reader.line_num, fields) for fields in reader if fields)
        while True:
            # The limit is the process's: it is raised while some records are read and put back after, by one at a time.
            with _FIELD_LIMIT:
                before = csv.field_size_limit(MAX_FIELD_CHARACTERS)
                try:
                    some = list(itertools.islice(records, _CSV_RECORDS))
                except csv.Error as error:
                    raise DataError(f"{path}, line {reader.line_num}: not a csv ({error}); check the quotes") from error
                finally:
                    csv.field_size_limit(before)
            if not some:
                return
            yield from some


def _read_csv(path: Path, columns: Sequence[str], header: bool) -> Iterator[Record]:
    return _select(path, columns, header, _csv_lines(path))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines end with a line feed only: texts may hold the other characters Python takes for line ends."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            yield number, line.removesuffix("\n").removesuffix("\r")


def _read_tsv(path: Path, columns: Sequence[str], header: bool, *, skip_ragged: bool = False) -> Iterator[Record]:
    """GLUE's way: a quote is a character like any other."""
    lines = ((number, line.split("\t")) for number, line in _lines(path) if line)
    return _select(path, columns, header, lines, skip_ragged=skip_ragged)


def _read_jsonl(path: Path, columns: Sequence[str], _: bool) -> Iterator[Record]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: each line is one JSON object ({error})") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: each line is one JSON object, got {line[:60]!r}")
        try:
            yield number, [record[name] for name in columns]
        except KeyError:
            find_columns(f"{path}, line {number}", columns, list(record))


def _read_parquet(path: Path, columns: Sequence[str], _: bool) -> Iterator[Record]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"{path}: parquet files need pyarrow; pip install pyarrow") from error
    try:
        with pq.ParquetFile(path) as file:
            find_columns(path, columns, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(columns=list(dict.fromkeys(columns))):
                values = {name: batch.column(name).to_pylist() for name in batch.schema.names}
                for i in range(batch.num_rows):
                    number += 1
                    yield number, [values[name][i] for name in columns]
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a readable parquet file ({error})") from error


def _read_text(path: Path, columns: Sequence[str], _: bool) -> Iterator[Record]:
    find_columns(path, columns, ["text"])
    for number, line in _lines(path):
        if line.strip():
            yield number, [line] * len(columns)


_READERS: dict[str, Callable[[Path, Sequence[str], bool], Iterator[Record]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".txt": _read_text,
    ".raw": _read_text,
}
