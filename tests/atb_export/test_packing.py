"""Bundles: built, read back, checked again, and refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import atb_export.packing
from atb_export.card import model_card
from atb_export.checking import takes_pairs, verify_bundle
from atb_export.dense import DenseModel, load_dense
from atb_export.errors import AtbError, VerificationError
from atb_export.onnx.quantise import quantised_graph
from atb_export.packing import Origin, Packed, pack
from atb_export.verify import TOLERANCES, engine_logits, probe_texts, reference_logits
from runtime.engine import backend
from runtime.errors import AtbRuntimeError, BackendUnavailable, BundleError
from runtime.manifest import EngineEntry, Manifest, ModelFacts, read_bundle, write_manifest
from runtime.target import EngineTarget, Shape
from supernet.batches import TokenizedTexts, tokenize
from supernet.space import LayerConfig, SubnetConfig

Dense = Callable[..., DenseModel]
SHAPE = SubnetConfig(
    hidden_size=28,
    layers=(
        LayerConfig(source=0, heads=3, head_size=8, ffn_size=50),
        LayerConfig(source=1, heads=2, head_size=6, ffn_size=33),
    ),
)
CPU = [
    EngineTarget(backend=name, precision="f32", shape=Shape(batch=batch, length=16))
    for name, batch in (("openvino", 1), ("onnxruntime", 4))
]
PLAN = EngineTarget(backend="tensorrt", device="sm_89", precision="f32", shape=Shape(batch=1, length=16))
ORIGIN = Origin(name="tiny", task="telling neg or pos", max_length=24)
HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None


@pytest.fixture(scope="module")
def model(make_dense: Dense) -> DenseModel:
    return make_dense(SHAPE, seed=2)


@pytest.fixture(scope="module")
def packed(model: DenseModel, probes: TokenizedTexts, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """For every backend that builds here."""
    folder = tmp_path_factory.mktemp("packed") / "bundle"
    return pack(model, folder, [*CPU, *([PLAN] if HAS_RTX else [])], texts=probes, origin=ORIGIN)


def test_a_bundle_holds_every_form_and_names_every_file(packed: Packed) -> None:
    bundle = read_bundle(packed.folder)
    labels = [x.target.label for x in bundle.manifest.engines]
    assert labels[:2] == ["openvino-CPU-f32-b1-l16-t1", "onnxruntime-CPU-f32-b4-l16-t1"]
    assert [x.effective_precision for x in bundle.manifest.engines[:2]] == ["f32", "f32"]
    files = bundle.manifest.files
    assert {"config.json", "model.safetensors", "model.onnx", "tokenizer.json", "README.md"} <= set(files)
    assert packed.bundle_bytes == sum(x.stat().st_size for x in packed.folder.rglob("*") if x.is_file()) - (
        (packed.folder / "manifest.json").stat().st_size
    )
    assert bundle.manifest.model.labels == ("neg", "pos")
    assert bundle.manifest.model.subnet == SHAPE.to_json()
    assert not list(packed.folder.parent.glob(".*"))
    assert (packed.folder.stat().st_mode & 0o777) == 0o755


def test_what_was_compared_is_in_the_manifest_and_the_card(packed: Packed) -> None:
    rows = read_bundle(packed.folder).manifest.numbers["parity"]
    assert [dict(row) for row in rows] == [row.to_json() for row in packed.parity]
    assert len(rows) == 3 + 2 + HAS_RTX
    card = (packed.folder / "README.md").read_text()
    for row in rows:
        assert f"| {row['stage']} |" in card
        assert (row["passed"] is True) is (row["skipped"] is None)


@pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx is not installed")
def test_the_plan_is_built_for_its_target_and_skipped_with_a_reason(packed: Packed) -> None:
    bundle = read_bundle(packed.folder)
    entry = bundle.manifest.engines[-1]
    record = json.loads(bundle.artifact(entry).with_name("plan.json").read_text())
    assert record["onnx_sha256"] == bundle.manifest.files["model.onnx"].sha256
    assert bundle.artifact(entry).stat().st_size > 1000
    if backend("tensorrt").can_run() is not None:
        row = packed.parity[-1]
        assert (row.passed, row.stage) == (None, PLAN.label)
        assert row.skipped


def test_checking_again_finds_the_same(packed: Packed, probes: TokenizedTexts) -> None:
    bundle = read_bundle(packed.folder)
    assert takes_pairs(bundle) is False
    rows = verify_bundle(bundle, load_dense(packed.folder), probes)
    assert [row.stage for row in rows] == [row.stage for row in packed.parity]
    assert all(row.passed or row.skipped for row in rows)


def test_a_task_of_pairs_keeps_its_token_types(make_dense: Dense, tmp_path: Path) -> None:
    model = make_dense(SHAPE, seed=3)
    texts = tokenize(model.tokenizer, [("a good film", "dull"), ("bad", "the story is clever")], max_length=16)
    pack(model, tmp_path / "pairs", CPU[:1], texts=texts, origin=ORIGIN)
    bundle = read_bundle(tmp_path / "pairs")
    assert takes_pairs(bundle) is True
    assert all(row.passed for row in verify_bundle(bundle, load_dense(tmp_path / "pairs"), texts))


def test_a_second_pack_replaces_the_first_whole(
    packed: Packed, make_dense: Dense, probes: TokenizedTexts, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(packed.folder, folder)
    pack(make_dense(SHAPE, seed=9), folder, CPU[1:], texts=probes, origin=replace(ORIGIN, name="second"))
    assert read_bundle(folder).manifest.name == "second"
    assert [x.name for x in tmp_path.iterdir()] == ["bundle"]


# --- what is noticed ------------------------------------------------------------------------------------------------


def test_any_flipped_byte_is_noticed(packed: Packed, tmp_path: Path) -> None:
    """In every file, at its first, its last and some other bytes."""
    folder = tmp_path / "bundle"
    shutil.copytree(packed.folder, folder)
    rng = Random(0)
    for name in sorted(read_bundle(folder).manifest.files):
        path = folder / name
        data = path.read_bytes()
        for at in {0, len(data) - 1, rng.randrange(len(data))}:
            path.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :])
            with pytest.raises(BundleError, match=rf"{name} has changed"):
                read_bundle(folder)
        path.write_bytes(data[:-1])
        with pytest.raises(BundleError, match=f"{name} has {len(data) - 1} bytes"):
            read_bundle(folder)
        path.write_bytes(data)
    read_bundle(folder)


def test_any_flipped_byte_of_the_manifest_is_noticed(packed: Packed, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(packed.folder, folder)
    path, rng, unnoticed = folder / "manifest.json", Random(1), []
    data = path.read_bytes()
    for at in rng.sample(range(len(data)), 60):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            read_bundle(folder)
        except BundleError:
            continue
        unnoticed.append(data[max(0, at - 20) : at + 20])
    assert unnoticed == []


def test_weights_exchanged_with_their_hashes_are_noticed_by_their_numbers(
    packed: Packed, make_dense: Dense, probes: TokenizedTexts, tmp_path: Path
) -> None:
    """Someone who rewrites the manifest too: every file has its hash, but they are not one model any more."""
    folder = tmp_path / "bundle"
    shutil.copytree(packed.folder, folder)
    manifest = read_bundle(folder).manifest
    spoil(folder / "model.onnx")
    write_manifest(folder, replace(manifest, engines=manifest.engines[:1]))
    failed = [row.stage for row in verify_bundle(read_bundle(folder), load_dense(folder), probes) if not row.passed]
    assert failed == ["onnx (batch 1)", "onnx (padded batch)"]


@pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx is not installed")
def test_a_plan_of_another_model_is_noticed_without_a_gpu(
    packed: Packed, probes: TokenizedTexts, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(packed.folder, folder)
    bundle = read_bundle(folder)
    record = bundle.artifact(bundle.manifest.engines[-1]).with_name("plan.json")
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "onnx_sha256": "0" * 64}))
    write_manifest(folder, bundle.manifest)
    with pytest.raises(VerificationError, match="built from another ONNX model"):
        verify_bundle(read_bundle(folder), load_dense(folder), probes)


# --- what is refused ------------------------------------------------------------------------------------------------


def spoil(path: Path) -> None:
    """Changes one number of the ONNX model's weights."""
    model = onnx.load(path)
    weight = next(x for x in model.graph.initializer if x.name == "logits.weight")
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 3.0
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    path.write_bytes(model.SerializeToString())


