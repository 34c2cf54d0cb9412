"""export, bench, verify: from a picked subnet to a checked bundle, and what they refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import DistilBertConfig, DistilBertForSequenceClassification

import atb_export.checking
import atb_export.packing
from atb_export.dense import DenseModel, save_dense
from runtime.engine import backend
from runtime.latency import LatencyReport
from runtime.manifest import read_bundle

Atb = Callable[..., Any]
LABEL = "openvino-CPU-f32-b2-l16-t1"


@pytest.fixture(scope="module")
def dense_folder(make_dense: Callable[..., DenseModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    save_dense(make_dense(seed=8), folder)
    return folder


@pytest.fixture(scope="module")
def exported(dense_folder: Path, atb: Atb, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    cwd = tmp_path_factory.mktemp("exported")
    arguments = ["--target", "openvino", "--target", "onnxruntime", "--precision", "f32", "--batch", 2, "--length", 16]
    answer = atb("export", dense_folder, *arguments, "--text", "a lovely film", "--out", "bundle", "--json", cwd=cwd)
    return cwd / "bundle", answer


def test_export_builds_what_it_says(exported: tuple[Path, Any]) -> None:
    folder, answer = exported
    assert answer.code == 0, answer.err
    document = answer.document
    assert document["bundle"] == "bundle"
    bundle = read_bundle(folder)
    assert [x.target.label for x in bundle.manifest.engines] == [LABEL, "onnxruntime-CPU-f32-b2-l16-t1"]
    assert document["bundle_bytes"] == sum(x.bytes for x in bundle.manifest.files.values())
    assert all(row["passed"] for row in document["parity"])
    assert {row["rows"] for row in document["parity"]} == {13}  # the user's sentence and ours
    assert LABEL in answer.out


def test_export_calibrates_int8_on_a_file(dense_folder: Path, atb: Atb, tmp_path: Path) -> None:
    arguments = ("export", dense_folder, "--precision", "int8", "--length", 16, "--out", "bundle", "--json")
    assert "name a file of them with --calibrate" in atb(*arguments, cwd=tmp_path).refusal
    (tmp_path / "texts").write_text("a lovely film\n\nthe plot is dull and cold\n")
    answer = atb(*arguments, "--calibrate", "texts", cwd=tmp_path)
    assert answer.code == 0, answer.err
    stages = {row["stage"]: row for row in answer.document["parity"]}
    assert stages["openvino-CPU-int8-b1-l16-t1"]["passed"] is True
    assert atb("verify", "bundle", cwd=tmp_path).code == 0
    assert "lines of 2 texts" in atb(*arguments[:-2], "two", "--pairs", "--calibrate", "texts", cwd=tmp_path).refusal


def test_export_never_writes_over_anything(exported: tuple[Path, Any], dense_folder: Path, atb: Atb) -> None:
    before = read_bundle(exported[0])
    text = atb("export", dense_folder, "--out", exported[0], cwd=exported[0].parent).refusal
    assert "exists already; name a new folder" in text
    assert read_bundle(exported[0]) == before


def test_verify_finds_a_good_bundle_good(exported: tuple[Path, Any], atb: Atb) -> None:
    answer = atb("verify", exported[0], "--json", cwd=exported[0].parent)
    assert answer.code == 0, answer.err
    assert len(answer.document["parity"]) == 5
    assert all(row["passed"] for row in answer.document["parity"])
    assert answer.document["files"] == len(read_bundle(exported[0]).manifest.files)


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.safetensors", "tokenizer.json", "README.md", "openvino/model.bin"]
)
@pytest.mark.parametrize("command", ["verify", "bench"])
def test_a_flipped_byte_is_told_by_the_files_name(
    exported: tuple[Path, Any], atb: Atb, tmp_path: Path, name: str, command: str
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported[0], folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 3] ^= 4
    (folder / name).write_bytes(data)
    assert f"{name} has changed: its SHA-256 is not the manifest's" in atb(command, folder, cwd=tmp_path).refusal


@pytest.mark.parametrize("old", ['"neg"', '"schema": 1', '"labels"', '"sha256"', '"backend": "openvino"', "model.xml"])
def test_a_changed_manifest_is_told(exported: tuple[Path, Any], atb: Atb, tmp_path: Path, old: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported[0], folder)
    text = (folder / "manifest.json").read_text()
    at = text.index(old) + len(old) - 2
    (folder / "manifest.json").write_text(text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :])
    assert atb("verify", folder, cwd=tmp_path).code == 1


def test_engines_that_compute_something_else_fail_the_check(
    exported: tuple[Path, Any], atb: Atb, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = atb_export.checking.engine_logits
    monkeypatch.setattr(atb_export.checking, "engine_logits", lambda *a: real(*a) + 0.5)
    answer = atb("verify", exported[0], "--json", cwd=exported[0].parent)
    assert "2 of 5 comparisons failed; the worst is bundle / " in answer.refusal
    assert "REFUSED" in answer.out
    assert [row["passed"] for row in answer.document["parity"]] == [True, True, True, False, False]


def test_an_engine_that_computes_something_else_is_not_packed(
    dense_folder: Path, atb: Atb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = atb_export.packing.engine_logits

    def wrong(engine: Any, texts: Any) -> Any:
        return real(engine, texts) + (0.5 if engine.target.backend == "openvino" else 0.0)

    monkeypatch.setattr(atb_export.packing, "engine_logits", wrong)
    answer = atb("export", dense_folder, "--length", 16, "--out", "bundle", cwd=tmp_path)
    assert answer.code == 1
    assert "the worst is bundle / openvino-CPU-" in answer.refusal
    assert list(tmp_path.iterdir()) == []


def test_bench_sets_bundles_side_by_side_and_keeps_the_samples(
    exported: tuple[Path, Any], tiny_run: Any, atb: Atb
) -> None:
    cwd = exported[0].parent
    arguments = ["--windows", 2, "--batch", 1, "--length", 16, "--out", "raw.json", "--json"]
    answer = atb("bench", tiny_run.bundle, exported[0], *arguments, cwd=cwd)
    assert answer.code == 0, answer.err
    assert answer.document["reference"] == "tiny-winner"
    assert set(answer.document["engines"]) == {"tiny-winner", "bundle"}
    assert "samples_ms" not in answer.document["engines"]["bundle"]
    raw = json.loads((cwd / "raw.json").read_text())
    derived = {"p50_ms", "p90_ms", "p99_ms", "ci_ms", "throughput_per_s", "ratio_to_reference"}
    for name, shown in answer.document["engines"].items():
        report = LatencyReport.from_json({k: v for k, v in raw["engines"][name].items() if k not in derived})
        assert {k: list(v) if isinstance(v := getattr(report, k), tuple) else v for k in derived} == {
            k: shown[k] for k in derived
        }
        assert (report.shape.batch, report.shape.length, report.effective_precision) == (1, 16, "f32")
    assert raw["environment"]["cpu"]["model"]


def test_bench_takes_an_engine_by_name_and_tells_the_others(exported: tuple[Path, Any], atb: Atb) -> None:
    cwd = exported[0].parent
    answer = atb("bench", exported[0], "--engine", "onnxruntime", "--windows", 2, "--json", cwd=cwd)
    assert answer.document["engines"]["bundle"]["target"] == "onnxruntime-CPU-f32-b2-l16-t1"
    assert f"has no engine 'gpu'; it has {LABEL}" in atb("bench", exported[0], "--engine", "gpu", cwd=cwd).refusal


def test_bench_needs_no_torch(exported: tuple[Path, Any]) -> None:
    script = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'transformers', 'onnx', 'safetensors', 'pydantic'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        f"from atb_export.cli import main; main(['bench', {str(exported[0])!r}, '--windows', '2', '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["engines"]["bundle"]["p50_ms"] > 0


def test_a_missing_engine_package_is_told(
    exported: tuple[Path, Any], dense_folder: Path, atb: Atb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "the package openvino is not installed: pip install 'atb-export[openvino]'"
    monkeypatch.setattr(type(backend("openvino")), "unavailable", lambda _: why)
    assert why in atb("export", dense_folder, "--out", "bundle", cwd=tmp_path).refusal
    assert list(tmp_path.iterdir()) == []
    assert why in atb("bench", exported[0], "--engine", "openvino", cwd=tmp_path).refusal
    # What can be checked without it still is.
    answer = atb("verify", exported[0], "--json", cwd=tmp_path)
    assert answer.code == 0
    assert [row["skipped"] for row in answer.document["parity"]] == [None, None, None, why, None]


@pytest.mark.parametrize("what", ["nothing", "a file", "another model", "a head too few"])
def test_export_refuses_what_is_no_bert_classifier(dense_folder: Path, atb: Atb, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "model"
    if what == "a file":
        folder.write_text("")
    elif what == "another model":
        shutil.copytree(dense_folder, folder)
        config = DistilBertConfig(vocab_size=200, dim=8, n_heads=2, n_layers=1, hidden_dim=8)
        DistilBertForSequenceClassification(config).save_pretrained(folder)
    elif what == "a head too few":
        shutil.copytree(dense_folder, folder)
        data = json.loads((folder / "config.json").read_text())
        data["id2label"]["2"], data["label2id"]["third"] = "third", 2
        (folder / "config.json").write_text(json.dumps(data))
    assert atb("export", folder, "--out", "bundle", cwd=tmp_path).refusal
    assert not (tmp_path / "bundle").exists()


def test_bundles_that_are_none_are_refused(atb: Atb, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "is not a bundle: it has no manifest.json" in atb("verify", "empty", cwd=tmp_path).refusal
    assert "is not a bundle" in atb("bench", "gone", cwd=tmp_path).refusal


def test_odd_texts_are_answered(exported: tuple[Path, Any], dense_folder: Path, atb: Atb, tmp_path: Path) -> None:
    """Nothing, 100,000 characters, other scripts, emoji, half an emoji's bytes, control characters."""
    texts = [
        "",
        " ",
        "x" * 100_000,
        "good " * 20_000,
        "這部電影很好看",
        "فيلم رائع",
        "🎬🍿😍",
        "e\u0301\u200b\ufeff",
        "a\x01b",
    ]
    options = [option for text in texts for option in ("--text", text)]
    answer = atb("export", dense_folder, "--length", 16, *options, "--out", "bundle", "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert {row["rows"] for row in answer.document["parity"]} == {len(texts) + 12}
