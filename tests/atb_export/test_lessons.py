"""What stages learn from."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from atb_export.lessons import augment_task, lessons, transfer_count, transfer_sentences
from atb_export.recipe import Recipe, parse_recipe
from atb_export.task import TaskData, label_tensor, load_task
from supernet.augmentation import AugmentPlan
from supernet.batches import BatchOrder
from supernet.errors import DataError
from supernet.losses import UNLABELLED
from supernet.teacher import Teacher, load_teacher


@pytest.fixture
def recipe(tiny_recipe: Callable[..., str]) -> Callable[..., Recipe]:
    return lambda extra="", **changes: parse_recipe((tiny_recipe(**changes) + extra).encode())


def write(path: Path, header: list[str], rows: list[list[Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def test_transfer_text_holds_nothing_of_what_is_measured_on(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    held_out = load_task(recipe()).splits.test[0].texts[0]
    path = write(tmp_path / "t.csv", ["text"], [[held_out.upper()], ["an unseen story with clever people in it."]])
    extra = f'\n[transfer]\npath = "{path}"\nmin_words = 1\n'
    found = transfer_sentences(load_task(recipe(extra)))
    assert found == ("an unseen story with clever people in it.",)
    rows = [["left one", "right", i % 2] for i in range(2)] + [[f"l {i}", f"r {i}", i % 2] for i in range(300)]
    pairs = write(tmp_path / "pairs.csv", ["a", "b", "label"], rows)
    with pytest.raises(DataError, match=r"drop \[transfer\]"):
        load_task(recipe(extra, task__path=pairs, task__text=["a", "b"]))


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


@pytest.mark.parametrize("kind", ["numbers", "pairs"])
def test_only_classes_of_single_texts_are_sure(recipe: Callable[..., Recipe], tmp_path: Path, kind: str) -> None:
    rows = [[f"good number {i}", f"bad number {i}", i / 7 if kind == "numbers" else i % 2] for i in range(420)]
    path = write(tmp_path / "rows.csv", ["text", "other", "label"], rows)
    changes: dict[str, Any] = {"task__kind": "regression"} if kind == "numbers" else {"task__text": ["text", "other"]}
    changes |= {"distill__data": "task", "supernet__data": "task", "task__path": path, "transfer__path": path}
    assert load_task(recipe(**changes)).text is not None
    with pytest.raises(DataError, match="is of classes of single texts, and this task has none"):
        load_task(recipe(transfer__confidence_quantile=0.05, **changes))
