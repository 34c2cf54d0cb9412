"""Commands that take a recipe: the other half of what the pipeline's test shows, and bad input."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel, GPT2Config, GPT2Model

from atb_export.dense import load_dense
from runtime.engine import backend
from runtime.latency import LatencyReport
from runtime.manifest import read_bundle
from search.candidate import Candidate
from search.design import Design
from search.store import Store
from search.store.schema import speaking
from supernet.checkpoint import load_supernet
from supernet.space import SubnetConfig

Atb = Callable[..., Any]
Recipe = Callable[..., str]


@pytest.fixture
def try_recipe(atb: Atb, tiny_recipe: Recipe, tmp_path: Path) -> Callable[..., Any]:
    """Runs `atb COMMAND` on the tiny recipe with changes."""

    def call(command: str, *options: object, **changes: Any) -> Any:
        (tmp_path / "r.toml").write_text(tiny_recipe(**changes))
        return atb(command, "r.toml", "--threads", 1, *options, cwd=tmp_path)

    return call


# --- compare, search, pick ------------------------------------------------------------------------------------------


def test_compare_adds_the_baselines_and_trains_nothing_again(tiny_run: Any, atb: Atb, tmp_path: Path) -> None:
    run = tiny_run.copy(tmp_path)
    markers = {path: path.stat().st_mtime_ns for path in run.folder.glob("stages/*/done.json")}
    answer = atb("compare", run.recipe, "--resume", "--threads", 1, "--json", cwd=run.cwd)
    assert answer.code == 0, answer.err
    assert {path: path.stat().st_mtime_ns for path in markers} == markers
    result = answer.document
    assert result == run.result
    assert [x["name"] for x in result["baselines"]] == ["cut3", "cut2"]
    # Second and last layer, whole; as the teacher is wide.
    assert [x["source"] for x in result["baselines"][1]["subnet"]["layers"]] == [1, 3]
    assert [x["source"] for x in result["baselines"][0]["subnet"]["layers"]] == [1, 2, 3]
    assert {x["b"] for x in result["paired"]} == {"teacher", "cut3", "cut2"}
    assert result["winner"]["subnet"] == tiny_run.result["winner"]["subnet"]
    assert result["winner"]["accuracy"] == tiny_run.result["winner"]["accuracy"]
    raw = json.loads((run.stage("comparison") / "latency.json").read_text())
    for model in (result["teacher"], result["winner"], *result["baselines"]):
        assert model["latency_ms"] == LatencyReport.from_json(raw[model["name"]]).p50_ms
        assert model["bundle_bytes"] > 0
    assert "cut2" in (run.folder / "report.html").read_text()
    for line in ("winner - cut2: ", "cut3"):
        assert line in answer.out


def test_a_baseline_the_teacher_has_no_room_for_is_told(tiny_run: Any, atb: Atb, tmp_path: Path) -> None:
    run = tiny_run.copy(tmp_path)
    run.recipe.write_text(run.recipe.read_text().replace('"cut3"', '"tinybert4"'))
    text = atb("compare", run.recipe, "--resume", "--threads", 1, cwd=run.cwd).refusal
    assert "the baseline tinybert4" in text
    assert "drop it from [compare]" in text


def test_search_shows_the_front_it_found(tiny_run: Any, atb: Atb) -> None:
    answer = atb("search", tiny_run.recipe, "--resume", "--threads", 1, "--json", cwd=tiny_run.cwd)
    assert answer.code == 0, answer.err
    assert "<- picked" in answer.out
    assert answer.document["winner"]["design"]["subnet"] == tiny_run.result["winner"]["subnet"]
    assert answer.document["candidates"] == tiny_run.result["candidates"]
    (models,) = answer.document["latency_models"]
    assert (models["target"], models["precision"]) == ("openvino-CPU-f32-b1-l24-t1", "f32")
    assert (models["mape"], models["spearman_of_guesses"]) == (None, None), "8 engines say nothing"
    assert "they only steer" not in answer.out


def test_train_ends_with_the_supernet(tiny_run: Any, atb: Atb) -> None:
    answer = atb("train", tiny_run.recipe, "--resume", "--threads", 1, "--json", cwd=tiny_run.cwd)
    assert answer.code == 0, answer.err
    assert set(answer.document["seconds"]) == {"teacher", "ordered", "supernet-supernet", "supernet"}
    assert answer.document["space_size"] == 4 * 2 * 8 + 6 * 2 * 64
    assert (tiny_run.cwd / answer.document["supernet"] / "supernet.safetensors").is_file()


def test_a_longer_search_shows_how_well_its_models_foretell(tiny_run: Any, atb: Atb, tmp_path: Path) -> None:
    """And its numbers are those of all candidates: what was measured before is reused, the rest guessed first."""
    run = tiny_run.copy(tmp_path)
    run.recipe.write_text(run.recipe.read_text().replace("engines = 5", "engines = 30"))
    answer = atb("search", run.recipe, "--resume", "--threads", 1, "--json", cwd=run.cwd)
    assert answer.code == 0, answer.err
    (models,) = answer.document["latency_models"]
    found = [Candidate.from_json({k: v for k, v in x.items() if k != "front"}) for x in answer.document["candidates"]]
    measured = [x for x in found if x.is_measured]
    assert models["engines"] == len({x.subnet.renumbered() for x in measured})
    assert models["guesses"] == sum(x.predicted_ms is not None for x in measured) > 0
    assert 0 < models["mape"] < 1
    assert -1 <= models["spearman"] <= 1
    assert "latency models; they only steer what is measured next" in answer.out
    assert f"{models['mape']:.1%}" in answer.out


def test_a_search_may_keep_its_numbers_elsewhere(tiny_run: Any, atb: Atb, tmp_path: Path) -> None:
    """Which changes nothing about what is done: neither does its result."""
    run = tiny_run.copy(tmp_path)
    answer = atb("search", run.recipe, "--resume", "--store", "other.sqlite", "--threads", 1, "--json", cwd=run.cwd)
    assert answer.document["candidates"] == tiny_run.result["candidates"]
    assert not (run.cwd / "other.sqlite").exists()
    shutil.rmtree(run.stage("search"))
    answer = atb("search", run.recipe, "--resume", "--store", "other.sqlite", "--threads", 1, "--json", cwd=run.cwd)
    assert answer.code == 0, answer.err
    with Store.open(run.cwd / "other.sqlite", create=False, readonly=True) as store:
        assert len(store.searches()) == 1


def test_the_options_of_a_cluster_go_with_it(try_recipe: Any, tmp_path: Path) -> None:
    for options in (["--address", "auto"], ["--resource", "openvino-CPU=x"], ["--time-limit", 5]):
        answer = try_recipe("search", *options)
        assert answer.code == 2
        assert "go with --executor ray" in answer.refusal
    for text in ("gpu-0=x", "openvino-CPU=", "x", "onnxruntime-CPU=x"):
        answer = try_recipe("run", "--executor", "ray", "--resource", text)
        assert answer.code == 2
        assert "takes BACKEND-DEVICE=NAME; the recipe searches openvino-CPU; got" in answer.refusal
    assert not (tmp_path / "out").exists()


def test_a_missing_ray_is_told_before_anything_is_trained(
    try_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "ray" else real(name, *a))
    text = try_recipe("search", "--executor", "ray").refusal
    assert "the package ray is not installed: pip install 'atb-export[ray]'" in text
    assert not (tmp_path / "out").exists()


def test_the_executor_is_made_as_it_was_asked_for(
    tiny_run: Any, atb: Atb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster's stand-in that does the work here."""
    import atb_export.executors.ray
    from atb_export.executors.local import LocalExecutor

    made: list[dict[str, Any]] = []

    def stand_in(inputs: Any, **options: Any) -> LocalExecutor:
        made.append(options)
        return LocalExecutor(inputs)

    monkeypatch.setattr(atb_export.executors.ray, "RayExecutor", stand_in)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: object())
    run = tiny_run.copy(tmp_path)
    shutil.rmtree(run.stage("search"))
    options = ["--address", "auto", "--resource", "openvino-CPU=spr", "--time-limit", 9]
    answer = atb("search", run.recipe, "--resume", "--threads", 1, "--executor", "ray", *options, cwd=run.cwd)
    assert answer.code == 0, answer.err
    (asked,) = made
    assert [x.label for x in asked.pop("targets")] == ["openvino-CPU-f32-b1-l24-t1"]
    assert asked == {"address": "auto", "resources": {"openvino-CPU": "spr"}, "time_limit_s": 9}


