"""Questions about contexts: read, taught and scored by `atb distill`, and refused where they have no place."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

import atb_export.teachers
import atb_export.teaching
from atb_export.lessons import lessons
from atb_export.questions import SpanData, load_questions
from atb_export.recipe import RecipeError, StudentRecipe, load_recipe, load_student_recipe
from atb_export.starting import start_of
from supernet.checkpoint import load_supernet
from supernet.errors import DataError
from supernet.losses import UNLABELLED
from supernet.spans import LABELS
from supernet.subnet import SubnetConfig
from supernet.teacher import load_teacher, supernet_from_bert
from supernet.watch import Watch

GOOD = ("good", "great", "superb", "lovely", "brilliant", "charming")
BAD = ("bad", "awful", "dull", "boring", "stale", "weak")
THINGS = ("film", "plot", "actor", "scene", "story", "ending")
TOLD = ("f1", "exact_match")
APART = tuple(f"{name}_{kind}" for name in TOLD for kind in ("answerable", "impossible"))


def squad(path: Path, contexts: range, *, impossible: bool = False) -> Path:
    """Which word of a context praises and which one does not; with `impossible` every third context only praises."""
    paragraphs = []
    for i in contexts:
        rng = Random(i)
        words = [rng.choice(GOOD), rng.choice(BAD)]
        told = words[:1] if impossible and i % 3 == 0 else words
        pieces = [f"the {rng.choice(THINGS)} was {x}" for x in rng.sample(told, len(told))]
        context = f"{' and '.join(pieces)} {i}"
        asked: list[dict[str, Any]] = []
        for question, word in zip(("is it warm ?", "so silly ?"), words, strict=True):
            answers = [{"text": word, "answer_start": context.index(word)}] if word in told else []
            asked.append({"id": f"{i} {question}", "question": question, "answers": answers})
            asked[-1] |= {} if answers else {"is_impossible": True}
        paragraphs.append({"context": context, "qas": asked})
    path.write_text(json.dumps({"version": "x", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return path


def toml(**sections: Any) -> str:
    """Values, and tables of them; a list of tables under `a__b`."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in sections.items() if not isinstance(value, dict)]
    for title, table in sections.items():
        if isinstance(table, dict):
            stages = table.get("stage", [])
            lines += [f"[{title}]", *(f"{key} = {json.dumps(x)}" for key, x in table.items() if key != "stage")]
            for stage in stages:
                lines += [f"[[{title}.stage]]"]
                lines += [f"{k} = {json.dumps(x)}" for k, x in stage.items() if k != "loss"]
                lines += [f"loss = {{ {', '.join(f'{k} = {x}' for k, x in stage['loss'].items())} }}"]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def text(tiny_teacher: Path) -> Callable[..., str]:
    """The text of a recipe of questions whose files lie beside it; changes are whole tables."""

    def build(**changes: Any) -> str:
        sections: dict[str, Any] = {
            "name": "spans",
            "seed": 1,
            "output": "out",
            "teacher": {
                "model": str(tiny_teacher),
                "epochs": 5,
                "batch_size": 16,
                "learning_rate": 4e-3,
                "max_length": 24,
            },
            "task": {"kind": "squad", "train": "train.json", "test": "dev.json", "search_dev_rows": 20},
            "student": {"depth": 2, "hidden_size": 24, "heads": 4, "ffn_size": 48, "layers": "important"},
            "distill": {
                "batch_size": 16,
                "learning_rate": 3e-3,
                "checkpoint_every": 5,
                "data": "task",
                "stage": [
                    {"name": "inner", "data": "all", "steps": 20, "loss": {"hidden": 1.0, "attention": 0.1}},
                    {"name": "answers", "steps": 60, "loss": {"soft_label": 1.0, "hard_label": 0.5}},
                ],
            },
            "transfer": {"path": "sentences.txt", "min_words": 2},
        }
        return toml(**{key: x for key, x in (sections | changes).items() if x is not None})

    return build


