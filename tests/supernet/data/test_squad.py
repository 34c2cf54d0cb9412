"""SQuAD's json, and the official scores by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from supernet.data.squad import (
    Answer,
    Question,
    exact_match,
    normalised,
    overlap_f1,
    read_squad,
    split_questions,
    squad_scores,
)
from supernet.errors import DataError

CONTEXT = "The Panthers defense gave up just 308 points. Kawann Short led the team in sacks with 11."


def entry(name: str, question: str, *answers: tuple[str, int], impossible: bool | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": name,
        "question": question,
        "answers": [{"text": text, "answer_start": start} for text, start in answers],
    }
    if impossible is not None:
        found["is_impossible"] = impossible
        found["plausible_answers"] = [{"text": "11", "answer_start": 86}] if impossible else []
    return found


def write(path: Path, *entries: dict[str, Any], context: str = CONTEXT, version: str = "1.1") -> Path:
    document = {
        "version": version,
        "data": [{"title": "x", "paragraphs": [{"context": context, "qas": list(entries)}]}],
    }
    path.write_text(json.dumps(document))
    return path


def test_both_versions_are_read(tmp_path: Path) -> None:
    write(tmp_path / "train-v1.1.json", entry("a", " How many points? ", ("308", 34), ("just 308", 29)))
    write(
        tmp_path / "dev-v2.0.json",
        entry("b", "Who led?", ("Kawann Short", 46), impossible=False),
        entry("c", "Who lost?", impossible=True),
        version="v2.0",
    )
    one = read_squad(str(tmp_path), split="train")
    assert one == [
        Question(
            id="a",
            question="How many points?",
            context=CONTEXT,
            answers=(Answer(text="308", start=34), Answer(text="just 308", start=29)),
        )
    ]
    two = read_squad(str(tmp_path / "dev-v2.0.json"))
    assert [x.is_impossible for x in two] == [False, True]
    assert read_squad(str(tmp_path), split="validation") == two
    with pytest.raises(
        DataError, match=r"holds 0 files of the split 'test' .* it has dev-v2\.0\.json, train-v1\.1\.json"
    ):
        read_squad(str(tmp_path), split="test")


def test_an_answer_that_slipped_is_found_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", entry("a", "?", ("308", 33)), entry("b", "?", ("the", 60)))
    assert [x.answers[0].start for x in read_squad(str(path))] == [34, CONTEXT.index("the team")]
    with pytest.raises(DataError, match="question 'a': its context does not hold the answer '309'"):
        read_squad(str(write(tmp_path / "a.json", entry("a", "?", ("309", 34)))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no readable json"),
        ("[]", "is not in SQuAD's layout"),
        ('{"data": []}', "holds no questions"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', "no 'context'"),
        ('{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": 1, "question": "b"}]}]}]}', "no 'answers'"),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": 1, "question": null, "answers": []}]}]}]}',
            "question 1 has something else than text",
        ),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_squad(str(tmp_path / "a.json"))


def test_an_id_comes_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", entry("a", "?", ("308", 34)), entry("a", "!", ("11", 86)))
    with pytest.raises(DataError, match="'a' comes twice"):
        read_squad(str(path))


def questions(count: int, per_context: int = 3) -> list[Question]:
    return [
        Question(
            id=str(i),
            question=f"what is {i}?",
            context=f"context {i // per_context} of many",
            answers=(Answer(text="many", start=f"context {i // per_context} of many".index("many")),),
        )
        for i in range(count)
    ]


def test_contexts_are_not_shared_between_splits() -> None:
    every = questions(30)
    rest, taken = split_questions(every, 7, seed=1)
    assert len(taken) == 9
    assert not {x.context for x in rest} & {x.context for x in taken}
    assert sorted([*rest, *taken], key=lambda x: int(x.id)) == every
    assert split_questions(every[::-1], 7, seed=1)[1] == taken[::-1]
    assert split_questions(every, 7, seed=2)[1] != taken
    with pytest.raises(DataError, match="28 questions cannot be taken from 30 about 10 contexts"):
        split_questions(every, 28, seed=1)


def test_the_official_normal_form() -> None:
    assert normalised("  The  U.S.'s an (Apple)! ") == "uss apple"
    assert normalised("a-b the") == "ab"
    assert normalised("An") == ""
    assert exact_match("the 308 points", "308 Points.") == 1
    assert overlap_f1("just 308 points", "308 points scored") == pytest.approx(2 / 3)
    assert overlap_f1("x x y", "x z") == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    assert overlap_f1("a", "the") == 1
    assert overlap_f1("a", "the", nothing=False) == 0
    assert overlap_f1("", "word") == 0


def test_the_best_of_several_truths_counts() -> None:
    asked = Question(
        id="a", question="?", context=CONTEXT, answers=(Answer(text="308", start=34), Answer(text="just 308", start=29))
    )
    assert squad_scores([asked], {"a": "just 308!"}) == {"f1": 1.0, "exact_match": 1.0}
    assert squad_scores([asked], {"a": "308 points"}) == {"f1": pytest.approx(2 / 3), "exact_match": 0.0}
    assert squad_scores([asked], {}) == {"f1": 0.0, "exact_match": 0.0}
    with pytest.raises(DataError, match="got none"):
        squad_scores([], {})


def test_no_answer_is_an_answer() -> None:
    known = Question(id="a", question="?", context=CONTEXT, answers=(Answer(text="308", start=34),))
    unknown = Question(id="b", question="?", context=CONTEXT, answers=())
    found = squad_scores([known, unknown], {"a": "308 points", "b": ""})
    assert found["f1_impossible"] == found["exact_match_impossible"] == 1
    assert found["f1_answerable"] == pytest.approx(2 / 3)
    assert found["exact_match_answerable"] == 0
    assert found["f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert squad_scores([known, unknown], {"a": "", "b": "308"})["f1"] == 0