def test_pick_slices_a_model_that_can_be_exported_benched_and_verified(tiny_run: Any, atb: Atb, tmp_path: Path) -> None:
    """The three jobs one after the other, each answering with one JSON line."""
    picked = atb("pick", tiny_run.recipe, "--max-ms", 1000, "--out", tmp_path / "picked", "--json", cwd=tiny_run.cwd)
    assert picked.code == 0, picked.err
    subnet = SubnetConfig.from_json(picked.document["picked"]["design"]["subnet"])
    assert picked.document["dense"] == str(tmp_path / "picked")
    dense = load_dense(tmp_path / "picked")
    assert dense.net.shape == subnet.renumbered()
    weights = load_supernet(tiny_run.stage("supernet") / "supernet.safetensors").slice(subnet).state_dict()
    assert all(x.equal(weights[name]) for name, x in dense.net.state_dict().items() if name in weights)
    exported = atb("export", "picked", "--lengths", 16, "--out", "bundle", "--json", cwd=tmp_path)
    assert exported.code == 0, exported.err
    benched = atb("bench", "bundle", "--windows", 2, "--json", cwd=tmp_path)
    assert benched.document["rows"][0]["p50_ms"] > 0
    verified = atb("verify", "bundle", "--json", cwd=tmp_path)
    assert verified.code == 0
    assert verified.document["files"] == len(read_bundle(tmp_path / "bundle").manifest.files)


