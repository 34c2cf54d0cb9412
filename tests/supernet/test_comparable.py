"""What cannot be taught is refused before the first step, with what to change."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import supernet.distillation
from supernet.batches import TokenizedTexts
from supernet.distillation import Lessons, teach
from supernet.errors import StageError
from supernet.facts import ModelFacts
from supernet.layer_map import LayerMap
from supernet.losses import UNLABELLED
from supernet.masking import Masking
from supernet.model import Supernet
from supernet.space import SearchSpace, SubnetConfig
from supernet.stage import LossWeights, Sampler, Stage

Make = Callable[..., Any]
ONLY = {"soft_label": 0.0, "hidden": 0.0, "attention": 0.0}
TEXTS = TokenizedTexts(input_ids=tuple([2, 7 + i, 9, 3] for i in range(6)))
LESSONS = Lessons(texts=TEXTS, labels=torch.arange(6) % 3)
STAGE = Stage(name="a", steps=1, learning_rate=1e-3, batch_size=4, layer_map=LayerMap("uniform"))
MASKING = Masking(mask_token_id=4, special_token_ids=(0, 1, 2, 3), vocab_size=100)


@pytest.fixture(autouse=True)
def not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not refused is not trained either."""
    monkeypatch.setattr(supernet.distillation, "train", lambda *_, **__: None)


@pytest.fixture
def of(make_supernet: Make, facts: ModelFacts) -> Callable[..., Supernet]:
    def build(hidden: int = 48, depth: int = 4, heads: int = 4, **changes: Any) -> Supernet:
        shape = SubnetConfig.uniform(hidden_size=hidden, depth=depth, heads=heads, head_size=12, ffn_size=40)
        found: Supernet = make_supernet(shape=shape, facts=replace(facts, **changes))
        return found

    return build


def losses(**terms: float) -> LossWeights:
    return LossWeights(**(ONLY | terms))


def refusal(
    student: Supernet,
    teacher: Supernet | None,
    *,
    lessons: Lessons = LESSONS,
    space: Any = None,
    subnet: Any = None,
    **stage: Any,
) -> str:
    try:
        teach(student, lessons, replace(STAGE, **stage), teacher=teacher, space=space, subnet=subnet, seed=0)
    except StageError as error:
        return str(error)
    return ""


def test_students_of_any_shape_with_what_compares_any_shape(of: Make) -> None:
    every = losses(soft_label=1.0, hidden=1.0, relations=1.0, embedding=1.0)
    for student in (of(20, 2, 3), of(60, 7, 5), of(48, 5, 4), of()):
        assert refusal(student, of(), losses=every, projection="shared") == ""
    assert refusal(of(48, 2), of()) == ""  # as wide, with as many heads: nothing to project
    cut = SubnetConfig.uniform(hidden_size=24, depth=2, heads=3, head_size=12, ffn_size=40, sources=[1, 3])
    assert refusal(of().slice(cut), of(), subnet=cut, layer_map=LayerMap()) == ""


@pytest.mark.parametrize(
    ("student", "stage", "message"),
    [
        ({"hidden": 24}, {}, "24 dims are compared with the teacher's 48.*projection = 'shared' or 'layer'"),
        ({"hidden": 60}, {}, "60 dims are compared with the teacher's 48"),
        ({"heads": 3}, {}, "3 heads of layer 1 are compared with 4 of the teacher's layer 1.*use relations"),
        ({"heads": 3}, {"losses": losses(attention_kl=1.0)}, "3 heads of layer 1"),
        ({"heads": 5, "depth": 2}, {}, "5 heads of layer 1 are compared with 4 of the teacher's layer 2"),
        ({"num_labels": 2}, {}, "a sequence with 2 logits, the teacher a sequence with 3: set soft_label = 0"),
        ({"head": "token"}, {}, "a token with 3 logits, the teacher a sequence with 3"),
        ({"vocab_size": 90}, {}, "reads 90 words, the teacher 100: both must share a tokenizer"),
        ({}, {"layer_map": LayerMap((1, 2, 3, 5))}, "names layer 5, the teacher has 4 layers"),
        ({"depth": 2}, {"layer_map": LayerMap((1, 2, 3))}, "names 3 layers of the student, which has 2"),
        ({"depth": 2}, {"layer_map": LayerMap((0, 0, 3))}, "pairs no layer of .* use 'uniform' or 'last'"),
        ({"max_position_embeddings": 3}, {}, "4 tokens, the student's position table ends at 3: set length"),
        ({}, {"losses": losses(mlm=1.0)}, "mlm needs a head of words.*with_head"),
        ({"head": "mlm"}, {"losses": losses(mlm=1.0)}, "give the lessons a masking"),
        ({"head": "mlm"}, {"losses": losses(hard_label=1.0)}, "set hard_label = 0 and mlm"),
        (
            {"head": "token"},
            {"losses": losses(hard_label=1.0)},
            r"a token head have 2 dims, these have the shape \[6\]",
        ),
    ],
)
def test_what_cannot_be_compared(of: Make, student: dict[str, Any], stage: dict[str, Any], message: str) -> None:
    found = refusal(of(**student), of(), **stage)
    assert found.startswith("stage 'a': ")
    assert re.search(message, found), found


def test_all_reasons_are_told_at_once(of: Make) -> None:
    found = refusal(of(24, 4, 3, num_labels=2), of())
    assert [part in found for part in ("24 dims", "3 heads", "2 logits")] == [True] * 3


def test_a_teacher_is_needed_by_what_compares_with_one(of: Make) -> None:
    assert "there is none" in refusal(of(), None)
    assert refusal(of(), None, losses=losses(hard_label=1.0)) == ""
    words = replace(LESSONS, masking=MASKING)
    assert refusal(of(head="mlm"), None, losses=losses(mlm=1.0), lessons=words) == ""
    few = replace(words, masking=replace(MASKING, vocab_size=80))
    assert "for 80 words, the student has 100" in refusal(of(head="mlm"), None, losses=losses(mlm=1.0), lessons=few)


def test_labels_are_needed_by_hard_labels(of: Make) -> None:
    unknown = replace(LESSONS, labels=torch.full((6,), UNLABELLED))
    assert "none of the texts has a label" in refusal(of(), of(), lessons=unknown, losses=losses(hard_label=1.0))
    assert refusal(of(), of(), lessons=unknown) == ""


def test_texts_are_as_long_as_the_stage_cuts_them(of: Make) -> None:
    short = of(max_position_embeddings=3)
    assert refusal(short, short, length=3) == ""
    assert "the teacher's position table" in refusal(of(), short)


def test_spaces_that_do_not_fit_and_samplers_without_a_front(of: Make) -> None:
    choices: dict[str, Any] = {"hidden_sizes": (24, 48), "heads": (2, 4), "head_sizes": (12,), "ffn_sizes": (40,)}
    space = SearchSpace.of_depths(source_layers=4, depths=[1, 4], **choices)
    assert refusal(of(), of(), space=space) == ""
    wide = replace(space, hidden_sizes=(24, 60))
    assert "cannot be cut from the supernet" in refusal(of(), of(), space=wide)
    assert "needs a front" in refusal(of(), of(), space=space, sampler=Sampler("attentive"))


def test_lessons_have_a_label_for_each_text() -> None:
    with pytest.raises(ValueError, match="6 texts, 5 labels"):
        Lessons(texts=TEXTS, labels=torch.zeros(5))
