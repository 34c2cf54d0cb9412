from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from random import Random

import pytest

from supernet.data.rows import Row
from supernet.data.split import Splits, join_splits, split_rows
from supernet.errors import DataError


def make(sizes: dict[str, int]) -> list[Row]:
    return [Row(texts=(f"text {label} {i}",), label=label) for label, n in sizes.items() for i in range(n)]


def counts(rows: tuple[Row, ...]) -> dict[object, int]:
    return dict(Counter(row.label for row in rows))


def digest(splits: Splits) -> str:
    text = repr([[(row.texts, row.label) for row in part] for part in (splits.train, splits.search_dev, splits.test)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def test_labels_keep_their_proportions_and_splits_share_nothing() -> None:
    rows = make({"a": 600, "b": 300, "c": 100})
    splits = split_rows(rows, seed=3, test_rows=100, search_dev_rows=50)
    assert counts(splits.test) == {"a": 60, "b": 30, "c": 10}
    assert counts(splits.search_dev) == {"a": 30, "b": 15, "c": 5}
    assert sorted((*splits.train, *splits.search_dev, *splits.test), key=rows.index) == rows
    assert splits.labels == ("a", "b", "c")
    assert len({row.label for row in splits.train[:20]}) > 1, "train is shuffled"


def test_the_same_seed_gives_the_same_splits_whatever_the_order_and_the_process() -> None:
    rows = make({"a": 30, "b": 21})
    first = split_rows(rows, seed=5, test_rows=10, search_dev_rows=7)
    assert digest(first) == "4c9641b57111"  # of another process; a change of it makes finished runs stale
    Random(0).shuffle(rows)
    assert split_rows(rows, seed=5, test_rows=10, search_dev_rows=7) == first
    assert split_rows(rows, seed=6, test_rows=10, search_dev_rows=7).test != first.test


def test_copies_are_dropped_before_splitting() -> None:
    rows = make({"a": 20, "b": 20})
    copies = [Row(texts=(f"  {row.texts[0].upper()}\n",), label=row.label) for row in rows]
    splits = split_rows(rows + copies + rows, seed=1, test_rows=8, search_dev_rows=8)
    kept = [row.key for row in (*splits.train, *splits.search_dev, *splits.test)]
    assert len(kept) == len(set(kept)) == 40
    assert splits.dropped == 80


def test_a_text_with_two_labels_has_no_right_one() -> None:
    rows = [*make({"a": 20, "b": 20}), Row(texts=("both",), label="a"), Row(texts=("Both ",), label="b")]
    splits = split_rows(rows, seed=1, test_rows=8, search_dev_rows=8)
    assert splits.dropped == 2
    assert ("both",) not in {row.key for row in (*splits.train, *splits.search_dev, *splits.test)}


def test_rare_labels_stay_in_train() -> None:
    splits = split_rows(make({"a": 50, "b": 1, "c": 2}), seed=1, test_rows=25, search_dev_rows=25)
    assert counts(splits.train) == {"a": 1, "b": 1, "c": 1}


def test_a_regression_is_stratified_by_its_numbers() -> None:
    rows = [Row(texts=(str(i), "pair"), label=i / 100) for i in range(500)]
    splits = split_rows(rows, seed=1, test_rows=50, search_dev_rows=50)
    assert Counter(int(float(row.label or 0) * 2) for row in splits.test) == dict.fromkeys(range(10), 5)
    assert splits.labels == ("score",)


@pytest.mark.parametrize(
    ("rows", "test_rows", "message"),
    [
        ([], 5, "no labelled rows"),
        (make({"a": 100}), 5, "two or more different labels, but all 100 rows"),
        ([Row(texts=(str(i),), label=1.0) for i in range(100)], 5, "two or more different labels"),
        (make({"a": 5, "b": 5}), 9, "at most 8 can"),
        (make({"a": 50, "b": 50}), 0, "test_rows must be 1 or more"),
        ([Row(texts=(str(i),)) for i in range(100)], 5, "every row needs a label"),
        ([*make({"a": 50, "b": 50}), Row(texts=("p", "q"), label="a")], 50, "one text or all have two"),
    ],
)
def test_sets_that_cannot_be_split_are_refused(rows: list[Row], test_rows: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_rows(rows, seed=1, test_rows=test_rows, search_dev_rows=1)


def test_files_of_their_own_keep_the_test_as_it_is() -> None:
    train, test = make({"a": 40, "b": 40}), make({"a": 5, "b": 4})
    test = [*test, test[0]]
    splits = join_splits(train=train, test=test, search_dev_rows=10, seed=1)
    assert splits.test == tuple(test)
    assert counts(splits.search_dev) == {"a": 5, "b": 5}
    assert (len(splits.train), splits.dropped) == (80 - 9 - 10, 9)
    assert join_splits(train=train[::-1], test=test, search_dev_rows=10, seed=1) == splits

    dev = [train[10], train[50], test[0]]
    splits = join_splits(train=train, test=test, search_dev=dev, seed=1)
    assert splits.search_dev == (train[10], train[50])
    assert (len(splits.train), splits.dropped) == (80 - 9 - 2, 9 + 2 + 1)


def test_files_that_do_not_go_together_are_refused() -> None:
    train, test = make({"a": 40, "b": 40}), [Row(texts=(f"new {y}",), label=y) for y in "abc"]
    with pytest.raises(DataError, match=r"every label of test occurs in train, but \['c'\] do not"):
        join_splits(train=train, test=test, search_dev_rows=10)
    with pytest.raises(DataError, match="all 1 rows of test"):
        join_splits(train=train, test=test[:1], search_dev_rows=10)
    with pytest.raises(DataError, match="give one of the two"):
        join_splits(train=train, test=test[:2])
    with pytest.raises(DataError, match="numbers in all"):
        join_splits(train=train, test=[Row(texts=(f"new {y}",), label=float(y)) for y in range(3)], search_dev_rows=10)


def test_splits_check_themselves() -> None:
    splits = split_rows(make({"a": 20, "b": 20}), seed=1, test_rows=8, search_dev_rows=8)
    with pytest.raises(DataError, match="share texts"):
        dataclasses.replace(splits, search_dev=splits.test)
    with pytest.raises(DataError, match="test has none"):
        dataclasses.replace(splits, test=())
