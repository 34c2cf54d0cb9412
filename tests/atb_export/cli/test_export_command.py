"""export, rebuild, verify: from a model's folder to a checked bundle, and what they refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

import atb_export.parity
from atb_export.dense import DenseModel, save_dense
from runtime.classifier import Classifier
from runtime.engine import backend
from runtime.errors import BundleError
from runtime.manifest import read_bundle, write_manifest

Atb = Callable[..., Any]
LABEL = "openvino-CPU-f32-b2-l16-t1"
ENGINES = [f"{name}-CPU-f32-b2-l{n}-t1" for name in ("openvino", "onnxruntime") for n in (8, 16)]
STAGES = [
    "dense (BertForSequenceClassification, padded batch)",
    "onnx (batch 1)",
    "onnx (padded batch)",
    *(f"{name}{end}" for name in ENGINES[:2] for end in ("", " (beside padding)")),
    "openvino-CPU-f32-b2-t1 (large weights)",
    *(f"{name}{end}" for name in ENGINES[2:] for end in ("", " (beside padding)")),
    "onnxruntime-CPU-f32-b2-t1 (large weights)",
]


@pytest.fixture(scope="module")
def dense_folder(make_dense: Callable[..., DenseModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    save_dense(make_dense(seed=8), folder)
    return folder


@pytest.fixture(scope="module")
def exported(dense_folder: Path, atb: Atb, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    cwd = tmp_path_factory.mktemp("exported")
    arguments = ["--target", "openvino:f32", "--target", "onnxruntime", "--batch", 2, "--lengths", "8,16"]
    answer = atb("export", dense_folder, *arguments, "--text", "a lovely film", "--out", "bundle", "--json", cwd=cwd)
    return cwd / "bundle", answer


def test_export_builds_what_it_says(exported: tuple[Path, Any]) -> None:
    folder, answer = exported
    assert answer.code == 0, answer.err
    document = answer.document
    assert document["bundle"] == "bundle"
    bundle = read_bundle(folder)
    assert [x.target.label for x in bundle.manifest.engines] == ENGINES
    assert bundle.manifest.model.max_length == 16
    assert document["bundle_bytes"] == sum(x.bytes for x in bundle.manifest.files.values())
    assert all(row["passed"] for row in document["parity"])
    assert [row["stage"] for row in document["parity"]] == STAGES
    assert {row["rows"] for row in document["parity"][:3]} == {13}  # the user's sentence and ours
    assert {row["rows"] for row in document["parity"] if row["stage"] in ENGINES} == {17}  # and adversarial lengths
    assert all(name in answer.out for name in ENGINES)
    told = [line.split(" s  ")[1] for line in answer.err.splitlines()]
    assert told[0] == "importing torch and transformers"
    assert "engine openvino-CPU-f32-b2-t1, lengths 8, 16" in told
    assert told[-1] == "done"


def test_export_calibrates_int8_on_a_file(dense_folder: Path, atb: Atb, tmp_path: Path) -> None:
    arguments = ("export", dense_folder, "--target", "openvino:int8", "--lengths", 16, "--out", "bundle", "--json")
    assert "name a file of them with --calibrate" in atb(*arguments, cwd=tmp_path).refusal
    (tmp_path / "texts").write_text("a lovely film\n\nthe plot is dull and cold\n")
    answer = atb(*arguments, "--calibrate", "texts", cwd=tmp_path)
    assert answer.code == 0, answer.err
    stages = {row["stage"]: row for row in answer.document["parity"]}
    assert stages["openvino-CPU-int8-b1-l16-t1"]["passed"] is True
    assert atb("verify", "bundle", cwd=tmp_path).code == 0
    assert "lines of 2 texts" in atb(*arguments[:-2], "two", "--pairs", "--calibrate", "texts", cwd=tmp_path).refusal


def test_linears_that_int8_hurts_are_named(dense_folder: Path, atb: Atb, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("a lovely film\nthe plot is dull and cold\na warm story of a clever actor\n")
    options = ["--target", "onnxruntime:int8", "--lengths", 16, "--calibrate", "texts", "--int8-drop", 1.0]
    answer = atb("export", dense_folder, *options, "--out", "bundle", cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert "left in float: nothing" in answer.err
    assert read_bundle(tmp_path / "bundle").manifest.numbers["keep_float"] == []


def test_lengths_are_chosen_from_the_users_texts(dense_folder: Path, atb: Atb, tmp_path: Path) -> None:
    """Nine of ten texts are short: an engine for them pays, and the longest text still has one."""
    (tmp_path / "texts").write_text("good\n" * 90 + "the film was dull and the story was cold and broken\n" * 10)
    options = ["--lengths", "auto", "--texts", "texts", "--buckets", 2, "--target", "onnxruntime"]
    answer = atb("export", dense_folder, *options, "--out", "bundle", "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    chosen = answer.document["buckets"]
    assert (chosen["lengths"][-1], sum(chosen["shares"])) == (16, pytest.approx(1.0))
    manifest = read_bundle(tmp_path / "bundle").manifest
    assert [x.target.shape.length for x in manifest.engines] == chosen["lengths"]
    assert "tokens  of the texts  ms" in answer.out
    assert "ms a text; " in answer.out
    card = (tmp_path / "bundle/README.md").read_text()
    assert "Chosen from 100 texts" in card
    refused = atb("export", dense_folder, "--lengths", "auto", "--out", "other", cwd=tmp_path).refusal
    assert "name a file of them with --texts" in refused


def test_a_trimmed_vocabulary_and_an_int8_word_table_are_verified(dense_folder: Path, atb: Atb, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("a lovely film\nthe plot is dull and cold\n")
    options = ["--trim-vocabulary", "texts", "--int8-embeddings", "--target", "onnxruntime", "--lengths", 16]
    answer = atb("export", dense_folder, *options, "--out", "bundle", "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    numbers = read_bundle(tmp_path / "bundle").manifest.numbers
    assert numbers["vocabulary"]["kept"] < numbers["vocabulary"]["of"] == 200
    assert answer.document["parity"][0]["stage"] == "word table in int8 (rounding)"
    assert f"Vocabulary: {numbers['vocabulary']['kept']} of 200" in (tmp_path / "bundle/README.md").read_text()
    assert atb("verify", "bundle", cwd=tmp_path).code == 0


def test_a_lean_bundle_serves_without_the_float_weights(dense_folder: Path, atb: Atb, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("a lovely film\nthe plot is dull and cold\n")
    options = ["--target", "openvino:int8", "--calibrate", "texts", "--int8-embeddings", "--lengths", 16]
    for name, more in (("whole", []), ("small", ["--lean"])):
        assert atb("export", dense_folder, *options, *more, "--out", name, cwd=tmp_path).code == 0
    whole, small = read_bundle(tmp_path / "whole"), read_bundle(tmp_path / "small")
    assert not any(name.endswith(".safetensors") for name in small.manifest.files)
    sizes = [sum(x.bytes for x in bundle.manifest.files.values()) for bundle in (whole, small)]
    assert sizes[1] < sizes[0] / 2
    with Classifier.from_bundle(tmp_path / "whole") as one, Classifier.from_bundle(tmp_path / "small") as other:
        assert (one.logits(["a lovely film"]) == other.logits(["a lovely film"])).all()
    for command in (
        ["verify", "small"],
        ["export", "--rebuild", "small"],
        ["layout", "small", "--format", "huggingface"],
    ):
        more = ["--out", "hub"] if command[0] == "layout" else []
        assert "small" in atb(*command, *more, cwd=tmp_path).refusal
    assert "is lean" in atb("verify", "small", cwd=tmp_path).refusal


def test_one_dynamic_engine_serves_all_lengths(dense_folder: Path, atb: Atb, tmp_path: Path) -> None:
    options = ["--dynamic", "--batch", 3, "--lengths", "8,16", "--target", "onnxruntime"]
    answer = atb("export", dense_folder, *options, "--out", "bundle", "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    (entry,) = read_bundle(tmp_path / "bundle").manifest.engines
    assert entry.target.label == "onnxruntime-CPU-f32-b3-l16-t1-dynamic"
    assert f"{entry.target.label} (alone)" in [row["stage"] for row in answer.document["parity"]]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--lengths", "16,49"],
            "length 49 is beyond the model's position table, which ends at 48: ask for at most 48",
        ),
        (["--lengths", "16,1"], "whole numbers from 2 on, such as 16,32,64; got '16,1'"),
        (["--lengths", "16,x"], "got '16,x'"),
        (["--target", "openvine"], "there is no backend 'openvine'; there are onnxruntime, openvino, tensorrt"),
        (["--target", "openvino:f8"], "there is no precision 'f8'; there are auto, f32"),
        (["--lengths", "16", "--target", "onnxruntime:bf16"], "bf16"),
        (["--texts", "bytes"], "is no text in UTF-8"),
        (["--texts", "empty"], "must have lines of 1 text"),
    ],
)
def test_wrong_options_are_told_and_nothing_is_written(
    dense_folder: Path, atb: Atb, tmp_path: Path, options: list[str], told: str
) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe good")
    (tmp_path / "empty").write_text("\n")
    assert told in atb("export", dense_folder, *options, "--out", "bundle", cwd=tmp_path).refusal
    assert sorted(x.name for x in tmp_path.iterdir()) == ["bytes", "empty"]


def test_a_model_and_a_place_are_needed_unless_a_bundle_is_rebuilt(
    exported: tuple[Path, Any], dense_folder: Path, atb: Atb, tmp_path: Path
) -> None:
    assert "name the MODEL to export" in atb("export", dense_folder, cwd=tmp_path).refusal
    assert "give neither a MODEL" in atb("export", dense_folder, "--rebuild", exported[0], cwd=tmp_path).refusal


def test_rebuild_makes_the_same_bundle_from_the_onnx_inside(
    exported: tuple[Path, Any], atb: Atb, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported[0], folder)
    before = read_bundle(folder).manifest
    answer = atb("export", "--rebuild", folder, "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    after = read_bundle(folder).manifest
    assert after.engines == before.engines
    assert {k: v for k, v in after.files.items() if k != "README.md"} == {
        k: v for k, v in before.files.items() if k != "README.md"
    }
    assert [row["stage"] for row in answer.document["parity"]] == STAGES
    assert [x.name for x in tmp_path.iterdir()] == ["bundle"]


def test_rebuild_for_other_targets_keeps_the_shapes(exported: tuple[Path, Any], atb: Atb, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported[0], folder)
    assert atb("export", "--rebuild", folder, "--target", "onnxruntime", cwd=tmp_path).code == 0
    assert [x.target.label for x in read_bundle(folder).manifest.engines] == ENGINES[2:]
    before = read_bundle(folder)
    assert "calibrate int8 on" in atb("export", "--rebuild", folder, "--target", "openvino:int8", cwd=tmp_path).refusal
    assert read_bundle(folder) == before


def test_export_never_writes_over_anything(exported: tuple[Path, Any], dense_folder: Path, atb: Atb) -> None:
    before = read_bundle(exported[0])
    text = atb("export", dense_folder, "--out", exported[0], cwd=exported[0].parent).refusal
    assert "exists already; name a new folder" in text
    assert read_bundle(exported[0]) == before


def test_verify_finds_a_good_bundle_good(exported: tuple[Path, Any], atb: Atb) -> None:
    answer = atb("verify", exported[0], "--json", cwd=exported[0].parent)
    assert answer.code == 0, answer.err
    assert sorted(row["stage"] for row in answer.document["parity"]) == sorted(STAGES)
    assert all(row["passed"] for row in answer.document["parity"])
    assert answer.document["files"] == len(read_bundle(exported[0]).manifest.files)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "model.safetensors", "tokenizer.json", "README.md"])
@pytest.mark.parametrize("command", [["verify"], ["export", "--rebuild"]])
def test_a_flipped_byte_is_told_by_the_files_name(
    exported: tuple[Path, Any], atb: Atb, tmp_path: Path, name: str, command: list[str]
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported[0], folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 3] ^= 4
    (folder / name).write_bytes(data)
    assert f"{name} has changed: its SHA-256 is not the manifest's" in atb(*command, folder, cwd=tmp_path).refusal


@pytest.mark.parametrize("old", ['"neg"', '"schema": 1', '"labels"', '"sha256"', '"backend": "openvino"', "model.onnx"])
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
    real = atb_export.parity.Verifier.engine

    def wrong(self: Any, engine: Any, onnx: Path) -> Any:
        made = type("Shifted", (), {"target": engine.target, "inputs": engine.inputs, "effective_precision": "f32"})()
        made.infer = lambda feeds: {"logits": engine.infer(feeds)["logits"] + 0.5}
        return real(self, made, onnx)

    monkeypatch.setattr(atb_export.parity.Verifier, "engine", wrong)
    answer = atb("verify", exported[0], "--json", cwd=exported[0].parent)
    assert "8 of 13 comparisons failed; the worst is bundle / " in answer.refusal
    assert "REFUSED" in answer.out
    assert [row["stage"] for row in answer.document["parity"] if not row["passed"]] == [
        x for x in STAGES if x.split(" (")[0] in ENGINES
    ]


def test_an_engine_that_computes_something_else_is_not_packed(
    dense_folder: Path, atb: Atb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = atb_export.parity.engine_logits

    def wrong(engine: Any, texts: Any) -> Any:
        return real(engine, texts) + (0.5 if engine.target.backend == "openvino" else 0.0)

    monkeypatch.setattr(atb_export.parity, "engine_logits", wrong)
    answer = atb("export", dense_folder, "--lengths", 16, "--out", "bundle", cwd=tmp_path)
    assert answer.code == 1
    assert "the worst is bundle / openvino-CPU-" in answer.refusal
    assert list(tmp_path.iterdir()) == []


def test_a_missing_engine_package_is_told(
    exported: tuple[Path, Any], dense_folder: Path, atb: Atb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "the package openvino is not installed: pip install 'atb-export[openvino]'"
    monkeypatch.setattr(type(backend("openvino")), "unavailable", lambda _: why)
    assert why in atb("export", dense_folder, "--lengths", 16, "--out", "bundle", cwd=tmp_path).refusal
    assert list(tmp_path.iterdir()) == []
    # What can be checked without it still is.
    answer = atb("verify", exported[0], "--json", cwd=tmp_path)
    assert answer.code == 0
    assert {row["skipped"] for row in answer.document["parity"] if row["stage"].startswith("openvino")} == {why}
    assert {row["skipped"] for row in answer.document["parity"] if not row["stage"].startswith("openvino")} == {None}


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the weights of a `transformers` folder."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def spoilt_config(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**data, **changes}))


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("nothing", "config.json"),
        ("a file", "is a file"),
        ("another model", "gpt2"),
        ("a label too many", "classifier.weight is"),
        ("a missing weight", "pooler"),
        ("an extra weight", "extra"),
        ("a weight that is no number", "finite"),
        ("words beyond the table", "the embedding table has 50 rows"),
        ("a cut file", "incomplete metadata"),
    ],
)
def test_export_refuses_what_is_no_bert_classifier(
    dense_folder: Path, atb: Atb, tmp_path: Path, what: str, told: str
) -> None:
    folder = tmp_path / "model"
    if what == "a file":
        folder.write_text("")
    elif what != "nothing":
        shutil.copytree(dense_folder, folder)
    if what == "another model":
        spoilt_config(folder, model_type="gpt2", architectures=["GPT2ForSequenceClassification"])
    elif what == "a label too many":
        spoilt_config(folder, id2label={"0": "neg", "1": "pos", "2": "third"}, label2id={})
    elif what == "a missing weight":
        rewritten(folder, lambda weights: weights.pop("bert.pooler.dense.weight"))
    elif what == "an extra weight":
        rewritten(folder, lambda weights: weights.update({"bert.extra.weight": torch.zeros(3)}))
    elif what == "a weight that is no number":
        rewritten(folder, lambda weights: weights["classifier.bias"].fill_(float("nan")))
    elif what == "words beyond the table":
        rewritten(
            folder,
            lambda weights: weights.update(
                {name: table[:50].clone() for name, table in weights.items() if "word_embeddings" in name}
            ),
        )
        spoilt_config(folder, vocab_size=50)
    elif what == "a cut file":
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    text = atb("export", folder, "--lengths", 16, "--out", "bundle", cwd=tmp_path).refusal
    assert told in text
    assert not (tmp_path / "bundle").exists()


def test_onnx_files_that_leave_the_bundle_or_bring_their_own_operators_are_not_run(
    exported: tuple[Path, Any], atb: Atb, tmp_path: Path
) -> None:
    """Even with a manifest that was written for them."""
    folder = tmp_path / "bundle"
    shutil.copytree(exported[0], folder)
    manifest = read_bundle(folder).manifest
    whole = (folder / "model.onnx").read_bytes()
    shutil.copy(folder / "model.safetensors", tmp_path / "elsewhere")
    for place in ("../elsewhere", "/etc/hostname", "gone"):
        model = onnx.load_from_string(whole)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = place
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(BundleError, match=r"model\.onnx"):
            write_manifest(folder, manifest)
    model = onnx.load_from_string(whole)
    model.graph.node[3].domain = "my.company"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    write_manifest(folder, manifest)
    for command in (["verify"], ["export", "--rebuild"]):
        assert "my.company::" in atb(*command, folder, cwd=tmp_path).refusal
    (folder / "model.onnx").write_bytes(b"not an ONNX model")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        write_manifest(folder, manifest)


def test_bundles_that_are_none_are_refused(atb: Atb, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "is not a bundle: it has no manifest.json" in atb("verify", "empty", cwd=tmp_path).refusal


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
    answer = atb("export", dense_folder, "--lengths", 16, *options, "--out", "bundle", "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert answer.document["parity"][0]["rows"] == len(texts) + 12
