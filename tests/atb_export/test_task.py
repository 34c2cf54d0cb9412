from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from atb_export.recipe import Recipe, parse_recipe
from atb_export.task import (
    TaskData,
    augment_task,
    label_tensor,
    lessons,
    load_questions,
    load_task,
    other_task,
    span_lessons,
    transfer_count,
)
from supernet.augmentation import AugmentPlan
from supernet.batches import BatchOrder, tokenize
from supernet.data.rows import Row
from supernet.data.source import Source
from supernet.distillation import teach
from supernet.errors import DataError
from supernet.losses import UNLABELLED
from supernet.metrics import Metrics, metrics_of
from supernet.stage import LossWeights, Sampler, Stage
from supernet.teacher import Teacher, load_teacher, supernet_from_bert


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


# --- lessons ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def taught(recipe: Callable[..., Recipe], tiny_teacher: Path, tmp_path: Path) -> tuple[Teacher, TaskData]:
    path = write(tmp_path / "t.csv", ["body"], [[f"an unseen story of {i} clever people."] for i in range(33)])
    data = load_task(recipe(f'\n[transfer]\npath = "{path}"\ntext = ["body"]\n'))
    return load_teacher(str(tiny_teacher), labels=data.labels, seed=0), data


def test_each_kind_of_data(taught: tuple[Teacher, TaskData]) -> None:
    teacher, data = taught
    kinds = {kind: lessons(teacher, data, max_length=16, kind=kind) for kind in ("all", "task", "transfer")}
    assert {kind: len(x.texts) for kind, x in kinds.items()} == {"all": 2 * 280 + 33, "task": 280, "transfer": 33}
    own = label_tensor(data.splits.train, teacher.labels)
    assert torch.equal(kinds["task"].labels, own)
    assert torch.equal(kinds["all"].labels, torch.cat([own, own, torch.full((33,), UNLABELLED)]))
    assert set(kinds["transfer"].labels.tolist()) == {UNLABELLED}
    assert all(x.masking is not None and x.masking.mask_token_id == 4 for x in kinds.values())
    with pytest.raises(DataError, match=r"needs \[augmentation\]"):
        lessons(teacher, data, max_length=16, kind="augmented")


def test_text_in_a_file_is_the_same_lesson(taught: tuple[Teacher, TaskData], tmp_path: Path) -> None:
    teacher, data = taught
    for kind in ("all", "transfer"):
        memory = lessons(teacher, data, max_length=8, kind=kind)
        kept = lessons(teacher, data, max_length=8, kind=kind, folder=tmp_path / "tokens")
        assert list(kept.texts.input_ids) == list(memory.texts.input_ids)
        assert torch.equal(kept.labels, memory.labels)
        order = [BatchOrder(x.texts.lengths, batch_size=16, seed=1)[3] for x in (memory, kept)]
        assert order[0] == order[1]
    assert len(list((tmp_path / "tokens").iterdir())) == 1
    assert transfer_count(teacher, data, max_length=8, folder=tmp_path / "tokens") == 33


def test_augmented_rows(taught: tuple[Teacher, TaskData], tiny_teacher: Path, tmp_path: Path) -> None:
    teacher, data = taught
    plan = AugmentPlan(variants=3, candidates=4)
    more: dict[str, Any] = {"checkpoint": str(tiny_teacher), "max_length": 16, "folder": tmp_path / "tokens"}
    new = augment_task(teacher, data, plan, **more)
    assert 2 * 280 < len(new) <= 3 * 280
    found = lessons(teacher, data, max_length=16, kind="augmented", augmented=new)
    assert len(found.texts) == 280 + len(new)
    assert torch.equal(found.labels[:280], label_tensor(data.splits.train, teacher.labels))
    assert set(found.labels[280:].tolist()) == {UNLABELLED}
    words = set(teacher.tokenizer.convert_ids_to_tokens({i for ids in new.input_ids for i in ids}))
    assert "good" in words
    assert not {"[MASK]", "[UNK]", "[PAD]"} & words
    assert list(augment_task(teacher, data, plan, **more).input_ids) == list(new.input_ids)