INT8 = [replace(target, precision="int8") for target in CPU]


def test_an_int8_bundle_holds_both_graphs_and_is_held_against_its_own(
    model: DenseModel, probes: TokenizedTexts, tmp_path: Path
) -> None:
    texts = probe_texts(probes, length=16, count=len(probes))
    packed = pack(model, tmp_path / "bundle", [*CPU, *INT8], texts=texts, origin=ORIGIN, calibration=probes)
    bundle = read_bundle(packed.folder)
    entries = bundle.manifest.engines
    assert [x.effective_precision for x in entries] == ["f32", "f32", "int8", "int8"]
    assert [x.artifact for x in entries] == [
        "openvino/model.xml",
        "model.onnx",
        "openvino-int8/model.xml",
        "int8/model.onnx",
    ]
    assert {"int8/model.onnx", "openvino-int8/model.bin"} <= set(bundle.manifest.files)
    again = verify_bundle(bundle, load_dense(packed.folder), texts)
    assert [x.stage for x in again] == [x.stage for x in packed.parity]
    assert all(x.passed for x in again)
    stages = {x.stage: x for x in packed.parity}
    assert stages["onnx int8 (rounding)"].tolerance == TOLERANCES["rounding"]
    assert (stages["onnx int8 (rounding)"].max_abs_error or 0) > 1e-3
    for entry in entries[2:]:
        row = stages[entry.target.label]
        assert row.passed
        assert (row.tolerance, row.rows) == (TOLERANCES["int8"], len(texts))
        assert (row.max_abs_error or 0) < 1e-3
        with backend(entry.target.backend).load(bundle.artifact(entry), entry.target) as engine:
            got = engine_logits(engine, texts)
        assert 1e-3 < np.abs(got - reference_logits(model.net, texts)).max() < 0.5


