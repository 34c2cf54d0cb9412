"""bench: bundles, ONNX files and frameworks side by side; what it tells, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atb_export.dense import DenseModel, save_dense
from runtime.engine import backend
from runtime.latency import LatencyReport

Atb = Callable[..., Any]
LABEL = "openvino-CPU-f32-b2-l16-t1"
SHORT = ("--windows", 2, "--seconds", 0.03, "--rounds", 2, "--json")
DERIVED = ("p50_ms", "p90_ms", "p99_ms", "ci_ms", "throughput_per_s", "ratio_to_reference", "ratio_ci")


@pytest.fixture(scope="module")
def folder(make_dense: Callable[..., DenseModel], atb: Atb, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With `dense`, `bundle` of two engines, `texts` and `pairs`."""
    cwd = tmp_path_factory.mktemp("bench")
    save_dense(make_dense(seed=8), cwd / "dense")
    targets = ["--target", "openvino:f32", "--target", "onnxruntime:f32", "--batch", 2, "--lengths", 16]
    answer = atb("export", "dense", *targets, "--text", "a lovely film", "--out", "bundle", cwd=cwd)
    assert answer.code == 0, answer.err
    (cwd / "texts").write_text("good\n\nthe plot is dull and cold and very silly\na film\n")
    (cwd / "pairs").write_text("good\tbad\nthe plot\tis dull\n")
    return cwd


def rows(answer: Any) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    return {row["name"]: row for row in answer.document["rows"]}


def test_everything_runs_side_by_side_and_the_samples_are_kept(folder: Path, atb: Atb) -> None:
    subjects = ["mine=bundle@all", "dense.onnx=bundle/model.onnx@onnxruntime", "torch:dense", "pipe=pipeline:dense"]
    answer = atb("bench", *subjects, *SHORT, "--out", "raw.json", cwd=folder)
    found = rows(answer)
    assert list(found) == ["mine openvino-f32", "mine onnxruntime-f32", "dense.onnx", "torch:dense", "pipe"]
    assert answer.document["reference"] == "mine openvino-f32"
    assert {row["scenario"] for row in found.values()} == {"singlestream"}
    assert {(row["batch"], row["length"], row["threads"]) for row in found.values()} == {(2, 16, 1)}
    assert {row["effective_precision"] for row in found.values()} == {"f32"}
    assert [row["takes"] for row in found.values()] == ["tokens"] * 4 + ["text"]
    assert "report" not in found["pipe"]
    raw = json.loads((folder / "raw.json").read_text())
    for row in raw["rows"]:
        report = LatencyReport.from_json(row["report"])
        for name in DERIVED:
            value = getattr(report, name)
            assert row[name] == (list(value) if isinstance(value, tuple) else value)
            assert found[row["name"]][name] == row[name]
    assert raw["environment"]["cpu"]["model"] in answer.out
    for name in found:
        assert name in answer.out


def test_all_scenarios_from_real_texts_with_page_and_pictures(folder: Path, atb: Atb) -> None:
    scenarios = ["--scenario", "singlestream", "--scenario", "offline", "--scenario", "server", "--rate", 400]
    drawn = ["--html", "bench.html", "--pictures", "pictures"]
    answer = atb("bench", "bundle", "torch:dense", *scenarios, "--texts", "texts", *SHORT, *drawn, cwd=folder)
    assert answer.code == 0, answer.err
    told = [(row["scenario"], row["name"], row["takes"]) for row in answer.document["rows"]]
    names = ("bundle", "torch:dense")
    assert told == [(x, name, "text") for x in ("singlestream", "offline", "server") for name in names]
    served = answer.document["rows"][-1]
    assert served["queries"] == 200  # at least a hundred a round
    assert served["rate_per_s"] == 400
    assert answer.document["plan"]["texts"] == 3
    assert answer.document["rows"][0]["lengths"] == [16]
    assert answer.document["rows"][1]["lengths"] == []  # padded to the longest of a batch
    assert {x.name for x in (folder / "pictures").iterdir()} == {
        f"{name}.{kind}" for name in ("latency", "throughput", "server") for kind in ("png", "svg")
    }
    assert "torch:dense" in (folder / "bench.html").read_text()