def test_pairs_learn_from_sentences_only_where_no_answer_is_asked(
    recipe: Callable[..., Recipe], tmp_path: Path, tiny_teacher: Path
) -> None:
    """General distillation needs no pairs; a teacher of pairs has nothing to say about one sentence."""
    text = write(tmp_path / "t.csv", ["text"], [["an unseen story with clever people in it."]])
    rows = [["left one", f"r {i}", i % 2] for i in range(2)] + [[f"l {i}", f"r {i}", i % 2] for i in range(300)]
    path = write(tmp_path / "pairs.csv", ["a", "b", "label"], rows)
    changes = {"task__path": path, "task__text": ["a", "b"]}
    stages = "".join(
        f'\n[[{section}.stage]]\nname = "{section}-{kind}"\ndata = "{kind}"\nteacher = "pretrained"\n'
        f"loss = {{ hidden = 1.0 }}\n" if kind == "transfer" else
        f'\n[[{section}.stage]]\nname = "{section}-{kind}"\ndata = "{kind}"\nloss = {{ soft_label = 1.0 }}\n'
        for section in ("supernet", "distill") for kind in ("transfer", "task")
    )  # fmt: skip
    data = load_task(recipe(f'\n[transfer]\npath = "{text}"\n{stages}', **changes))
    teacher = load_teacher(str(tiny_teacher), labels=data.labels, seed=0)
    assert len(lessons(teacher, data, max_length=16, kind="transfer").texts) == 1


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


# --- SQuAD -----------------------------------------------------------------------------------------------------------


def squad(path: Path, contexts: range, *, impossible: bool = False) -> str:
    paragraphs = []
    for i in contexts:
        context = f"the film {i} is of a clever actor and the plot is warm."
        asked: list[dict[str, Any]] = [
            {"id": f"{i}-{k}", "question": text, "answers": [{"text": x, "answer_start": context.index(x)}]}
            for k, (text, x) in enumerate((("what is warm?", "the plot"), ("who is clever?", "actor")))
        ]
        if impossible:
            asked.append({"id": f"{i}-2", "question": "what is dull?", "answers": [], "is_impossible": True})
        paragraphs.append({"context": context, "qas": asked})
    path.write_text(json.dumps({"version": "x", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return str(path)


def test_squad_is_learnt_and_scored(recipe: Callable[..., Recipe], tiny_teacher: Path, tmp_path: Path) -> None:
    """A span head on the tiny teacher's own encoder, from the official json to the official scores."""
    changes: dict[str, Any] = {
        "task__kind": "squad",
        "task__path": None,
        "task__test_rows": None,
        "task__train": squad(tmp_path / "train-v2.0.json", range(30), impossible=True),
        "task__test": squad(tmp_path / "dev-v2.0.json", range(25, 33), impossible=True),
        "task__search_dev_rows": 9,
        "teacher__max_length": 36,
    }
    asked = recipe(**changes)
    with pytest.raises(DataError, match="is load_questions'"):
        load_task(asked)
    data = load_questions(asked)
    assert data.counts() == {"train": 3 * 22, "search_dev": 9, "test": 24}
    assert data.has_nulls
    teacher = load_teacher(str(tiny_teacher), labels=("a", "b"), seed=0)
    net = supernet_from_bert(teacher.model).with_head("span")
    train = data.features(teacher.tokenizer, "train")
    assert train.offsets == ()
    stage = Stage(
        name="fine-tune",
        teacher="none",
        losses=LossWeights(soft_label=0, hidden=0, attention=0, hard_label=1),
        sampler=Sampler("whole"),
        steps=120,
        learning_rate=3e-3,
        batch_size=16,
    )
    teach(net, span_lessons(train), stage, teacher=None, seed=0)
    found = data.score(net, data.features(teacher.tokenizer, "test"), "test")
    assert set(found) == {
        *("f1", "exact_match", "f1_answerable", "exact_match_answerable", "f1_impossible", "exact_match_impossible")
    }
    assert found["exact_match"] > 0.9, found
    with pytest.raises(DataError, match="has rows, not questions"):
        load_questions(recipe())


def test_squad_from_one_file(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    path = squad(tmp_path / "a.json", range(20))
    changes = {"task__kind": "squad", "task__path": path, "task__test_rows": 8, "task__search_dev_rows": 6}
    data = load_questions(recipe(**changes))
    assert data.counts() == {"train": 26, "search_dev": 6, "test": 8}
    contexts = [{x.context for x in part} for part in (data.train, data.search_dev, data.test)]
    assert len(set.union(*contexts)) == sum(map(len, contexts))
    with pytest.raises(DataError, match="cannot be taken from"):
        load_questions(recipe(**(changes | {"task__test_rows": 40})))
