"""Rows from a file of an installed package, a local file or directory, or a hub data set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from supernet.data.formats import read_records
from supernet.data.hub import read_hub
from supernet.data.location import files_of, local_path
from supernet.data.rows import Row
from supernet.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows are and which of their columns matter.

    `path` is `package:NAME/file`, a csv, tsv (quotes are characters), jsonl, parquet or txt file, a directory
    with one of these per split, or a hub name. `text` names one or two columns, `label` one or none. Only
    rows whose columns equal `where` are read. With `numeric` labels are numbers. `subset` is for the hub
    alone. Without `header` the columns of a csv or tsv are named "0", "1", ... With `skip_ragged` lines of a tsv whose
    number of columns differs from the first's are left out instead of refused.
    """

    path: str
    text: tuple[str, ...] = ("text",)
    label: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    subset: str | None = None
    numeric: bool = False
    header: bool = True
    skip_ragged: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.text) <= 2 or not all(self.text):
            raise DataError(f"a source names one or two text columns, got {list(self.text)}")
        if self.label in self.text:
            raise DataError(f"the label column is none of the text columns, got {self.label!r} as both")
        if self.label == "":
            raise DataError("the label column has a name, got an empty one")


def read_rows(source: Source) -> list[Row]:
    """All rows, in the order of the source; raises `DataError` as `iterate_rows` does."""
    return list(iterate_rows(source))


def iterate_rows(source: Source) -> Iterator[Row]:
    """The rows as they are read, in the order of the source, so that a source may be larger than the memory.

    Empty texts stay, for a user may have them; raises `DataError` where a column or label is missing or a file is
    broken, and at the end where all texts were empty or no row was left.
    """
    columns = [*source.text, *([source.label] if source.label else []), *source.where]
    rest = len(columns) - len(source.where)
    conditions = list(source.where.items())
    seen: list[set[str]] = [set() for _ in conditions]
    total = count = 0
    filled = False
    for place, number, values in _records(source, columns):
        total += 1
        skip = False
        for i, (_, wanted) in enumerate(conditions):
            value = _as_label(values[rest + i])
            if len(seen[i]) < 10:
                seen[i].add(value or "")
            skip = skip or value != wanted
        if not skip:
            row = _row(source, place, number, values)
            count += 1
            filled = filled or any(text.strip() for text in row.texts)
            yield row
    if not count:
        exist = "; ".join(
            f'"{n}" holds {", ".join(map(repr, sorted(s)))}' for (n, _), s in zip(conditions, seen, strict=True)
        )
        asked = f" with {dict(source.where)}; of its {total} rows, {exist}" if total and conditions else ""
        raise DataError(f"{source.path} has no rows{asked}")
    if not filled:
        raise DataError(f"{source.path}: all {count} texts of {', '.join(source.text)} are empty; check the columns")


def _records(source: Source, columns: Sequence[str]) -> Iterator[tuple[object, int, Sequence[Any]]]:
    """The place, the number in that place and the values of every record."""
    path = local_path(source.path)
    if path is None:
        for number, values in read_hub(source.path, columns, subset=source.subset, split=source.split):
            yield source.path, number, values
        return
    if source.subset is not None:
        raise DataError(
            f"a subset is for hub data sets; {source.path!r} is a local path, drop subset={source.subset!r}"
        )
    for file in files_of(path, source.split):
        for number, values in read_records(file, columns, header=source.header, skip_ragged=source.skip_ragged):
            yield file, number, values


def _row(source: Source, place: object, number: int, values: Sequence[Any]) -> Row:
    count = len(source.text)
    texts = []
    for column, value in zip(source.text, values[:count], strict=True):
        if value is not None and not isinstance(value, str):
            raise DataError(f'{place}, row {number}: column "{column}" holds text, got {value!r:.60}')
        texts.append(_clean(value or ""))
    if source.label is None:
        return Row(texts=tuple(texts))
    label = _as_label(values[count])
    if label is None:
        raise DataError(f'{place}, row {number}: every row needs a label, but column "{source.label}" is empty')
    return Row(texts=tuple(texts), label=_number(source, place, number, label) if source.numeric else label)


def _clean(text: str) -> str:
    """JSON can hold halves of a character, which no tokenizer takes: they become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _as_label(value: object) -> str | None:
    """One spelling for one class, whatever the file's type for it: 1, 1.0 and "1" are "1"."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else str(value)
    return _clean(str(value)).strip() or None


def _number(source: Source, place: object, number: int, label: str) -> float:
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f'{place}, row {number}: column "{source.label}" holds numbers (regression), got {label!r:.60}')
    return value
