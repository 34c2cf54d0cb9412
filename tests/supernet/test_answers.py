"""Kept answers are the teacher's, are kept when that pays, and are found again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from supernet.answers import Answers
from supernet.batches import TokenizedTexts
from supernet.engine import Engine
from supernet.errors import CheckpointError
from supernet.model import Supernet

Make = Callable[..., Any]
EXACT = Engine(local=True, mixed_precision="no")
ASKS = {"hidden_states": True, "attention_scores": False, "projections": False}
LOGITS = {"hidden_states": False, "attention_scores": False, "projections": False}


@pytest.fixture(scope="module")
def texts() -> TokenizedTexts:
    rng = torch.Generator().manual_seed(0)
    lengths = [5, 9, 2, 7, 3, 8, 4]
    ids = tuple(torch.randint(1, 100, (n,), generator=rng).tolist() for n in lengths)
    types = tuple(torch.randint(0, 2, (n,), generator=rng).tolist() for n in lengths)
    return TokenizedTexts(input_ids=ids, token_type_ids=types)


@pytest.fixture
def asked(make_supernet: Make, monkeypatch: pytest.MonkeyPatch) -> tuple[Supernet, list[int]]:
    """A teacher and the batch sizes it has been asked for."""
    teacher, sizes = make_supernet(3), []
    real = teacher.forward

    def forward(input_ids: torch.Tensor, *arguments: Any, **more: Any) -> Any:
        sizes.append(len(input_ids))
        return real(input_ids, *arguments, **more)

    monkeypatch.setattr(teacher, "forward", forward)
    return teacher, sizes


@pytest.mark.parametrize("in_files", [False, True])
def test_kept_answers_are_the_teachers_and_cost_one_look_at_each_text(
    asked: Any, texts: TokenizedTexts, tmp_path: Path, in_files: bool
) -> None:
    teacher, sizes = asked
    folder = tmp_path if in_files else None
    answers = Answers(teacher=teacher, texts=texts, asks=ASKS, visits=8, folder=folder, engine=EXACT, batch_size=3)
    assert answers.kept
    for rows in ([4, 1], [0, 2, 6], [1]):
        batch = texts.batch(rows)
        got = answers(rows, batch, **ASKS)
        with torch.no_grad():
            wanted = Supernet.forward(teacher, **batch, **ASKS)
        assert torch.allclose(got.logits, wanted.logits, atol=1e-5)
        assert len(got.hidden_states) == len(wanted.hidden_states) == 5
        kept = batch["attention_mask"][..., None]
        for ours, theirs in zip(got.hidden_states, wanted.hidden_states, strict=True):
            assert ours.shape == theirs.shape
            assert torch.allclose(ours, theirs * kept, atol=1e-5)
        assert torch.equal(answers[rows], got.logits)
    assert sum(sizes) == len(texts)


def test_a_file_is_found_again_and_belongs_to_teacher_texts_and_precision(
    asked: Any, texts: TokenizedTexts, tmp_path: Path
) -> None:
    teacher, sizes = asked

    def answers(**other: Any) -> Answers:
        made = {"teacher": teacher, "texts": texts, "asks": LOGITS, "visits": 100, "folder": tmp_path, "engine": EXACT}
        return Answers(**(made | other))

    first = answers()
    before = first[[1, 2]]
    assert sum(sizes) == len(texts)
    assert torch.equal(answers()[[1, 2]], before)
    assert sum(sizes) == len(texts)
    changed = copy.deepcopy(teacher)
    changed.__dict__.pop("forward")
    with torch.no_grad():
        changed.layers[2].value.bias[0] += 1
    fewer = texts.take(range(6))
    plain = TokenizedTexts(input_ids=texts.input_ids)
    low = Engine(local=True, mixed_precision="bf16")
    others = [answers(teacher=changed), answers(texts=fewer), answers(texts=plain), answers(engine=low)]
    assert len({first.path, *(x.path for x in others)}) == 5
    assert not torch.allclose(others[0][[1, 2]], before)
    assert first.path is not None
    first.path.write_bytes(first.path.read_bytes()[:-4])  # a torn file is made again
    assert torch.equal(answers()[[1, 2]], before)


def test_nothing_is_kept_where_asking_is_cheaper_or_the_only_way(asked: Any, texts: TokenizedTexts) -> None:
    teacher, sizes = asked
    scores = ASKS | {"attention_scores": True}
    for asks, visits, most in ((LOGITS, 7, 2**30), (scores, 100, 2**30), (ASKS, 100, 38 * 5 * 48 * 4)):
        answers = Answers(teacher=teacher, texts=texts, asks=asks, visits=visits, max_bytes=most, engine=EXACT)
        assert not answers.kept
        batch = texts.batch([3, 0])
        sizes.clear()
        got = answers([3, 0], batch, **asks)
        assert sizes == [2]
        wanted = Supernet.forward(teacher, **batch, **asks)
        assert torch.equal(got.logits, wanted.logits)
        assert not got.logits.requires_grad
        assert len(got.attention_scores) == (4 if asks["attention_scores"] else 0)
    assert Answers(teacher=teacher, texts=texts, asks=LOGITS, visits=8, engine=EXACT).kept


def test_what_was_not_kept_is_asked_for(asked: Any, texts: TokenizedTexts) -> None:
    teacher, sizes = asked
    answers = Answers(teacher=teacher, texts=texts, asks=LOGITS, visits=100, engine=EXACT)
    answers.prepare()
    sizes.clear()
    got = answers([1], texts.batch([1]), **ASKS)
    assert sizes == [1]
    assert len(got.hidden_states) == 5


def test_under_autocast_states_are_halves(make_supernet: Make, texts: TokenizedTexts, tmp_path: Path) -> None:
    low = Engine(local=True, mixed_precision="bf16")
    teacher = make_supernet(3)
    answers = Answers(teacher=teacher, texts=texts, asks=ASKS, visits=100, folder=tmp_path, engine=low)
    batch = texts.batch([1, 5])
    got = answers([1, 5], batch, **ASKS)
    with torch.no_grad(), low.autocast():
        wanted = teacher(**batch, **ASKS)
    kept = batch["attention_mask"][..., None]
    for ours, theirs in zip(got.hidden_states, wanted.hidden_states, strict=True):
        assert torch.allclose(ours, theirs.float() * kept, atol=0.1)
    states = next(x for x in tmp_path.iterdir() if "hidden" in x.name)
    assert np.load(states, mmap_mode="r").dtype == np.float16


def test_a_full_disk_is_told(make_supernet: Make, texts: TokenizedTexts, tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    answers = Answers(teacher=make_supernet(3), texts=texts, asks=LOGITS, visits=100, folder=tmp_path, engine=EXACT)
    with pytest.raises(CheckpointError, match=r"No space left.*Free some space"):
        answers.prepare()
    assert not list(tmp_path.iterdir())
