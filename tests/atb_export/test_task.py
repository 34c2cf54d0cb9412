from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from atb_export.recipe import Recipe, parse_recipe
from atb_export.task import label_tensor, load_task, other_task
from supernet.batches import tokenize
from supernet.data.rows import Row
from supernet.data.source import Source
from supernet.errors import DataError
from supernet.metrics import Metrics, metrics_of


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


def test_labels_are_indexed_as_the_model_has_them() -> None:
    rows = [Row(texts=("x",), label=label) for label in ("b", "a", "c", "a")]
    assert label_tensor(rows, ("c", "a", "b")).tolist() == [2, 1, 0, 1]


@pytest.mark.parametrize("names", [["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"]])
def test_pairs_have_segments_where_the_model_takes_them(tokenizer: Any, names: list[str]) -> None:
    plain = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]", model_input_names=names)
    found = tokenize(plain, [("good", "bad film")], max_length=16)
    assert found.token_type_ids == (([0, 0, 0, 1, 1, 1],) if "token_type_ids" in names else None)


# --- GLUE ------------------------------------------------------------------------------------------------------------


def glue(tmp_path: Path, name: str, header: str, line: Callable[[int], str], *devs: str, count: int = 60) -> str:
    """The official layout of a task, with `count` rows to train on and 12 in each dev set."""
    folder = tmp_path / "glue" / name
    folder.mkdir(parents=True)
    for k, (file, rows) in enumerate([("train", count), *((dev, 12) for dev in devs)]):
        lines = [line(1000 * k + i) for i in range(rows)]
        (folder / f"{file}.tsv").write_text("".join(f"{x}\n" for x in [*([header] if header else []), *lines]))
    return str(tmp_path / "glue")


DROPPED: dict[str, Any] = {"task__test_rows": None}


def test_a_glue_task_by_name(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """MRPC: labels by the hub's names, F1 of the equivalent ones, wherever the teacher has them."""
    path = glue(
        tmp_path,
        "MRPC",
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        lambda i: f"{i % 3 > 0:d}\t{i}\t{i}\tHe said {i} .\tShe said {i} .",
        "dev",
    )
    changes = {"task__kind": "glue", "task__name": "mrpc", "task__path": path, "task__search_dev_rows": 20}
    data = load_task(recipe(**DROPPED, **changes))
    assert data.counts() == {"train": 40, "search_dev": 20, "test": 12}
    assert data.labels == ("not_equivalent", "equivalent")
    assert data.pairs
    assert label_tensor(data.splits.test, data.labels).tolist() == [i % 3 > 0 for i in range(1000, 1012)]
    assert data.metrics(data.labels) == Metrics(names=("f1", "accuracy"), positive=1)
    assert data.metrics(data.labels[::-1]).positive == 0
    with pytest.raises(DataError, match="no task 'mrcp'; did you mean \"mrpc\""):
        load_task(recipe(**DROPPED, **(changes | {"task__name": "mrcp"})))


def test_both_dev_sets_are_held_out(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    labels = ("entailment", "neutral", "contradiction")
    path = glue(
        tmp_path,
        "MNLI",
        "index\tsentence1\tsentence2\tgold_label",
        lambda i: f"{i}\tOne {i}\tTwo\t{labels[i % 3]}",
        "dev_matched",
        "dev_mismatched",
    )
    file = Path(path, "MNLI", "train.tsv")
    file.write_text(file.read_text() + "99\tone  2005\tTWO\tneutral\n99\tone 1005\ttwo\tneutral\n")
    changes = {"task__kind": "glue", "task__name": "mnli", "task__path": path, "task__search_dev_rows": 15}
    data = load_task(recipe(**DROPPED, **changes))
    assert data.counts() == {"train": 45, "search_dev": 15, "test": 12}
    assert data.splits.dropped == 2
    assert {name: len(rows) for name, rows in data.more_tests.items()} == {"mismatched": 12}
    assert data.splits.test[5].texts[0] == "One 1005"
    assert data.more_tests["mismatched"][5].texts[0] == "One 2005"
    assert len(data.held_out) == 15 + 12 + 12
    assert data.metrics(data.labels).names == ("accuracy",)


def test_a_regression_of_glue(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    path = glue(
        tmp_path, "STS-B", "index\tsentence1\tsentence2\tscore", lambda i: f"{i}\ta {i}\tb\t{i % 11 / 2:.3f}", "dev"
    )
    changes = {"task__kind": "glue", "task__name": "stsb", "task__path": path, "task__search_dev_rows": 15}
    data = load_task(recipe(**DROPPED, **changes))
    assert data.labels == ("score",)
    assert data.metrics(data.labels).names == ("spearman", "pearson")
    assert label_tensor(data.splits.test, data.labels).dtype == torch.float32


def test_plain_files_are_scored_as_ever(recipe: Callable[..., Recipe]) -> None:
    data = load_task(recipe())
    assert data.metrics(data.labels) == metrics_of(2)
    assert data.metrics(data.labels).primary == metrics_of(2).primary == "accuracy"


# --- other tasks of a teacher -----------------------------------------------------------------------------------------


class Other:
    """A part of `[[teacher.tasks]]`."""

    def __init__(self, kind: str, name: str | None, path: str, **source: Any) -> None:
        self.kind, self.name, self.path = kind, name, path
        self.more = source

    def source(self) -> Source:
        return Source(path=self.path, **self.more)


def test_other_tasks_hold_nothing_of_what_is_measured_on(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["text", "label"], [["One two.", "a"], ["three", "b"]])
    rows, labels = other_task(Other("classification", None, path, label="label"), held_out=[Row(texts=("one  TWO.",))])
    assert [row.texts for row in rows] == [("three",)]
    assert labels == ("a", "b")
    folder = glue(tmp_path, "RTE", "index\tsentence1\tsentence2\tlabel", lambda i: f"{i}\ta {i}\tb\tentailment", "dev")
    rows, labels = other_task(Other("glue", "rte", folder))
    assert len(rows) == 60
    assert labels == ("entailment", "not_entailment")
    with pytest.raises(DataError, match="has no row that is not held out"):
        other_task(
            Other("classification", None, path, label="label"),
            held_out=[Row(texts=(x,)) for x in ("one two.", "three")],
        )
