"""Train, search-dev and test rows that share no text; the same rows and seed give the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from supernet.data.rows import Row, is_regression, labels_of
from supernet.errors import DataError

# A regression is stratified by tenths of its rows in label order.
_REGRESSION_STRATA = 10

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Rows to train on, to search with, and to report on; `dropped` counts those left out."""

    train: tuple[Row, ...]
    search_dev: tuple[Row, ...]
    test: tuple[Row, ...]
    dropped: int = 0

    def __post_init__(self) -> None:
        for name in ("train", "search_dev", "test"):
            if not getattr(self, name):
                raise DataError(f"every split needs rows, but {name} has none")
        if len({len(row.texts) for row in (*self.train, *self.search_dev, *self.test)}) > 1:
            raise DataError("all rows have one text or all have two, got both; check the text columns of each file")
        kinds = {is_regression(rows) for rows in (self.train, self.search_dev, self.test)}
        if len(kinds) > 1:
            raise DataError("labels are class names in all splits or numbers in all, got both")
        known = set(self.labels)
        for name in ("search_dev", "test"):
            if strange := sorted(set(labels_of(getattr(self, name))) - known):
                raise DataError(
                    f"every label of {name} occurs in train, but {strange[:10]} do not; train has {sorted(known)[:20]}"
                )
        keys = [{row.key for row in rows} for rows in (self.train, self.search_dev, self.test)]
        if keys[0] & keys[1] or keys[0] & keys[2] or keys[1] & keys[2]:
            raise DataError("the splits share texts; make them with split_rows or join_splits, which drop copies")

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names in the order of the model's outputs; one name for a regression."""
        return labels_of(self.train)


def split_rows(rows: Sequence[Row], *, seed: int, test_rows: int, search_dev_rows: int) -> Splits:
    """Cuts one set of labelled rows in three, each with the labels in the same proportions.

    Copies of a text (but for letter case and white space) are dropped first: one stays where their labels
    agree, none where they do not. The order of `rows` does not matter. Raises `DataError` for one class only
    and where the rows are too few.
    """
    for name, count in (("test_rows", test_rows), ("search_dev_rows", search_dev_rows)):
        if count < 1:
            raise DataError(f"{name} must be 1 or more, got {count}")
    unique = _without_copies(rows)
    _refuse_one_class("the data set", unique)
    rng = Random(seed)
    test, rest = _carve(unique, test_rows, rng, f"test_rows = {test_rows}")
    search_dev, train = _carve(rest, search_dev_rows, rng, f"search_dev_rows = {search_dev_rows}")
    return Splits(train=train, search_dev=search_dev, test=test, dropped=len(rows) - len(unique))


def join_splits(
    *,
    train: Sequence[Row],
    test: Sequence[Row],
    search_dev: Sequence[Row] | None = None,
    search_dev_rows: int = 0,
    seed: int = 0,
    held_out: Iterable[Row] = (),
) -> Splits:
    """Splits that were read from files of their own.

    Test rows stay as they are, in their order, so that accuracies compare with published ones; what they hold
    is dropped from search-dev and train, and so is what the further rows in `held_out` hold. Without `search_dev`, that
    many rows are taken from train.
    """
    if (search_dev is None) == (search_dev_rows < 1):
        raise DataError("search-dev rows come from a file of their own or from train: give one of the two")
    _refuse_one_class("test", test)
    rng = Random(seed)
    kept_back = {row.key for row in (*test, *held_out)}
    unique = _without_copies(row for row in train if row.key not in kept_back)
    if search_dev is None:
        _refuse_one_class("train", unique)
        chosen, unique = _carve(unique, search_dev_rows, rng, f"search_dev_rows = {search_dev_rows}")
        given = 0
    else:
        chosen = tuple(row for row in search_dev if row.key not in kept_back)
        given = len(search_dev)
        _refuse_one_class("search_dev", chosen)
        kept = {row.key for row in chosen}
        unique = _shuffled([row for row in unique if row.key not in kept], rng)
    _refuse_one_class("train", unique)
    kept_rows = len(unique) + len(chosen)
    return Splits(train=tuple(unique), search_dev=chosen, test=tuple(test), dropped=len(train) + given - kept_rows)


def _without_copies(rows: Iterable[Row]) -> Sequence[Row]:
    """One row for each text, in the order of the texts; none where copies disagree on the label."""
    by_key: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        by_key.setdefault(row.key, []).append(row)
    agreed = (copies for _, copies in sorted(by_key.items()) if len({row.label for row in copies}) == 1)
    return [min(copies, key=lambda row: row.texts) for copies in agreed]


def _refuse_one_class(what: str, rows: Sequence[Row]) -> None:
    if not rows:
        raise DataError(f"{what} has no labelled rows left once copies of the same text are dropped")
    labels = {row.label for row in rows}
    is_regression(rows)
    if len(labels) < 2:
        raise DataError(
            f"a task has two or more different labels, but all {len(rows)} rows of {what} are labelled "
            f"{labels.pop()!r}; check the label column and the `where` conditions"
        )


def _carve(rows: Sequence[Row], count: int, rng: Random, asked: str) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """`count` rows with the labels in proportion, and the rest, which keeps a row of each label at least."""
    strata = _strata(rows)
    quotas = _quotas([len(stratum) for stratum in strata], count)
    if quotas is None:
        raise DataError(
            f"{asked} cannot be taken from {len(rows)} rows with different texts and leave one of each of "
            f"{len(strata)} labels to train on; at most {len(rows) - len(strata)} can"
        )
    taken: list[Row] = []
    rest: list[Row] = []
    for stratum, quota in zip(strata, quotas, strict=True):
        order = _shuffled(stratum, rng)
        taken += order[:quota]
        rest += order[quota:]
    return tuple(_shuffled(taken, rng)), tuple(_shuffled(rest, rng))


def _strata(rows: Sequence[Row]) -> list[list[Row]]:
    if is_regression(rows):
        order = sorted(rows, key=lambda row: (float(row.label or 0), row.key, row.texts))
        tenths = min(_REGRESSION_STRATA, len(order))
        return [order[len(order) * i // tenths : len(order) * (i + 1) // tenths] for i in range(tenths)]
    groups: dict[str, list[Row]] = {label: [] for label in labels_of(rows)}
    for row in sorted(rows, key=lambda row: (row.key, row.texts)):
        groups[str(row.label)].append(row)
    return list(groups.values())


def _quotas(sizes: Sequence[int], count: int) -> list[int] | None:
    """Shares of `count` in proportion to `sizes`, each below its size; None if too many."""
    if count > sum(sizes) - len(sizes):
        return None
    total = sum(sizes)
    quotas = [min(count * size // total, size - 1) for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(count * sizes[i] % total), i))
    while (missing := count - sum(quotas)) > 0:
        for i in [i for i in by_remainder if quotas[i] < sizes[i] - 1][:missing]:
            quotas[i] += 1
    return quotas


def _shuffled(items: Sequence[_T], rng: Random) -> list[_T]:
    """Sorts by `rng.random()`, whose sequence Python promises to keep; it does not for `shuffle`."""
    draws = [rng.random() for _ in items]
    return [items[i] for i in sorted(range(len(items)), key=draws.__getitem__)]
