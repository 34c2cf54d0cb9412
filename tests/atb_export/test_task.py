from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from atb_export.recipe import Recipe, parse_recipe
from atb_export.task import label_tensor, load_task
from supernet.batches import tokenize
from supernet.data.rows import Row
from supernet.errors import DataError


@pytest.fixture
def recipe(tiny_recipe: Callable[..., str]) -> Callable[..., Recipe]:
    return lambda extra="", **changes: parse_recipe((tiny_recipe(**changes) + extra).encode())


def write(path: Path, header: list[str], rows: list[list[Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def test_the_same_recipe_gives_the_same_rows(recipe: Callable[..., Recipe]) -> None:
    data = load_task(recipe())
    assert data.counts() == {"train": 280, "search_dev": 60, "test": 80}
    assert data.labels == ("neg", "pos")
    assert data.pairs is False
    assert load_task(recipe()).splits == data.splits
    assert load_task(recipe(seed=4)).splits.test != data.splits.test
    keys = [{row.key for row in getattr(data.splits, name)} for name in data.counts()]
    assert len(set.union(*keys)) == sum(map(len, keys))


def test_a_file_for_each_split(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """Two texts a row, numbers as labels."""
    paths = {}
    for i, (name, count) in enumerate((("train", 40), ("search_dev", 20), ("test", 12))):
        rows = [[f"left {i} {j}", f"right {j}", j / 7] for j in range(count)]
        paths[f"task__{name}"] = write(tmp_path / f"{name}.csv", ["a", "b", "score"], rows)
    dropped: dict[str, Any] = dict.fromkeys(("task__path", "task__search_dev_rows", "task__test_rows"))
    changes = {"task__text": ["a", "b"], "task__label": "score", "task__kind": "regression"}
    data = load_task(recipe(**dropped, **paths, **changes))
    assert data.counts() == {"train": 40, "search_dev": 20, "test": 12}
    assert data.pairs is True
    assert len(data.labels) == 1
    targets = label_tensor(data.splits.test, data.labels)
    assert targets.dtype == torch.float32
    assert targets.tolist() == pytest.approx([j / 7 for j in range(12)])


def test_transfer_text_holds_nothing_of_what_is_measured_on(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    held_out = load_task(recipe()).splits.test[0].texts[0]
    path = write(tmp_path / "t.csv", ["text"], [[held_out.upper()], ["an unseen story with clever people in it."]])
    extra = f'\n[transfer]\npath = "{path}"\nmin_words = 1\n'
    found = load_task(recipe(extra)).transfer
    assert found == ("an unseen story with clever people in it.",)
    rows = [["left one", "right", i % 2] for i in range(2)] + [[f"l {i}", f"r {i}", i % 2] for i in range(300)]
    pairs = write(tmp_path / "pairs.csv", ["a", "b", "label"], rows)
    with pytest.raises(DataError, match=r"drop \[transfer\]"):
        load_task(recipe(extra, task__path=pairs, task__text=["a", "b"]))


def test_labels_are_indexed_as_the_model_has_them() -> None:
    rows = [Row(texts=("x",), label=label) for label in ("b", "a", "c", "a")]
    assert label_tensor(rows, ("c", "a", "b")).tolist() == [2, 1, 0, 1]


@pytest.mark.parametrize("names", [["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"]])
def test_pairs_have_segments_where_the_model_takes_them(tokenizer: Any, names: list[str]) -> None:
    plain = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]", model_input_names=names)
    found = tokenize(plain, [("good", "bad film")], max_length=16)
    assert found.token_type_ids == (([0, 0, 0, 1, 1, 1],) if "token_type_ids" in names else None)
