"""One encoder learns several tasks; each keeps a head of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, BertTokenizer, RobertaTokenizer

from supernet.batches import tokenize
from supernet.errors import TeacherError
from supernet.multitask import TaskRows, fine_tune_many, task_schedule
from supernet.teacher import Teacher, load_teacher, save_teacher, supernet_from_bert
from supernet.training import TrainPlan

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = [("a good film",), ("dull",), ("so bad",), ("a very warm story",)] * 4
PAIRS = [("a film", "good"), ("a film", "bad"), ("so it goes", "bad"), ("dull", "good")] * 3


def write(folder: Path, family: str = "bert", hidden: int = 16) -> str:
    torch.manual_seed(0)
    settings = {"hidden_size": hidden, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    config = AutoConfig.for_model(family, vocab_size=60, max_position_embeddings=30, initializer_range=0.2, **settings)
    AutoModel.from_config(config).save_pretrained(folder)
    if family == "roberta":
        words = ["<s>", "<pad>", "</s>", "<unk>", *LETTERS, "\u0120", "<mask>"]
        RobertaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    else:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{x}" for x in LETTERS)]
        BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return str(folder)


def tasks(folder: str) -> list[TaskRows]:
    """Films of two classes, pairs of three, and lengths as numbers."""
    made = []
    plans: list[tuple[str, Any, tuple[str, ...], Tensor]] = [
        ("films", TEXTS, ("no", "yes"), torch.tensor([1, 0, 0, 1] * 4)),
        ("pairs", PAIRS, ("x", "y", "z"), torch.tensor([0, 1, 2, 0] * 3)),
        ("lengths", TEXTS, ("score",), torch.tensor([0.3, 0.1, 0.2, 0.9] * 4)),
    ]
    for name, texts, labels, values in plans:
        teacher = load_teacher(folder, labels=labels, seed=0)
        rows = tokenize(teacher.tokenizer, texts, max_length=16)
        made.append(TaskRows(name=name, teacher=teacher, texts=rows, labels=values))
    return made


def train(found: list[TaskRows], steps: int = 300, **more: Any) -> None:
    fine_tune_many(found, TrainPlan(steps=steps, learning_rate=3e-3, checkpoint_every=5), batch_size=8, seed=0, **more)


@torch.no_grad()
def answers(task: TaskRows, model: Any = None) -> Tensor:
    logits: Tensor = (model or task.teacher.model)(**task.texts.batch(range(4))).logits
    return logits


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_all_tasks_are_learnt_by_one_encoder(tmp_path: Path, family: str) -> None:
    found = tasks(write(tmp_path / "start", family))
    words = found[0].teacher.model.get_input_embeddings().weight.clone()
    before = {name: x.clone() for name, x in found[0].teacher.model.base_model.state_dict().items()}
    train(found)
    assert answers(found[0]).argmax(-1).tolist() == [1, 0, 0, 1]
    assert answers(found[1]).argmax(-1).tolist() == [0, 1, 2, 0]
    assert (answers(found[2])[:, 0] - torch.tensor([0.3, 0.1, 0.2, 0.9])).abs().max() < 0.2
    bodies = [x.teacher.model.base_model for x in found]
    assert all(body is bodies[0] for body in bodies)
    assert not torch.equal(bodies[0].state_dict()[next(x for x in before if "layer.1" in x)],
                           before[next(x for x in before if "layer.1" in x)])  # fmt: skip
    assert torch.equal(found[1].teacher.model.get_input_embeddings().weight, words)
    assert all(x.requires_grad for x in bodies[0].parameters())
    for task in found:  # each is a teacher like any other, on disk and as a supernet
        save_teacher(task.teacher, tmp_path / task.name)
        again = load_teacher(str(tmp_path / task.name), labels=task.teacher.labels, seed=9)
        assert (answers(task, again.model) - answers(task)).abs().max() < 1e-6
        assert (answers(task, supernet_from_bert(again.model)) - answers(task)).abs().max() < 1e-4


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    folder = write(tmp_path / "start")
    whole = tasks(folder)
    train(whole, steps=12)

    def kill(done: int, steps: int, text: str) -> None:
        if done == 8:
            raise KeyboardInterrupt

    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(tasks(folder), steps=12, checkpoint=state, progress=kill)
    resumed = tasks(folder)
    train(resumed, steps=12, checkpoint=state)
    for one, other in zip(whole, resumed, strict=True):
        pairs = zip(one.teacher.model.state_dict().values(), other.teacher.model.state_dict().values(), strict=True)
        assert all(torch.equal(x, y) for x, y in pairs)


def test_the_schedule() -> None:
    found = task_schedule([900, 100], steps=4000, seed=1)
    assert found == task_schedule([900, 100], steps=4000, seed=1)
    assert found[:50] == task_schedule([900, 100], steps=50, seed=1)
    share = sum(task == 0 for task, _ in found) / 4000
    assert share == pytest.approx(30 / 40, abs=0.03)
    for k in (0, 1):
        assert [before for task, before in found if task == k] == list(range(sum(task == k for task, _ in found)))
    even = task_schedule([900, 100], steps=4000, seed=1, power=0)
    assert sum(task == 0 for task, _ in even) / 4000 == pytest.approx(0.5, abs=0.03)


def test_what_cannot_be_learnt_together(tmp_path: Path) -> None:
    found = tasks(write(tmp_path / "a"))
    with pytest.raises(TeacherError, match="two or more of different names, got films"):
        train(found[:1])
    with pytest.raises(TeacherError, match="different names, got films, films"):
        train([found[0], found[0]])
    other = tasks(write(tmp_path / "b", hidden=24))
    with pytest.raises(TeacherError, match="that of pairs is another than that of films"):
        train([found[0], other[1]])
    long = tokenize(found[1].teacher.tokenizer, [("x" * 20 + " y" * 20,)], max_length=31)
    with pytest.raises(TeacherError, match="a text has 31 tokens"):
        train([found[0], TaskRows(name="long", teacher=found[1].teacher, texts=long, labels=torch.tensor([0]))])
    with pytest.raises(TeacherError, match="needs rows and their labels, got 1 and 2"):
        TaskRows(name="x", teacher=found[0].teacher, texts=long, labels=torch.tensor([0, 1]))


def test_a_teacher_keeps_its_own(tmp_path: Path) -> None:
    """Without training, teachers of one checkpoint and seed differ in their heads alone."""
    found = tasks(write(tmp_path))
    teachers: list[Teacher] = [x.teacher for x in found]
    assert [x.labels for x in teachers] == [("no", "yes"), ("x", "y", "z"), ("score",)]
    assert teachers[0].model.base_model is not teachers[1].model.base_model
