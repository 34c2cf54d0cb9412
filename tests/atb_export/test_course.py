"""What runs and distillations have in common: the order of dims and layers is what the recipe asks for."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from atb_export.distilling import Distillation
from atb_export.recipe import load_recipe
from atb_export.ui import Ui
from atb_export.workspace import Workspace
from supernet.errors import StageError
from supernet.importance import measure_importance
from supernet.model import Supernet
from supernet.stage import Stage
from supernet.teacher import supernet_from_bert


@pytest.fixture(scope="module")
def distillation(tiny_recipe: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Opens one in a workspace that they share, so that the teacher is fine-tuned once."""
    folder = tmp_path_factory.mktemp("course")

    def build(student: dict[str, Any], **changes: Any) -> Distillation:
        keys = {"depth": 2, "hidden_size": 24, "heads": 4, "ffn_size": 40} | student
        text = tiny_recipe(**{"teacher__epochs": 1, **changes})
        text += "\n[student]\n" + "".join(f"{key} = {value!r}\n" for key, value in keys.items())
        path = folder / "recipe.toml"
        path.write_text(text)
        with Workspace.open(folder / "out", resume=True) as workspace:
            return Distillation(recipe=load_recipe(path), workspace=workspace, ui=Ui(quiet=True))

    return build


def words(net: Supernet) -> torch.Tensor:
    return net.word_embeddings.weight.detach()


def test_dims_stand_in_the_order_that_the_recipe_names(distillation: Any) -> None:
    found = {by: distillation({}, supernet__importance=by) for by in ("taylor", "activation", "none")}
    teacher = supernet_from_bert(found["none"].teacher.model)
    assert torch.equal(words(found["none"].ordered), words(teacher))
    for by in ("taylor", "activation"):
        course = found[by]
        wanted = course.importance(teacher).hidden.argsort(descending=True, stable=True)
        assert torch.equal(words(course.ordered), words(teacher)[:, wanted]), by
    assert not torch.equal(words(found["taylor"].ordered), words(found["activation"].ordered))


def test_importance_is_by_the_measure_that_the_recipe_names(distillation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(net: Supernet, batches: Any, *, by: Any) -> Any:
        asked.append(by)
        return measure_importance(net, batches, by=by)

    monkeypatch.setattr("atb_export.course.measure_importance", measured)
    for by in ("taylor", "activation", "none"):
        course = distillation({}, supernet__importance=by)
        course.importance(supernet_from_bert(course.teacher.model))
    assert asked == ["taylor", "activation"]


def test_a_student_keeps_even_named_or_important_layers(distillation: Any) -> None:
    def sources(**student: Any) -> list[int]:
        return [layer.source for layer in distillation(student).cut.layers]

    scores = torch.tensor(distillation({}).ordered_stage.result["layers"])
    assert len(scores) == 4
    assert sources() == [1, 3]
    assert sources(layers=[1, 4]) == [0, 3]
    assert sources(layers="important") == sorted(scores.argsort(descending=True)[:2].tolist())
    with pytest.raises(StageError, match="the student has 5 layers and its teacher 4"):
        sources(layers="important", depth=5)
    with pytest.raises(StageError, match="the importance of layers is not measured"):
        _ = distillation({"layers": "important"}, supernet__importance="none").cut


def test_beside_rows_text_is_learnt_where_the_teacher_is_sure_of_it(
    distillation: Any, tiny_csv: Path, tmp_path: Path
) -> None:
    rows = list(csv.reader(tiny_csv.open(encoding="utf-8")))[1:]
    known = [" ".join(reversed(text.split())) for text, _ in rows[:20]]
    strange = [" ".join(f"{a}{b}" for b in "asdfg") + f" {i}." for i, a in enumerate("qwertzuiopyxcvbnmlkj")]
    path = tmp_path / "text.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([x] for x in known + strange)])

    def course(quantile: float) -> Distillation:
        text = {"transfer__path": str(path), "transfer__min_words": 1, "transfer__confidence_quantile": quantile}
        return distillation({}, teacher__epochs=8, **text)  # type: ignore[no-any-return]

    whole, sure = course(0.0), course(0.2)
    count = whole.data.counts()["train"] * 2
    every, some = len(whole.lessons.texts) - count, len(sure.lessons.texts) - count
    assert every == 40 > some > 0
    kept = sure._kept_text(sure.length)
    assert kept is not None
    assert len(kept) == some
    text = Stage(name="text", data="transfer", steps=1, batch_size=4, learning_rate=1e-3)
    texts = [tuple(x) for x in sure.lessons_of(text).texts.input_ids]
    assert len(texts) == 40
    assert [tuple(x) for x in sure.lessons.texts.input_ids][count:] == [texts[i] for i in kept]