def test_int8_without_texts_to_calibrate_on_is_told(model: DenseModel, probes: TokenizedTexts, tmp_path: Path) -> None:
    with pytest.raises(AtbError, match=r"openvino-CPU-int8-b1-l16-t1 needs real texts to calibrate int8 on"):
        pack(model, tmp_path / "bundle", [CPU[1], INT8[0]], texts=probes, origin=ORIGIN)
    assert nothing_is_left(tmp_path)


def test_an_int8_engine_of_another_graph_is_refused(
    model: DenseModel, probes: TokenizedTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is built from a graph whose ranges are half of those it is verified by."""
    spoilt = quantised_graph(model.net, model.net.shape, probes, token_types=False)
    for x in spoilt.graph.initializer:
        if x.name.endswith("input.scale"):
            x.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(x) / 2, x.name))
    (tmp_path / "spoilt.onnx").write_bytes(spoilt.SerializeToString())
    build = atb_export.packing.build_engine
    monkeypatch.setattr(
        atb_export.packing,
        "build_engine",
        lambda model, onnx, *rest, **names: build(model, tmp_path / "spoilt.onnx", *rest, **names),
    )
    with pytest.raises(VerificationError, match="openvino-CPU-int8"):
        pack(model, tmp_path / "bundle", INT8[:1], texts=probes, origin=ORIGIN, calibration=probes)
    assert [x.name for x in tmp_path.iterdir()] == ["spoilt.onnx"]


def nothing_is_left(folder: Path) -> bool:
    return list(folder.iterdir()) == []


def test_an_onnx_model_that_computes_something_else_is_refused(
    model: DenseModel, probes: TokenizedTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = atb_export.packing.onnx_bytes

    def wrong(model: DenseModel, *, pairs: bool) -> bytes:
        (tmp_path / "x.onnx").write_bytes(real(model, pairs=pairs))
        spoil(tmp_path / "x.onnx")
        data = (tmp_path / "x.onnx").read_bytes()
        (tmp_path / "x.onnx").unlink()
        return data

    monkeypatch.setattr(atb_export.packing, "onnx_bytes", wrong)
    with pytest.raises(VerificationError, match=r"2 of 3 comparisons failed; the worst is tiny / onnx"):
        pack(model, tmp_path / "bundle", CPU, texts=probes, origin=ORIGIN)
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("broken", ["openvino", "onnxruntime"])
def test_an_engine_that_computes_something_else_is_refused(
    model: DenseModel, probes: TokenizedTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The engine is compiled from a model with one other weight; the ONNX file itself is right."""
    maker = backend(broken)
    real = maker.compile

    def compile_wrong(source: bytes | Path, target: EngineTarget, out: Path) -> Path:
        assert isinstance(source, Path)
        spoilt = out.parent / "spoilt.onnx"
        shutil.copy(source, spoilt)
        spoil(spoilt)
        return real(spoilt.read_bytes(), target, out)

    monkeypatch.setattr(maker, "compile", compile_wrong)
    with pytest.raises(VerificationError, match=f"the worst is tiny / {broken}-CPU-f32"):
        pack(model, tmp_path / "bundle", CPU, texts=probes, origin=ORIGIN)
    leftovers = [x.name for x in tmp_path.iterdir() if x.name != "spoilt.onnx"]
    assert leftovers == []


def test_an_engine_that_answers_nothing_is_refused(
    model: DenseModel, probes: TokenizedTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atb_export.packing, "engine_logits", lambda *_: np.full((len(probes), 2), np.nan))
    with pytest.raises(VerificationError, match="error inf"):
        pack(model, tmp_path / "bundle", CPU, texts=probes, origin=ORIGIN)
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("step", ["save_dense", "model_card", "write_manifest"])
def test_no_half_written_folder_is_left(
    model: DenseModel,
    probes: TokenizedTexts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: BaseException,
) -> None:
    old = tmp_path / "bundle"
    old.mkdir()
    (old / "keep").write_text("the bundle of before")

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(atb_export.packing, step, fail)
    with pytest.raises(type(error)):
        pack(model, old, CPU[1:], texts=probes, origin=ORIGIN)
    assert [x.name for x in tmp_path.iterdir()] == ["bundle"]
    assert (old / "keep").read_text() == "the bundle of before"


def test_a_missing_engine_package_is_told(
    model: DenseModel, probes: TokenizedTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(backend("openvino")), "unavailable", lambda _: "the package openvino is not installed")
    with pytest.raises(BackendUnavailable, match="openvino is not installed"):
        pack(model, tmp_path / "bundle", CPU, texts=probes, origin=ORIGIN)
    assert nothing_is_left(tmp_path)


def test_onnxruntime_may_be_missing_where_it_is_no_target(
    model: DenseModel, probes: TokenizedTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(backend("onnxruntime")), "unavailable", lambda _: "not installed")
    packed = pack(model, tmp_path / "bundle", CPU[:1], texts=probes, origin=ORIGIN)
    assert [row.skipped for row in packed.parity] == [None, "not installed", None]


# --- the card -------------------------------------------------------------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script>",
    "a | b\n---\nlibrary_name: evil",
    "[click](http://evil.example)",
    "`rm -rf`",
    "![x](y)",
    "---",
    "# heading",
)