def test_the_lengths_of_one_engine_are_one_line(folder: Path, atb: Atb) -> None:
    exported = ["--target", "onnxruntime:f32", "--lengths", "8,16", "--out", "buckets"]
    assert atb("export", "dense", *exported, cwd=folder).code == 0
    texts = ["--texts", "texts", "--scenario", "offline", "--batch", 1]
    found = rows(atb("bench", "buckets", "buckets@onnxruntime-CPU-f32-b1-l8-t1", *texts, *SHORT, cwd=folder))
    assert [row["lengths"] for row in found.values()] == [[8, 16], [8]]
    assert "1x8/16" in atb("bench", "buckets", *texts, *SHORT, cwd=folder).out
    refused = atb("bench", "buckets", *texts, "--length", 12, cwd=folder).refusal
    assert "of 8, 16; leave out --length" in refused
    one = rows(atb("bench", "buckets", "--length", 12, *SHORT, cwd=folder))["buckets"]
    assert (one["length"], one["lengths"], one["takes"]) == (12, [12], "tokens")


def test_pairs_are_taken_as_pairs(folder: Path, atb: Atb) -> None:
    subjects = ["bundle/model.onnx@openvino", "torch:dense", "pipeline:dense"]
    answer = atb("bench", *subjects, "--texts", "pairs", "--length", 12, "--batch", 2, *SHORT, cwd=folder)
    assert set(rows(answer)) == {"model", "torch:dense", "pipeline:dense"}


def test_the_highest_rate_keeps_its_bound(folder: Path, atb: Atb) -> None:
    found = rows(atb("bench", "bundle", "--max-ms", 200, *SHORT, cwd=folder))["bundle"]
    assert found["scenario"] == "server"
    assert found["highest"] is True
    assert found["kept"] is True
    assert found["p99_ms"] <= 200
    assert found["probes"][-1] == [found["rate_per_s"], found["p99_ms"]]
    none = atb("bench", "bundle", "--max-ms", 1e-4, *SHORT, cwd=folder)
    assert rows(none)["bundle"]["rate_per_s"] is None
    assert "no rate keeps p99 within 0.0001 ms" in none.out


def test_a_sweep_measures_every_shape_and_tells_what_it_skips(folder: Path, atb: Atb) -> None:
    sweep = ["--batch", "1,2", "--length", "8,16,60"]
    answer = atb("bench", "torch:dense", "bundle", *sweep, *SHORT, cwd=folder)
    shapes = [(row["name"], row["batch"], row["length"]) for row in answer.document["rows"]]
    # Nothing is measured where the reference is missing.
    assert shapes == [(name, b, n) for b in (1, 2) for n in (8, 16) for name in ("torch:dense", "bundle")]
    assert [x["name"] for x in answer.document["skipped"]] == ["torch:dense"] * 2
    assert "takes texts of up to 48 tokens, got length 60" in answer.err
    alone = atb("bench", "torch:dense", "--length", 60, *SHORT, cwd=folder)
    assert "takes texts of up to 48 tokens, got length 60" in alone.refusal