def files(folder: Path, *, impossible: bool = False) -> Path:
    squad(folder / "train.json", range(100), impossible=impossible)
    squad(folder / "dev.json", range(90, 120), impossible=impossible)
    (folder / "sentences.txt").write_text("a good film .\nthe plot is so weak .\nthis story is quite charming .\n")
    return folder


@dataclass(frozen=True)
class Done:
    """A recipe that was run, and what it said."""

    cwd: Path
    answer: Any

    @property
    def result(self) -> dict[str, Any]:
        document: dict[str, Any] = self.answer.document
        return document


@pytest.fixture(scope="module")
def done(atb: Callable[..., Any], text: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Done:
    """SQuAD 1.1, two seeds."""
    cwd = files(tmp_path_factory.mktemp("squad"))
    (cwd / "r.toml").write_text(text(seeds=[1, 2]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Watch.__init__.__kwdefaults__, "every", 20)
        answer = atb("distill", "r.toml", "--threads", 1, "--json", cwd=cwd)
    assert answer.code == 0, answer.err
    return Done(cwd, answer)


def read(folder: Path, content: str) -> StudentRecipe:
    (folder / "r.toml").write_text(content)
    found = load_student_recipe(folder / "r.toml")
    assert isinstance(found, StudentRecipe)
    return found


# --- whole ----------------------------------------------------------------------------------------------------------


def test_a_teacher_learns_and_its_student_after_it(done: Done, tiny_teacher: Path) -> None:
    told, student = done.result["teacher"]["test"], done.result["student"]
    assert done.result["task"] == {
        "kind": "squad",
        "metric": "f1",
        "labels": ["start", "end"],
        "rows": {"train": 2 * 80, "search_dev": 20, "test": 2 * 30},
    }
    data = load_questions(in_folder(done))
    fresh = load_teacher(str(tiny_teacher), labels=data.labels, seed=1, head="span")
    untrained = data.scores(fresh, supernet_from_bert(fresh.model), "test", max_length=24)
    assert told["f1"] > untrained["f1"] + 0.3
    assert student["test"]["f1"]["mean"] > untrained["f1"] + 0.2
    assert set(told) == set(student["test"]) == set(TOLD)
    values = [x["test"]["f1"] for x in student["runs"]]
    assert student["test"]["f1"]["mean"] == pytest.approx(sum(values) / 2)
    assert student["test"]["f1"]["deviation"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert student["of_teacher"] == pytest.approx(student["test"]["f1"]["mean"] / told["f1"])
    assert "f1 on 60 test rows; 2 seed(s)" in done.answer.out
    curve = (done.cwd / "out/stages/student-1-answers/curve.jsonl").read_text().splitlines()
    looks = [json.loads(line)["search-dev"] for line in curve]
    assert len(looks) == 3
    assert looks[-1]["loss"] < looks[0]["loss"]
    assert 0 <= looks[-1]["exact"] <= 1


def in_folder(done: Done) -> StudentRecipe:
    """The recipe as read where its files are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(done.cwd)
        found = load_student_recipe("r.toml")
        assert isinstance(found, StudentRecipe)
        task = found.task.model_copy(update={x: str(done.cwd / f"{y}.json") for x, y in (("train", "train"),
                                                                                         ("test", "dev"))})  # fmt: skip
        transfer = found.transfer and found.transfer.model_copy(update={"path": str(done.cwd / "sentences.txt")})
        return found.model_copy(update={"task": task, "transfer": transfer})


@torch.no_grad()
def test_the_model_is_one_that_answers_questions(done: Done) -> None:
    """Stock BERT by its shape, so that `transformers` needs nothing of ours."""
    folder = done.cwd / "out/model"
    best = done.result["student"]["model_seed"]
    net = load_supernet(done.cwd / f"out/stages/student-{best}/dense.safetensors")
    assert net.facts.head == "span"
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertForQuestionAnswering"]
    model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    asked = AutoTokenizer.from_pretrained(folder)("film ?", "the film was good", return_tensors="pt")
    said, ours = model(**asked), net(**asked).logits
    torch.testing.assert_close(torch.stack([said.start_logits, said.end_logits], -1), ours)
    (parity,) = done.result["parity"]
    assert parity["passed"]
    assert parity["rows"] == 2 * 16  # starts and ends
    assert "(BertForQuestionAnswering, padded batch)" in parity["stage"]


def test_it_says_that_engines_have_no_spans(done: Done, atb: Callable[..., Any]) -> None:
    assert "cannot be exported yet" in done.result["not_exported"]
    assert "cannot be exported yet" in done.answer.err
    told = atb("export", "out/model", "--out", "bundle", cwd=done.cwd).refusal
    assert "is a BertForQuestionAnswering: it answers questions with spans of a context" in told
    assert not (done.cwd / "bundle").exists()


def test_a_shape_that_stock_bert_has_not(
    done: Done, atb: Callable[..., Any], text: Callable[..., str], tmp_path: Path
) -> None:
    """Heads of a size of their own: saved as our class, a trained teacher taken as it is, a stage skipped."""
    student = {"depth": 2, "hidden_size": 24, "heads": 2, "head_size": 5, "ffn_size": 16, "initial": "random"}
    teacher = {"model": str(done.cwd / "out/stages/teacher/model"), "epochs": 0, "max_length": 24}
    stages = [{"name": x, "steps": 2, "loss": {"soft_label": 1.0}} for x in ("one", "two")]
    content = text(student=student, teacher=teacher, distill={"data": "task", "stage": stages}, transfer=None)
    (files(tmp_path) / "r.toml").write_text(content)
    answer = atb("distill", "r.toml", "--skip-stage", "two", "--threads", 1, "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert answer.document["teacher"]["test"] == done.result["teacher"]["test"]
    assert [x["name"] for x in answer.document["student"]["runs"][0]["stages"]] == ["one"]
    folder = tmp_path / "out-without-two/model"
    model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    assert type(model).__name__ == "AtbBertForQuestionAnswering"
    assert model.net.shape == SubnetConfig.from_json(answer.document["student"]["shape"]).renumbered()
    asked = AutoTokenizer.from_pretrained(folder)("film ?", "the film was good", return_tensors="pt")
    with torch.no_grad():
        assert model(**asked).start_logits.shape == asked["input_ids"].shape
    assert "AtbBertForQuestionAnswering" in atb("export", folder, "--out", "bundle", cwd=tmp_path).refusal


def test_questions_without_an_answer(atb: Callable[..., Any], text: Callable[..., str], tmp_path: Path) -> None:
    """SQuAD 2.0, from one file."""
    squad(tmp_path / "all.json", range(100), impossible=True)
    task = {"kind": "squad", "path": "all.json", "search_dev_rows": 20, "test_rows": 40}
    stages = [{"name": "answers", "steps": 10, "loss": {"soft_label": 1.0, "hidden": 1.0}}]
    teacher = {"model": json.loads(text().split("model = ")[1].splitlines()[0]), "epochs": 5, "batch_size": 16}
    teacher |= {"learning_rate": 4e-3, "max_length": 24}
    distill = {"batch_size": 16, "data": "task", "stage": stages}
    (tmp_path / "r.toml").write_text(text(task=task, teacher=teacher, distill=distill, transfer=None))
    answer = atb("distill", "r.toml", "--threads", 1, "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    told = answer.document["teacher"]["test"]
    assert set(told) == set(answer.document["student"]["test"]) == {*TOLD, *APART}
    assert told["f1"] > 0.5
    assert answer.document["task"]["rows"]["test"] >= 40


def test_a_killed_run_goes_on(
    done: Done, atb: Callable[..., Any], text: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its teacher, then in a stage: the same weights and scores as of the run that nothing stopped."""
    (files(tmp_path) / "r.toml").write_text(text(seeds=[1]))
    for name in ("fine_tune", "teach"):
        module = atb_export.teachers if name == "fine_tune" else atb_export.teaching
        real, spared = getattr(module, name), "inner"

        def dying(*arguments: Any, real: Any = real, spared: str = spared, **more: Any) -> Any:
            def progress(done: int, _total: int, _text: str) -> None:
                if done == 12 and getattr(arguments[2], "name", "") != spared:
                    raise KeyboardInterrupt

            return real(*arguments, **{**more, "progress": progress})

        with monkeypatch.context() as patch:
            patch.setattr(module, name, dying)
            assert atb("distill", "r.toml", "--resume", "--threads", 1, cwd=tmp_path).code == 130
    assert (tmp_path / "out/stages/student-1-answers/training.safetensors").is_file()
    answer = atb("distill", "r.toml", "--resume", "--threads", 1, "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert answer.document["teacher"]["test"] == done.result["teacher"]["test"]
    assert answer.document["student"]["runs"][0]["test"] == done.result["student"]["runs"][0]["test"]
    one, other = (load_file(x / "out/stages/student-1/dense.safetensors") for x in (tmp_path, done.cwd))
    assert all(torch.equal(x, other[name]) for name, x in one.items())


# --- what is learnt from --------------------------------------------------------------------------------------------


def test_sentences_are_lessons_without_an_answer(done: Done, tiny_teacher: Path) -> None:
    data = load_questions(in_folder(done))
    teacher = load_teacher(str(tiny_teacher), labels=data.labels, seed=0, head="span")
    every = lessons(teacher, data, max_length=24, kind="all")
    windows = lessons(teacher, data, max_length=24, kind="task")
    assert windows.labels.shape == (len(windows.texts), 2)
    assert len(every.texts) == 2 * len(windows.texts) + 3
    assert every.labels[-3:].tolist() == [[UNLABELLED] * 2] * 3
    first = every.texts.batch([0, len(every.texts) - 1])
    assert first["token_type_ids"].sum(1).tolist()[1] == 0
    assert first["token_type_ids"].sum(1).tolist()[0] > 0
    short = lessons(teacher, data, max_length=12, kind="task")
    assert max(short.texts.lengths) == 12
    assert len(short.texts) > len(windows.texts)


def test_windows_of_what_is_scored_are_made_once(done: Done, tiny_teacher: Path) -> None:
    data = load_questions(in_folder(done))
    tokenizer = load_teacher(str(tiny_teacher), labels=data.labels, seed=0, head="span").tokenizer
    one, other = (data.features(tokenizer, "test", max_length=x) for x in (24, 16))
    assert data.features(tokenizer, "test", max_length=24) is one
    assert max(one.texts.lengths) > max(other.texts.lengths)
    assert data.features(tokenizer, "train", max_length=24).offsets == ()


def test_contexts_of_what_is_measured_on_are_no_text_to_learn_from(done: Done) -> None:
    data = load_questions(in_folder(done))
    held = {row.texts[0] for row in data.held_out}
    assert held == {text for x in (*data.search_dev, *data.test) for text in (x.context, x.question)}
    assert not {x.context for x in data.train} & held


def test_a_judge_looks_at_tokens_only(done: Done, tiny_teacher: Path) -> None:
    data = load_questions(in_folder(done))
    teacher = load_teacher(str(tiny_teacher), labels=data.labels, seed=0, head="span")
    lesson = data.of_split(teacher, "search_dev", max_length=24)
    logits = torch.full((len(lesson.texts), max(lesson.texts.lengths) + 2, 2), -9.0)
    for i, (first, last) in enumerate(lesson.labels.tolist()):
        logits[i, first, 0] = logits[i, last, 1] = 9.0
        logits[i, lesson.texts.lengths[i] :] = 50.0
    told = data.judge(lesson)(logits, lesson.labels)
    assert told["exact"] == 1.0
    assert told["loss"] == pytest.approx(0.0, abs=1e-4)


# --- reading --------------------------------------------------------------------------------------------------------


def test_no_context_is_in_two_splits(text: Callable[..., str], tmp_path: Path) -> None:
    task: dict[str, Any] = {"kind": "squad", "path": str(squad(tmp_path / "a.json", range(20)))}
    task |= {"test_rows": 8, "search_dev_rows": 6}
    data = load_questions(read(tmp_path, text(task=task)))
    assert data.counts() == {"train": 26, "search_dev": 6, "test": 8}
    contexts = [{x.context for x in part} for part in (data.train, data.search_dev, data.test)]
    assert len(set.union(*contexts)) == sum(map(len, contexts))
    assert isinstance(data, SpanData)
    assert not data.has_nulls
    with pytest.raises(DataError, match="cannot be taken from"):
        load_questions(read(tmp_path, text(task=task | {"test_rows": 40})))


def test_rows_are_no_questions(text: Callable[..., str], tmp_path: Path) -> None:
    task = {"path": "a.csv", "search_dev_rows": 2, "test_rows": 2}
    with pytest.raises(DataError, match="has rows, not questions"):
        load_questions(read(tmp_path, text(task=task)))


def test_a_student_starts_as_another_that_answers_questions(done: Done) -> None:
    """Its folder: the head is taken over with the layers."""
    folder = done.cwd / "out/stages/teacher/model"
    teacher = supernet_from_bert(load_teacher(str(folder), labels=LABELS, seed=0, head="span").model)
    shape = SubnetConfig.uniform(hidden_size=24, depth=2, heads=4, head_size=8, ffn_size=48)
    found = start_of(str(folder), teacher, shape, seed=0, labels=LABELS)
    assert found.facts == teacher.facts
    assert torch.equal(found.classifier.weight, teacher.classifier.weight[:, :24])


# --- what has no place ----------------------------------------------------------------------------------------------


def refused(folder: Path, content: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(folder, content)
    return str(caught.value)


def test_stages_that_questions_cannot_have(text: Callable[..., str], tmp_path: Path) -> None:
    stage = {"name": "a", "steps": 2, "loss": {"soft_label": 1.0}}
    told = refused(tmp_path, text(distill={"stage": [stage | {"data": "augmented"}]}))
    assert "stage 'a' of [distill] learns from augmented rows, of which questions have none" in told
    assert "needs a table" not in told
    assert "replaces words of rows" in refused(tmp_path, text(augmentation={"variants": 2}))
    sure = text(transfer={"path": "text.txt", "confidence_quantile": 0.05})
    assert "of classes of single texts: drop it" in refused(tmp_path, sure)
    for kind in ("all", "transfer"):
        told = refused(tmp_path, text(distill={"stage": [stage | {"data": kind}]}))
        assert "transfer text is single sentences, of which nobody asks anything" in told
    teacher = json.loads(text().split("model = ")[1].splitlines()[0])
    other = f'[teacher]\nmodel = "{teacher}"\n[[teacher.tasks]]\nkind = "glue"\nname = "rte"\n'
    told = refused(tmp_path, text(teacher=None) + other)
    assert "of several tasks has rows with a label, and questions are none" in told


def test_columns_are_squad_s_own(text: Callable[..., str], tmp_path: Path) -> None:
    task = {"kind": "squad", "train": "a", "test": "b", "search_dev_rows": 2, "text": ["x"], "label": "y", "name": "z"}
    told = refused(tmp_path, text(task=task))
    for key in ("text", "label", "name"):
        assert f"task.{key}" in told
    assert told.count("does not go with SQuAD") == 3
    assert "task.search_dev: give exactly one" in refused(
        tmp_path, text(task={"kind": "squad", "train": "a", "test": "b"})
    )


def test_a_search_is_for_classifiers(
    text: Callable[..., str], tiny_recipe: Callable[..., str], atb: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "s.toml").write_text(tiny_recipe(task__kind="squad"))
    with pytest.raises(RecipeError, match=r'of kind "squad" is for `atb distill` and a \[student\] alone'):
        load_recipe(tmp_path / "s.toml")
    (tmp_path / "r.toml").write_text(text())
    told = atb("run", "r.toml", cwd=tmp_path).refusal
    assert 'of kind "squad" is for `atb distill` and a [student] alone' in told
    assert not (tmp_path / "out").exists()