def manifest_of(labels: tuple[str, ...], name: str = "tiny") -> Manifest:
    engine = EngineEntry(target=CPU[0], artifact="openvino/model.xml", effective_precision="f32")
    numbers = {"parameters": 12345, "shape": str(SHAPE), "parity": [{"stage": "gpu", "skipped": "no | GPU\nhere"}]}
    facts = ModelFacts(task="classification", labels=labels, max_length=24)
    return Manifest(name=name, model=facts, engines=(engine,), numbers=numbers)


def test_hostile_names_stay_text_in_the_card() -> None:
    card = model_card(manifest_of(HOSTILE, name="x\n---\n<b>"), task=" or ".join(HOSTILE))
    assert not set("<>") & set(card)
    assert "](" not in card
    header = card.split("---\n")[1]
    assert "evil" not in header
    plain = model_card(manifest_of(("neg", "pos")), task="telling neg or pos")
    # The hostile card has the same lines: no name opens a heading, a fence, a table or a new block.
    starts = [line[:2] for line in card.splitlines()]
    assert starts == [line[:2] for line in plain.splitlines()]
    assert card.count("```") == plain.count("```")
    assert "12,345" in card


def test_the_readers_errors_belong_to_the_users_tree() -> None:
    assert issubclass(BundleError, AtbRuntimeError)
