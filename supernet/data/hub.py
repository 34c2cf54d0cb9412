"""Data sets by name, through the optional package `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from supernet.data.formats import Record, find_columns
from supernet.errors import DataError


def read_hub(name: str, columns: Sequence[str], *, subset: str | None, split: str | None) -> Iterator[Record]:
    """Every record of one split ("train" unless named); class numbers become the hub's class names.

    Raises `DataError` where `datasets` is missing, the hub cannot be reached or knows no such data set.
    """
    what = f"{name!r} is no local file, so it is taken for a data set of the hub"
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{what}, and reading those needs the package datasets: pip install 'atb-export[hub]', "
            "or name a csv, tsv, jsonl or parquet file"
        ) from error
    wanted = {"dev": "validation"}.get(split or "train", split or "train")
    try:
        table = datasets.load_dataset(name, subset, split=wanted)
    except Exception as error:  # the hub's client raises errors of many packages
        part = f" (subset {subset!r})" if subset else ""
        raise DataError(
            f"{what}, and its split {wanted!r}{part} could not be loaded ({type(error).__name__}: {error}); "
            "check the name and the network, or name a local file"
        ) from error
    find_columns(name, columns, list(table.column_names))
    names = {column: getattr(table.features[column], "names", None) for column in columns}
    for number, record in enumerate(table.select_columns(sorted(set(columns))), 1):
        yield number, [_named(record[column], names[column]) for column in columns]


def _named(value: object, names: Sequence[str] | None) -> object:
    """The class name of a class number; -1 marks a row without label."""
    if names is None or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None