def test_pick_of_a_finished_run_is_its_winner_and_measures_nothing(
    tiny_run: Any, atb: Atb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a pick only reads")

    for name in ("atb_export.work.measure", "atb_export.measuring.measure", "runtime.measure.measure"):
        monkeypatch.setattr(name, never)
    monkeypatch.setattr("atb_export.stages.Run.__init__", never)
    answer = atb("pick", tiny_run.recipe, "--json", cwd=tiny_run.cwd)
    assert answer.code == 0, answer.err
    assert answer.document["finished"] is True
    assert answer.document["picked"]["design"]["subnet"] == tiny_run.result["winner"]["subnet"]
    front = {Design.from_json(x["design"]).key for x in tiny_run.result["candidates"] if x["front"]}
    assert {x["key"] for x in answer.document["front"]} == front
    # The store has the same search, with the numbers of each candidate's own measurement.
    stored = atb("pick", "store.sqlite", "--json", cwd=tiny_run.cwd)
    assert stored.code == 0, stored.err
    assert stored.document["finished"] is False
    assert stored.document["limits_ms"] == answer.document["limits_ms"]


def test_pick_by_key_and_what_it_refuses(tiny_run: Any, atb: Atb, tmp_path: Path) -> None:
    front = [x for x in tiny_run.result["candidates"] if x["front"]]
    key = Design.from_json(front[0]["design"]).key
    answer = atb("pick", tiny_run.recipe, "--key", key, "--json", cwd=tiny_run.cwd)
    assert answer.document["picked"]["design"] == front[0]["design"]
    assert answer.document["dense"] is None
    out = ["--out", tmp_path / "new"]
    assert (
        "no design of the front has a key" in atb("pick", tiny_run.recipe, "--key", "x", *out, cwd=tiny_run.cwd).refusal
    )
    text = atb("pick", tiny_run.recipe, "--max-ms", 1e-9, *out, cwd=tiny_run.cwd).refusal
    assert "nothing meets the limits of 1e-09 ms: nearest is" in text
    assert "exists already" in atb("pick", tiny_run.recipe, "--out", tmp_path, cwd=tiny_run.cwd).refusal
    assert list(tmp_path.iterdir()) == []


def test_a_pick_slices_only_the_supernet_that_was_searched(tiny_run: Any, atb: Atb, tmp_path: Path) -> None:
    """Nothing is trained for it, and no weights are given away under another's accuracy."""
    run = tiny_run.copy(tmp_path)
    recipe = run.recipe.read_text()
    markers = {path: path.read_bytes() for path in run.folder.glob("stages/*/*.json")}
    run.recipe.write_text(recipe.replace("importance_batches = 2", "importance_batches = 3"))
    text = atb("pick", run.recipe, "--out", "picked", cwd=run.cwd).refusal
    assert "out has no stage 'ordered' of this recipe: it is not finished, or the recipe changed since" in text
    assert {path: path.read_bytes() for path in run.folder.glob("stages/*/*.json")} == markers
    assert atb("train", run.recipe, "--resume", "--threads", 1, cwd=run.cwd).code == 0
    text = atb("pick", run.recipe, "--out", "picked", cwd=run.cwd).refusal
    assert "the supernet in out is not the one that the accuracy of" in text
    assert not (run.cwd / "picked").exists()


# --- bad input ------------------------------------------------------------------------------------------------------


def test_all_mistakes_of_a_recipe_are_told_before_anything_is_written(try_recipe: Any, tmp_path: Path) -> None:
    text = try_recipe("run", search__engins=3, teacher__epochs=-1, constraint__max_ms=2.0, colour="blue").refusal
    for part in ("search.engins", '"engines"', "teacher.epochs", "colour", "constraint"):
        assert part in text, part
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_is_not_there(atb: Atb, tmp_path: Path) -> None:
    assert "cannot be read" in atb("run", "gone.toml", cwd=tmp_path).refusal


def test_a_constraint_nothing_can_meet_names_the_fastest(tiny_run: Any, atb: Atb, tmp_path: Path) -> None:
    run = tiny_run.copy(tmp_path)
    run.recipe.write_text(run.recipe.read_text().replace("of_teacher = 0.95", "max_ms = 0.0001"))
    text = atb("run", run.recipe, "--resume", "--threads", 1, cwd=run.cwd).refusal
    assert "nothing meets the limits of 0.0001 ms: nearest is 1L-" in text
    assert "raise them, or let the space hold smaller subnets" in text
    assert (run.stage("supernet") / "done.json").is_file()
    # The engines that were measured are not lost, and nothing is measured again to say it once more.
    with Store.open(run.cwd / "store.sqlite") as store:
        summary = store.summary()
        assert [x[3] for x in store.searches()] == [8, 8]
    again = atb("run", run.recipe, "--resume", "--threads", 1, cwd=run.cwd).refusal
    assert again.splitlines()[-1] == text.splitlines()[-1]
    with Store.open(run.cwd / "store.sqlite") as store:
        assert store.summary()["measurements"] == summary["measurements"]
    assert "nothing meets the limits of 0.0001 ms" in atb("pick", run.recipe, cwd=run.cwd).refusal


def test_a_teacher_that_is_not_bert(try_recipe: Any, tiny_teacher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gpt"
    shutil.copytree(tiny_teacher, folder)
    GPT2Model(GPT2Config(vocab_size=200, n_embd=8, n_head=2, n_layer=1)).save_pretrained(folder)
    text = try_recipe("train", teacher__model=str(folder)).refusal
    assert "has model_type = 'gpt2', which is not supported; supported are bert, distilbert, roberta" in text


def test_a_teacher_that_is_nowhere(try_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "no model configuration is at './gone'" in try_recipe("train", teacher__model="./gone").refusal
    assert "which is not installed" in try_recipe("train", "--resume", teacher__model="package:no_such_one/x").refusal


def test_a_head_that_does_not_match_the_task(try_recipe: Any, tiny_teacher: Path, tmp_path: Path) -> None:
    for names, told in (
        (("a", "b", "c"), "has a head for 3 labels"),
        (("yes", "no"), "answers yes, no, the task's labels are"),
    ):
        folder = tmp_path / "-".join(names)
        shutil.copytree(tiny_teacher, folder)
        config = BertConfig.from_pretrained(tiny_teacher, id2label=dict(enumerate(names)), num_labels=len(names))
        BertForSequenceClassification(config).save_pretrained(folder)
        assert told in try_recipe("train", "--resume", teacher__model=str(folder)).refusal


def test_a_corrupt_teacher(try_recipe: Any, tiny_teacher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "torn"
    shutil.copytree(tiny_teacher, folder)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert "cannot be loaded" in try_recipe("train", teacher__model=str(folder)).refusal


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "row"),
        ([("one text", "pos")], "pos"),
        ([(f"text {i}", "pos") for i in range(300)], "all 300 rows of the data set are labelled 'pos'"),
        ([(f"text {i}", "ab"[i % 2]) for i in range(50)], "cannot be taken from 50 rows"),
        ([("same text", "ab"[i % 2]) for i in range(300)], "no labelled rows left"),
    ],
    ids=["empty", "one row", "one class", "too few", "contradictions"],
)
def test_data_that_nothing_can_be_learnt_from(
    try_recipe: Any, tmp_path: Path, rows: list[tuple[str, str]], told: str
) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    assert told in try_recipe("train", task__path="rows.csv").refusal


def test_a_column_that_is_not_there(try_recipe: Any, tiny_csv: Path) -> None:
    assert "label" in try_recipe("train", task__label="sentiment").refusal


def test_odd_texts_are_trained_on(try_recipe: Any, tiny_csv: Path, tmp_path: Path) -> None:
    """0 and 100,000 characters, other scripts, emoji: among the rows of every split or so."""
    rows = list(csv.reader(tiny_csv.open(encoding="utf-8")))
    odd = [
        " ",
        "x" * 100_000,
        "very good " * 10_000,
        "這部電影很好看",
        "فيلم رائع جدا",
        "🎬🍿😍",
        "\u200b",
        "a\x07b",
        "e\u0301",
    ]
    rows += [(text + tail, label) for text in odd for tail, label in (("", "pos"), (" bad", "neg"), (" dull", "neg"))]
    with (tmp_path / "odd.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    answer = try_recipe("train", "--json", task__path="odd.csv", teacher__epochs=1)
    assert answer.code == 0, answer.err
    assert answer.document["space_size"] > 0


def test_a_missing_engine_package_is_told_before_the_search(
    tiny_run: Any, atb: Atb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run.copy(tmp_path)
    shutil.rmtree(run.stage("search"))
    (run.cwd / "store.sqlite").unlink()
    why = "the package openvino is not installed: pip install 'atb-export[openvino]'"
    monkeypatch.setattr(type(backend("openvino")), "unavailable", lambda _: why)
    text = atb("run", run.recipe, "--resume", "--threads", 1, cwd=run.cwd).refusal
    label = "openvino-CPU-f32-b1-l24-t1"
    assert f"the reference engine for {label} cannot be measured: {label} cannot run here: {why}" in text


def test_a_missing_package_is_told(try_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where only the engine world is installed."""
    monkeypatch.setitem(sys.modules, "torch", None)
    assert (
        "needs the package torch, which is not installed: pip install 'atb-export[train]'"
        in try_recipe("train").refusal
    )


def test_a_teacher_with_weights_that_are_not_finite_is_refused(
    try_recipe: Any, tiny_teacher: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_teacher, folder)
    model = BertModel.from_pretrained(tiny_teacher)
    with torch.no_grad():
        model.encoder.layer[1].intermediate.dense.weight[3, 5] = torch.nan
    model.save_pretrained(folder)
    assert "not finite" in try_recipe("train", teacher__model=str(folder)).refusal


def test_training_that_diverges_is_told(try_recipe: Any, tiny_teacher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "huge"
    shutil.copytree(tiny_teacher, folder)
    model = BertModel.from_pretrained(tiny_teacher)
    with torch.no_grad():
        model.encoder.layer[1].intermediate.dense.weight.fill_(3e38)
    model.save_pretrained(folder)
    text = try_recipe("train", teacher__model=str(folder)).refusal
    assert "step 0: loss nan" in text
    assert "Lower learning_rate" in text


# --- a full disk ----------------------------------------------------------------------------------------------------


def full(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device", "out/somewhere")


def full_store(*_: Any) -> Any:
    """As the store tells it."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    with speaking(Path("store.sqlite")):
        raise error


@pytest.mark.parametrize("what", ["markers", "checkpoints", "weights", "store"])
def test_a_full_disk_is_told_and_the_run_goes_on_later(tiny_run: Any, atb: Atb, tmp_path: Path, what: str) -> None:
    run = tiny_run.copy(tmp_path)
    for name in ("search", "winner", "winner-distill"):
        shutil.rmtree(run.stage(name))
    before = {path: path.read_bytes() for path in run.stage("supernet").iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        if what == "markers":
            patch.setattr("atb_export.workspace.write_whole", full)
        elif what == "checkpoints":
            patch.setattr("supernet.training.save_training", full)
        elif what == "weights":
            patch.setattr("supernet.checkpoint.save_file", full)
        else:
            patch.setattr("search.store.history.canonical", full_store)
        text = atb("run", run.recipe, "--resume", "--threads", 1, cwd=run.cwd).refusal
    if what == "store":
        assert "the store store.sqlite: the disk is full: nothing of this step was kept. Free some space" in text
    else:
        assert "No space left on device" in text
        assert "--resume" in text
    assert {path: path.read_bytes() for path in run.stage("supernet").iterdir()} == before
    again = atb("run", run.recipe, "--resume", "--threads", 1, "--json", cwd=run.cwd)
    assert again.code == 0, again.err
    read_bundle(run.bundle)


def test_a_full_disk_under_transformers_is_told(try_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors reports a failed write as its own error, which is no OSError."""
    from safetensors import SafetensorError

    def fail(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fail)
    assert "No space left on device" in try_recipe("train", teacher__epochs=0).refusal


def test_pick_leaves_nothing_where_it_failed(
    tiny_run: Any, atb: Atb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atb_export.dense.save_dense", full)
    out = tmp_path / "picked"
    assert "No space left" in atb("pick", tiny_run.recipe, "--out", out, cwd=tiny_run.cwd).refusal
    assert not out.exists()


def test_the_record_of_a_search_is_whole(tiny_run: Any) -> None:
    """What the store kept of it reads back as evaluations of designs of this space."""
    with Store.open(tiny_run.cwd / "store.sqlite", create=False, readonly=True) as store:
        ((search, header, _, evaluations),) = store.searches()
        read = [Candidate.from_json(x) for x in store.recorded(search).candidates]
    assert evaluations == len(read)
    assert [x.design.to_json() for x in read] == [x["design"] for x in tiny_run.result["candidates"]]
    assert all(x.is_measured for x in read)
    assert header["targets"] == tiny_run.result["search"]["targets"]
    assert header["constraints_ms"] == tiny_run.result["search"]["constraints_ms"]