def test_an_engine_is_taken_by_name_and_the_others_are_told(folder: Path, atb: Atb) -> None:
    for wanted in (["bundle", "--engine", "onnxruntime"], ["bundle@onnxruntime-CPU-f32-b2-l16-t1"]):
        assert rows(atb("bench", *wanted, *SHORT, cwd=folder))["bundle"]["target"] == "onnxruntime-CPU-f32-b2-l16-t1"
    assert f"has no engine 'gpu'; it has {LABEL}" in atb("bench", "bundle", "--engine", "gpu", cwd=folder).refusal
    assert "BACKEND or BACKEND:PRECISION" in atb("bench", "bundle/model.onnx@gpu", cwd=folder).refusal
    assert "takes @PRECISION of f32, bf16, f16, got 'int8'" in atb("bench", "torch:dense@int8", cwd=folder).refusal
    assert "is there twice" in atb("bench", "bundle", "bundle", cwd=folder).refusal
    assert set(rows(atb("bench", "a=bundle", "b=bundle", *SHORT, cwd=folder))) == {"a", "b"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "'gone' is no subject of a benchmark: there is no gone. A subject is a bundle's folder"),
        (["jax:dense"], "is no subject of a benchmark"),
        (["torch:gone"], "there is no gone"),
        (["torch:bundle/openvino"], "no config.json"),
        (["texts"], "texts is no .onnx file"),
        (["dense"], "is not a bundle: it has no manifest.json. Name the model of transformers in it torch:dense"),
        (["bundle@"], "names no engine"),
        (["bundle", "--rate", 0], "'0' is not a number above 0"),
        (["bundle", "--rate", "inf"], "'inf' is not a number above 0"),
        (["bundle", "--scenario", "server"], "needs a --rate"),
        (["bundle", "--scenario", "offline", "--rate", 5], "--rate and --max-ms are of --scenario server"),
        (["bundle", "--batch", "1,x"], "'1,x' is not a whole number"),
        (["bundle", "--length", "1"], "'1' is not a whole number of 2 or more"),
        (["bundle", "--texts", "empty"], "empty holds no text"),
        (["bundle", "--texts", "mixed"], "mixes lines of one text and of more"),
        (["plain/model.onnx@openvino", "--texts", "texts"], "no tokenizer.json beside it"),
    ],
)
def test_what_cannot_be_measured_is_told(folder: Path, atb: Atb, arguments: list[str], message: str) -> None:
    (folder / "empty").write_text("\n")
    (folder / "mixed").write_text("one\nfirst\tsecond\n")
    (folder / "bundle/openvino").mkdir(exist_ok=True) if "torch:bundle/openvino" in arguments else None
    (folder / "plain").mkdir(exist_ok=True)
    shutil.copy(folder / "bundle/model.onnx", folder / "plain/model.onnx")
    text = " ".join(atb("bench", *arguments, cwd=folder).refusal.split())
    assert message in text


def test_a_flipped_byte_is_told_by_the_files_name(folder: Path, atb: Atb, tmp_path: Path) -> None:
    shutil.copytree(folder / "bundle", tmp_path / "bundle")
    data = bytearray((tmp_path / "bundle/model.onnx").read_bytes())
    data[len(data) // 3] ^= 4
    (tmp_path / "bundle/model.onnx").write_bytes(data)
    message = "model.onnx has changed: its SHA-256 is not the manifest's"
    assert message in atb("bench", "bundle", cwd=tmp_path).refusal


def test_a_missing_engine_package_is_told(folder: Path, atb: Atb, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "the package openvino is not installed: pip install 'atb-export[openvino]'"
    monkeypatch.setattr(type(backend("openvino")), "unavailable", lambda _: why)
    assert why in atb("bench", "bundle@openvino", cwd=folder).refusal
    assert why in atb("bench", "bundle/model.onnx@openvino", cwd=folder).refusal
    assert rows(atb("bench", "bundle", *SHORT, cwd=folder))["bundle"]["backend"] == "onnxruntime"


def bare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Where no package of the torch world is installed."""
    script = (
        "import sys\n"
        "blocked = ('torch', 'transformers', 'onnx', 'safetensors', 'pydantic')\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in blocked:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name in blocked else real(name, package)\n"
        f"from atb_export.cli import main; main({['bench', *arguments]!r})"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=folder)


def test_bundles_and_onnx_files_need_no_torch(folder: Path) -> None:
    scenarios = ("--scenario", "singlestream", "--scenario", "offline", "--texts", "texts")
    short = tuple(map(str, SHORT))
    done = bare(folder, "bundle", "bundle/model.onnx@onnxruntime", *scenarios, "--html", "bare.html", *short)
    assert done.returncode == 0, done.stderr
    assert [row["name"] for row in json.loads(done.stdout.splitlines()[-1])["rows"]] == ["bundle", "model"] * 2
    done = bare(folder, "bundle", "torch:dense")
    assert done.returncode == 1
    assert done.stderr.startswith("error: torch:dense needs the package torch, which is not installed: pip install")
