"""The shipped recipes, each whole on a miniature: a BERT of 4 layers, a few hundred rows, a handful of steps."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import atb_export.teaching
from atb_export.dense import load_dense
from atb_export.recipe import load_recipe, load_student_recipe
from atb_export.teaching import _HEAD, _MAPS, _NET
from search.design import Design
from supernet.checkpoint import load_supernet
from supernet.heads import head_axes
from supernet.space import SearchSpace, SubnetConfig
from supernet.stage import LossWeights

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
RUN, DISTILL = ("autotinybert", "efficientbert", "default"), ("tinybert", "ernie-tiny")
STUDENT = {"depth": 2, "hidden_size": 24, "heads": 4, "ffn_size": 40}
SPACES: dict[str, dict[str, Any]] = {
    "autotinybert": {
        "depths": [1, 2],
        "hidden_sizes": {"min": 16, "max": 32, "step": 4},
        "heads": [4],
        "head_sizes": [4, 6, 8],
        "ffn_sizes": {"min": 16, "max": 64, "step": 4},
        "slicing": "dims",
        "first_layers": True,
        "per_layer": False,
    },
    "efficientbert": {
        "depths": [3],
        "hidden_sizes": [24],
        "heads": [4],
        "head_sizes": [6],
        "ffn_sizes": [24, 12],
        "ffn_stacks": [1, 2],
    },
    "default": {"depths": [1, 2], "hidden_sizes": [24, 32], "heads": [2, 4], "head_sizes": [8], "ffn_sizes": [32, 64]},
}


def as_toml(value: Any) -> str:
    """A value in one line; tables inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {as_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return json.dumps(value)


@dataclass(frozen=True)
class Done:
    """A shipped recipe, shrunk and run."""

    cwd: Path
    recipe: Path
    answer: Any

    @property
    def result(self) -> dict[str, Any]:
        document: dict[str, Any] = self.answer.document
        return document

    def stage(self, name: str, folder: str = "out") -> Path:
        return self.cwd / folder / "stages" / name

    def net(self, name: str) -> dict[str, Tensor]:
        return load_file(self.stage(name) / _NET)


@pytest.fixture(scope="module")
def shrunk(tiny_teacher: Path, tiny_csv: Path) -> Callable[..., str]:
    """The text of a shipped recipe with the tiny teacher, few rows and few steps; stages stay as they are."""

    def shrink(name: str, **changes: Any) -> str:
        data = tomllib.loads((RECIPES / f"{name}.toml").read_text())
        data |= {"output": "out"}
        data["teacher"] |= {"model": str(tiny_teacher), "epochs": 4, "learning_rate": 1.5e-3, "max_length": 24}
        data["teacher"]["batch_size"] = 16
        data["task"] = {"path": str(tiny_csv), "search_dev_rows": 60, "test_rows": 80}
        sure = data["transfer"].get("confidence_quantile", 0.0)
        data["transfer"] = {"path": "sentences.txt", "limit": 150, "max_words": 12, "confidence_quantile": sure}
        for section in ("supernet", "distill"):
            if section in data:
                data[section] |= {"batch_size": 8, "checkpoint_every": 2}
                data[section]["stage"] = [{**x, "steps": 4} for x in data[section]["stage"]]
        if name == "tinybert":
            data["distill"]["stage"][0]["learning_rate"] = 1e-2
        if name in SPACES:
            cells = {"cells": data["space"]["cells"]} if "cells" in data["space"] else {}
            data["space"] = SPACES[name] | cells
            data["supernet"]["importance_batches"] = 2
            data["search"] |= {"engines": 4, "population": 4, "generation": 4}
            data["search"]["tuning_steps"] = min(2, data["search"].get("tuning_steps", 0))
            for phase in data["search"].get("phase", []):
                phase.update({"engines": 3} | ({"tuning_steps": 2} if "tuning_steps" in phase else {}))
            data["constraint"] = {"of_teacher": 1.0}
            data["target"] = [{"backend": "openvino", "precision": "f32", "length": 24}]
        else:
            data["student"] = STUDENT | {"initial": data["student"]["initial"]}
        if "augmentation" in data:
            data["augmentation"] |= {"variants": 2, "candidates": 4}
        return "".join(f"{key} = {as_toml(value)}\n" for key, value in (data | changes).items())

    return shrink


def alike(inputs: Any, space: SearchSpace, target: Any, *, rng: Random) -> list[tuple[SubnetConfig, float]]:
    """Eager timings that put every subnet within the band: those of nets this small are all noise."""
    return [(space.sample(rng), 1.0) for _ in range(20)] + [(inputs.reference.shape, 1.0)]


@pytest.fixture(scope="module")
def run_shipped(
    atb: Callable[..., Any], shrunk: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Done]:
    """Each recipe once, whoever asks."""
    kept: dict[str, Done] = {}

    def run(name: str) -> Done:
        if name not in kept:
            cwd = tmp_path_factory.mktemp(name)
            (cwd / "sentences.txt").write_text((ROOT / "README.md").read_text())
            recipe = cwd / f"{name}.toml"
            recipe.write_text(shrunk(name))
            command = "run" if name in RUN else "distill"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("atb_export.searching.eager_timings", alike)
                answer = atb(command, recipe, "--threads", 1, "--json", cwd=cwd)
            assert answer.code == 0, answer.err
            kept[name] = Done(cwd, recipe, answer)
        return kept[name]

    return run


def differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    assert set(a) == set(b)
    return {name for name in a if not a[name].equal(b[name])}


def head_of(folder: Path) -> set[str]:
    return set(head_axes(load_supernet(folder / _NET).facts))


# --- the files themselves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUN)
def test_a_shipped_recipe_is_one(name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.toml")
    assert recipe.name == name
    assert recipe.output == f"runs/{name}"
    assert recipe.supernet.stage


@pytest.mark.parametrize("name", DISTILL)
def test_a_shipped_recipe_of_a_student_is_one(name: str) -> None:
    recipe = load_student_recipe(RECIPES / f"{name}.toml")
    assert recipe.name == name
    assert recipe.distill.stage
    assert recipe.student is not None
    assert recipe.student.shape.depth == 4


def test_ernie_tiny_changes_one_factor_a_stage() -> None:
    stages = load_student_recipe(RECIPES / "ernie-tiny.toml").distill.stages()
    factors = [(x.teacher, x.data, x.losses) for x in stages]
    assert [x.name for x in stages] == ["gd", "ged", "tad", "tsd"]
    changed = [sum(a != b for a, b in zip(one, other, strict=True)) for one, other in pairwise(factors)]
    assert changed == [1, 1, 1]
    assert [x.losses.is_latent for x in stages] == [True, True, True, False]


def test_tinybert_learns_within_first_and_answers_last() -> None:
    general, inner, answers = load_student_recipe(RECIPES / "tinybert.toml").distill.stages()
    assert [(x.teacher, x.data) for x in (general, inner, answers)] == [
        ("pretrained", "transfer"),
        ("task", "augmented"),
        ("task", "augmented"),
    ]
    assert general.losses.is_latent
    assert inner.losses.is_latent
    assert {general.layer_map.names, inner.layer_map.names} == {"uniform"}
    assert answers.losses == LossWeights(soft_label=1.0, hidden=0.0, attention=0.0)


# --- each of them, whole --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DISTILL)
def test_a_student_comes_out_that_others_can_read(name: str, run_shipped: Callable[[str], Done]) -> None:
    done = run_shipped(name)
    folder, student = done.cwd / "out" / "model", done.result["student"]
    dense = load_dense(folder)
    assert dense.net.shape == SubnetConfig.from_json(student["shape"]).renumbered()
    assert (dense.net.shape.depth, dense.net.shape.hidden_size) == (2, 24)
    assert done.result == json.loads((done.cwd / "out" / "result.json").read_text())
    stock = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    text = AutoTokenizer.from_pretrained(folder)("the film is superb", return_tensors="pt")
    with torch.no_grad():
        ours = dense.net(**{k: text[k] for k in ("input_ids", "attention_mask")}).logits
        torch.testing.assert_close(stock(**text).logits, ours)
    assert all(x["passed"] for x in done.result["parity"])
    assert [x["name"] for x in student["runs"][0]["stages"]] == [
        x.name for x in load_student_recipe(done.recipe).distill.stages()
    ]
    assert student["of_teacher"] == pytest.approx(
        student["test"]["accuracy"]["mean"] / done.result["teacher"]["test"]["accuracy"]
    )


def test_tinyberts_stages_do_what_they_say(run_shipped: Callable[[str], Done]) -> None:
    done = run_shipped("tinybert")
    general, inner, answers = (done.net(f"student-1-{x}") for x in ("general", "task-inner", "task-answers"))
    head = head_of(done.stage("student-1-general"))
    body = {x for x in general if x.startswith("layers.")}
    changed = differ(general, inner)
    assert not head & changed
    assert len(changed & body) > len(body) / 2
    assert head & differ(inner, answers) == head
    maps = [load_file(done.stage(f"student-1-{x}") / _MAPS) for x in ("general", "task-inner")]
    assert not (done.stage("student-1-task-answers") / _MAPS).exists()
    # The maps went on from the first stage, whose steps were a hundred times as long: no fresh draw lies so near.
    assert all((maps[0][name] - maps[1][name]).abs().max() < 2e-3 for name in maps[0])
    assert list((done.cwd / "out" / "texts").glob("augmented-*"))


def test_ernie_tinys_head_stays_until_its_last_stage(run_shipped: Callable[[str], Done]) -> None:
    done = run_shipped("ernie-tiny")
    names = ("gd", "ged", "tad", "tsd")
    nets = [done.net(f"student-1-{x}") for x in names]
    head = head_of(done.stage("student-1-gd"))
    for before, after in pairwise(nets[:3]):
        assert differ(before, after)
        assert not head & differ(before, after)
    assert head <= differ(nets[2], nets[3])
    teachers = [load_file(done.stage("ordered") / f"{x}.safetensors") for x in ("pretrained", "task")]
    assert "layers.0.query.weight" in differ(*teachers)


@pytest.mark.parametrize("name", RUN)
def test_a_run_ends_with_a_bundle(name: str, run_shipped: Callable[[str], Done]) -> None:
    done = run_shipped(name)
    assert (done.cwd / "out" / "bundle" / "manifest.json").is_file()
    assert all(x["passed"] for x in done.result["parity"])
    recipe = load_recipe(done.recipe)
    for student, stages in (("supernet", recipe.supernet.stages()), ("winner", recipe.distill.stages())):
        for stage in stages:
            assert (done.stage(f"{student}-{stage.name}") / "done.json").is_file()
    last = recipe.supernet.stages()[-1].name
    assert not differ(done.net(f"supernet-{last}"), load_file(done.stage("supernet") / "supernet.safetensors"))


def test_autotinyberts_supernet_learns_words_and_then_a_teacher(run_shipped: Callable[[str], Done]) -> None:
    done = run_shipped("autotinybert")
    start = load_file(done.stage("ordered") / "task.safetensors")
    words, taught = done.net("supernet-mlm"), done.net("supernet-kd")
    head = head_of(done.stage("supernet-mlm"))
    assert "word_embeddings.weight" in differ(start, words)
    assert not head & (differ(start, words) | differ(words, taught))
    assert (done.stage("supernet-mlm") / _HEAD).is_file()
    assert done.result["search"]["method"] == "autotinybert"
    assert (done.stage("supernet-kd") / _MAPS).is_file()


def test_efficientberts_search_frees_what_its_phases_name(run_shipped: Callable[[str], Done]) -> None:
    done = run_shipped("efficientbert")
    start = json.loads((done.stage("supernet") / "done.json").read_text())["result"]["space_size"]
    assert start == 4 * (2 * 2 * 6) ** 3
    found = json.loads((done.stage("search") / "done.json").read_text())["result"]["phases"]
    assert [x["name"] for x in found] == ["stage-1", "stage-2", "stage-3"]
    first, second, third = (Design.from_json(x["winner"]["design"]).subnet for x in found)
    assert [x.sizes for x in first.layers] == [x.sizes for x in second.layers]
    assert [x.cell for x in second.layers] == [x.cell for x in third.layers]
    assert done.result["winner"]["subnet"] == third.to_json()
    warm, shared = done.net("supernet-warm-up"), done.net("supernet-sharing")
    # The warm-up teaches the whole network: cells that were added with zeros are zeros in no layer after it.
    added = [warm[f"layers.{i}.cells.1.output.weight"] for i in range(4)]
    assert all(x.abs().max() > 0 for x in added)
    assert differ(warm, shared)


def test_a_search_in_phases_can_be_picked_from(
    run_shipped: Callable[[str], Done], atb: Callable[..., Any], tmp_path: Path
) -> None:
    done = run_shipped("efficientbert")
    answer = atb("pick", done.recipe, "--out", tmp_path / "picked", "--json", cwd=done.cwd)
    assert answer.code == 0, answer.err
    assert answer.document["picked"]["design"]["subnet"] == done.result["winner"]["subnet"]
    assert load_dense(tmp_path / "picked").net.shape.depth == 3


def test_the_default_learns_from_text_that_its_teacher_is_sure_of(run_shipped: Callable[[str], Done]) -> None:
    done = run_shipped("default")
    found = json.loads((done.stage("transfer-24") / "done.json").read_text())["result"]
    assert 0 < found["kept"] < found["of"] <= 150
    (alone,) = load_recipe(done.recipe).distill.stages()
    assert (alone.data, alone.layer_map.names) == ("all", "last")
    start = load_supernet(done.stage("supernet-shared") / _NET)
    start = start.slice(SubnetConfig.from_json(done.result["winner"]["subnet"]))
    assert differ(done.net("winner-alone"), start.state_dict())
    assert not differ(done.net("winner-alone"), load_file(done.stage("winner") / "dense.safetensors"))


# --- skipping and resuming ------------------------------------------------------------------------------------------


def test_a_stage_is_skipped_by_a_flag(run_shipped: Callable[[str], Done], atb: Callable[..., Any]) -> None:
    done = run_shipped("ernie-tiny")
    before = {path: path.stat().st_mtime_ns for path in (done.cwd / "out").rglob("*.json")}
    answer = atb("distill", done.recipe, "--skip-stage", "ged", "--threads", 1, "--json", cwd=done.cwd)
    assert answer.code == 0, answer.err
    assert answer.document["skipped"] == ["ged"]
    assert [x["name"] for x in answer.document["student"]["runs"][0]["stages"]] == ["gd", "tad", "tsd"]
    assert {path: path.stat().st_mtime_ns for path in (done.cwd / "out").rglob("*.json")} == before
    made = {x.name for x in (done.cwd / "out-without-ged" / "stages").iterdir()}
    # What comes before the skipped stage is that of the whole run.
    assert made == {"student-1-tad", "student-1-tsd", "student-1", "model"}
    assert differ(done.net("student-1-tad"), load_file(done.stage("student-1-tad", "out-without-ged") / _NET))


def test_a_stage_there_is_none_of(
    run_shipped: Callable[[str], Done], atb: Callable[..., Any], tiny_recipe: Callable[..., str], tmp_path: Path
) -> None:
    done = run_shipped("tinybert")
    text = atb("distill", done.recipe, "--skip-stage", "generl", cwd=done.cwd).refusal
    assert 'there is no such stage; did you mean "general"? known: general, task-inner, task-answers' in text
    (tmp_path / "r.toml").write_text(tiny_recipe())
    text = atb("run", "r.toml", "--skip-stage", "general", cwd=tmp_path).refusal
    assert "--skip-stage general: there is no such stage; the recipe lists none" in text
    assert not (tmp_path / "out").exists()


def test_a_killed_run_goes_on_with_the_stage_it_died_in(
    run_shipped: Callable[[str], Done],
    atb: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = run_shipped("ernie-tiny")
    for file in ("sentences.txt", whole.recipe.name):
        (tmp_path / file).write_bytes((whole.cwd / file).read_bytes())
    real, taught = atb_export.teaching.teach, []

    def teach(student: Any, lessons: Any, stage: Any, **more: Any) -> Any:
        taught.append(stage.name)
        return real(student, lessons, stage, **more)

    def dying(student: Any, lessons: Any, stage: Any, **more: Any) -> Any:
        def progress(done: int, total: int, text: str) -> None:
            if stage.name == "tad" and done == 3:
                raise KeyboardInterrupt

        return teach(student, lessons, stage, **{**more, "progress": progress})

    monkeypatch.setattr(atb_export.teaching, "teach", dying)
    assert atb("distill", whole.recipe.name, "--threads", 1, cwd=tmp_path).code == 130
    assert taught == ["gd", "ged", "tad"]
    assert (tmp_path / "out/stages/student-1-tad/training.safetensors").is_file()
    assert not (tmp_path / "out/model").exists()
    taught.clear()
    monkeypatch.setattr(atb_export.teaching, "teach", teach)
    assert atb("distill", whole.recipe.name, "--resume", "--threads", 1, cwd=tmp_path).code == 0
    assert taught == ["tad", "tsd"]
    files = [x / "out/model/model.safetensors" for x in (tmp_path, whole.cwd)]
    assert not differ(*map(load_file, files))
    assert [x.name for x in (tmp_path / "out").iterdir() if x.name.startswith(".")] == [".lock"]


def test_seeds_are_runs_of_their_own(shrunk: Callable[..., str], atb: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "sentences.txt").write_text((ROOT / "README.md").read_text())
    stage = [{"name": "only", "data": "task", "steps": 3, "loss": {"soft_label": 1.0}}]
    (tmp_path / "r.toml").write_text(shrunk("tinybert", seeds=[3, 4], distill={"batch_size": 8, "stage": stage}))
    answer = atb("distill", "r.toml", "--threads", 1, "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    runs = answer.document["student"]["runs"]
    assert [x["seed"] for x in runs] == [3, 4]
    values = [x["test"]["accuracy"] for x in runs]
    told = answer.document["student"]["test"]["accuracy"]
    assert told["mean"] == pytest.approx(sum(values) / 2)
    assert told["deviation"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    best = max(runs, key=lambda x: (x["search_dev"], -x["seed"]))
    assert answer.document["student"]["model_seed"] == best["seed"]
    assert "± " in answer.out
