"""A whole run on the command line, and what it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from runtime.classifier import Classifier
from runtime.latency import LatencyReport
from runtime.manifest import read_bundle
from search.candidate import Candidate
from search.design import Design
from search.store import Store
from supernet.space import SubnetConfig

Atb = Callable[..., Any]


def test_the_result_has_every_key_and_is_the_last_line(tiny_run: Any) -> None:
    result = tiny_run.result
    assert tiny_run.answer.document == result
    assert result["schema"] == 2
    for model in (result["teacher"], result["winner"]):
        assert {"accuracy", "accuracy_se", "latency_ms", "latency_ci_ms", "params", "flops", "bundle_bytes"} <= set(
            model
        )
        assert 0 <= model["accuracy"] <= 1
        assert model["latency_ci_ms"][0] <= model["latency_ms"] <= model["latency_ci_ms"][1]
    assert result["baselines"] == []
    # A search ends with the generation in which it has measured enough. Subnets of the same shape but of other layers
    # of the teacher are one engine.
    assert len(result["candidates"]) == 8
    shapes = {SubnetConfig.from_json(x["design"]["subnet"]).renumbered() for x in result["candidates"]}
    assert result["engines_measured"] == len(shapes)
    assert result["search"]["targets"] == ["openvino-CPU-f32-b1-l24-t1"]
    assert result["engines_failed"] == 0
    assert set(result["spearman_flops_latency"]) == {"all", "band", "band_ms", "band_engines"}
    assert result["constraint"]["of_teacher"] == 0.95
    assert result["target"] == {
        "backend": "openvino",
        "device": "CPU",
        "effective_precision": "f32",
        "threads": 1,
        "shape": {"batch": 1, "length": 24},
    }
    assert {"teacher", "supernet", "search", "winner", "bundle-teacher", "bundle-winner", "benchmark"} <= set(
        result["seconds"]
    )
    assert result["task"]["rows"] == {"train": 280, "search_dev": 60, "test": 80}
    assert result["environment"]["cpu"]["model"]
    assert {(x["batch"], x["length"]) for x in result["sweep"]} == {(b, n) for b in (1, 8) for n in (16, 32)}
    assert len(result["paired"]) == 1


def test_the_teacher_learnt_its_task(tiny_run: Any) -> None:
    assert tiny_run.result["teacher"]["accuracy"] > 0.8


def test_every_form_of_every_model_was_compared(tiny_run: Any) -> None:
    rows = tiny_run.result["parity"]
    stages = [row["stage"] for row in rows if row["model"].endswith("winner")]
    for wanted in ("slice of the supernet", "dense (", "onnx (batch 1)", "onnx (padded", "openvino-", "onnxruntime-"):
        assert any(stage.startswith(wanted) for stage in stages), (wanted, stages)
    assert all(row["passed"] is True and row["max_abs_error"] <= row["tolerance"] for row in rows)


def test_the_winner_met_the_constraint_and_no_better_one_did(tiny_run: Any) -> None:
    found = json.loads((tiny_run.stage("search") / "done.json").read_text())["result"]
    winner, (limit,) = Candidate.from_json(found["winner"]), found["constraints_ms"]
    assert tiny_run.result["winner"]["subnet"] == winner.subnet.to_json()
    assert winner.ms[0] <= limit == pytest.approx(0.95 * found["teacher_ms"][0])
    surely = [x for x in found["candidates"] if x["front"] and x["latencies"][0]["ci_ms"][1] <= limit]
    assert all(x["accuracy"] <= (winner.accuracy or 0.0) for x in surely)
    assert len({Design.from_json(x["design"]) for x in found["candidates"]}) == 8


def test_law_6_each_latency_is_that_of_the_raw_samples(tiny_run: Any) -> None:
    raw = json.loads((tiny_run.stage("benchmark") / "latency.json").read_text())
    assert set(raw) == {"teacher", "winner"}
    for name, data in raw.items():
        report = LatencyReport.from_json(data)
        shown = tiny_run.result[name]
        assert shown["latency_ms"] == report.p50_ms
        assert shown["latency_ci_ms"] == list(report.ci_ms)
        assert shown["latency_of_teacher"] == report.ratio_to_reference
        assert report.effective_precision == "f32"
    assert tiny_run.result["teacher"]["latency_of_teacher"] == pytest.approx(1.0)


def test_law_6_each_latency_of_the_search_is_that_of_raw_samples_in_the_store(tiny_run: Any) -> None:
    """But those of the front, which was measured once more."""
    found = json.loads((tiny_run.stage("search") / "done.json").read_text())["result"]
    with Store.open(tiny_run.cwd / "store.sqlite", create=False, readonly=True) as store:
        rows = {SubnetConfig.from_json(x.subnet).renumbered(): x for x in store.measurements() if x.subnet is not None}
        (search,) = store.searches()
        recorded = [Candidate.from_json(x) for x in store.recorded(search[0]).candidates]
    assert [x.design.to_json() for x in recorded] == [x["design"] for x in found["candidates"]]
    for x in recorded:
        row = rows[x.subnet.renumbered()]
        assert row.report is not None
        assert x.ms[0] == row.ms == LatencyReport.from_json(row.report).ratio_to_reference * row.reference_ms
        assert row.reference_ms == found["teacher_ms"][0]


def test_the_bundle_answers_with_the_labels_of_the_task(tiny_run: Any) -> None:
    bundle = read_bundle(tiny_run.bundle)
    assert [x.target.backend for x in bundle.manifest.engines] == ["openvino", "onnxruntime"]
    assert bundle.manifest.model.subnet == tiny_run.result["winner"]["subnet"]
    assert set(bundle.manifest.parents) == {"supernet", "teacher"}
    answers = {}
    for engine in ("openvino", "onnxruntime"):
        with Classifier.from_bundle(tiny_run.bundle, engine=engine) as classify:
            answers[engine] = classify(["the film is superb", "", "good " * 20_000, "🎬 映画 فيلم"])
    for a, b in zip(*answers.values(), strict=True):
        assert {x["label"] for x in a} == {"neg", "pos"}
        assert {x["label"]: pytest.approx(x["score"], abs=1e-3) for x in a} == {x["label"]: x["score"] for x in b}


def test_the_report_is_one_page_with_the_winner_in_it(tiny_run: Any) -> None:
    page = (tiny_run.folder / "report.html").read_text()
    assert "<svg" in page
    for name in ("tiny", "teacher", "winner", "openvino", "onnxruntime"):
        assert name in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_a_finished_run_is_not_done_again(tiny_run: Any, atb: Atb, tmp_path: Path) -> None:
    run = tiny_run.copy(tmp_path)
    markers = {path: path.stat().st_mtime_ns for path in run.folder.glob("stages/*/done.json")}
    assert len(markers) == 10
    refused = atb("run", run.recipe, cwd=run.cwd)
    assert "already holds a run" in refused.refusal
    assert "--resume" in refused.err
    again = atb("run", run.recipe, "--resume", "--threads", 1, "--json", cwd=run.cwd)
    assert again.code == 0, again.err
    assert {path: path.stat().st_mtime_ns for path in run.folder.glob("stages/*/done.json")} == markers
    drop = {"created", "environment"}
    assert {k: v for k, v in again.document.items() if k not in drop} == {
        k: v for k, v in tiny_run.result.items() if k not in drop
    }


def test_a_changed_recipe_runs_again_what_it_changes(tiny_run: Any, atb: Atb, tmp_path: Path) -> None:
    run = tiny_run.copy(tmp_path)
    text = run.recipe.read_text()
    head, distill = text.split("[distill]")
    run.recipe.write_text(head + "[distill]" + distill.replace("steps = 12", "steps = 13"))
    before = {path.parent.name: path.stat().st_mtime_ns for path in run.folder.glob("stages/*/done.json")}
    answer = atb("run", run.recipe, "--resume", "--threads", 1, "--json", cwd=run.cwd)
    assert answer.code == 0, answer.err
    after = {path.parent.name: path.stat().st_mtime_ns for path in run.folder.glob("stages/*/done.json")}
    assert {name for name in after if after[name] != before[name]} == {
        "winner-distill",
        "winner",
        "bundle-winner",
        "benchmark",
    }


def test_a_regression_of_two_texts_goes_the_whole_way(
    atb: Atb, tiny_recipe: Callable[..., str], tmp_path: Path
) -> None:
    """Numbers instead of classes and pairs instead of single texts, hard labels included, by the same command."""
    rng = Random(5)
    good, plain = ("good", "great", "lovely"), ("film", "plot", "scene", "story", "ending", "actor", "this", "that")
    rows = {}
    while len(rows) < 300:
        texts = tuple(" ".join(rng.choices(good if rng.random() < 0.5 else plain, k=5)) for _ in range(2))
        rows[texts] = sum(word in good for text in texts for word in text.split()) / 10
    lines = ["first\tsecond\tvalue", *(f"{a}\t{b}\t{value}" for (a, b), value in rows.items())]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines) + "\n")
    recipe = tmp_path / "pairs.toml"
    recipe.write_text(
        tiny_recipe(
            task__path="pairs.tsv",
            task__kind="regression",
            task__text=["first", "second"],
            task__label="value",
            supernet__loss={"soft_label": 1.0},
            distill__loss={"hard_label": 1.0},
        )
        .replace('{"soft_label": 1.0}', "{ soft_label = 1.0 }")
        .replace('{"hard_label": 1.0}', "{ hard_label = 1.0 }")
    )
    answer = atb("compare", recipe, "--threads", 1, "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    result = answer.document
    assert result["task"]["metric"] == "pearson"
    assert result["paired"] == []
    assert result["teacher"]["accuracy"] > 0.5
    bundle = tmp_path / "out" / "bundle"
    verified = atb("verify", bundle, "--json", cwd=tmp_path)
    assert verified.code == 0, verified.err
    with Classifier.from_bundle(bundle) as classify:
        high, low = classify([("good great", "lovely good"), ("film plot", "story ending")])
    assert [x["label"] for x in high] == ["score"]
    assert high[0]["score"] != low[0]["score"]
    assert "Pearson" in (tmp_path / "out" / "bundle" / "README.md").read_text()
