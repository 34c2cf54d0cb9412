"""Bundles: built, read back, checked again, and refused."""

from __future__ import annotations

import copy
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
import torch
from onnx import numpy_helper

import atb_export.packing
import atb_export.parity
from atb_export.card import model_card
from atb_export.checking import departure_of, takes_pairs, verify_bundle
from atb_export.dense import DenseModel, load_dense
from atb_export.errors import AtbError, ExportError, VerificationError
from atb_export.graphs import graph_for
from atb_export.onnx.external import read_whole
from atb_export.onnx.graph import graph_bytes
from atb_export.packing import Origin, Packed, pack, rebuild
from atb_export.probes import engine_probes
from atb_export.verify import TOLERANCES, engine_logits, probe_texts, reference_logits
from runtime.classifier import Classifier
from runtime.engine import backend
from runtime.errors import AtbRuntimeError, BackendUnavailable, BundleError
from runtime.manifest import EngineEntry, Manifest, ModelFacts, read_bundle, write_manifest
from runtime.target import EngineTarget, Shape
from supernet.batches import TokenizedTexts, tokenize
from supernet.cells import Cell
from supernet.model import Supernet
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
    assert [x.artifact for x in bundle.manifest.engines[:2]] == ["model-openvino.onnx", "model.onnx"]
    assert packed.bundle_bytes == sum(x.stat().st_size for x in packed.folder.rglob("*") if x.is_file()) - (
        (packed.folder / "manifest.json").stat().st_size
    )
    assert bundle.manifest.model.labels == ("neg", "pos")
    assert bundle.manifest.model.subnet == SHAPE.to_json()
    assert not list(packed.folder.parent.glob(".*"))
    assert (packed.folder.stat().st_mode & 0o777) == 0o755
    assert {path.stat().st_mode & 0o777 for path in packed.folder.iterdir() if path.is_file()} == {0o644}


def test_weights_are_stored_once(packed: Packed, model: DenseModel) -> None:
    """What the ONNX file has besides model.safetensors are the two tables it makes one of, and small vectors."""
    files = read_bundle(packed.folder).manifest.files
    tables = 4 * SHAPE.hidden_size * model.net.facts.max_position_embeddings
    beside = files["model.onnx.data"].bytes if "model.onnx.data" in files else 0
    assert beside < tables + 64 * 20
    assert files["model.onnx"].bytes < 0.5 * files["model.safetensors"].bytes
    whole = len(graph_bytes(model.net))
    assert beside + files["model.onnx"].bytes < whole / 2


@pytest.mark.parametrize("backend_name", ["openvino", "onnxruntime"])
def test_buckets_and_dynamic_engines_share_one_file(
    model: DenseModel, probes: TokenizedTexts, tmp_path: Path, backend_name: str
) -> None:
    target = EngineTarget(backend=backend_name, precision="f32", shape=Shape(batch=2, length=20))
    targets = [
        *(replace(target, shape=Shape(batch=2, length=n)) for n in (8, 12)),
        target,
        replace(target, dynamic=True),
    ]
    packed = pack(model, tmp_path / "bundle", targets, texts=probes, origin=ORIGIN)
    bundle = read_bundle(packed.folder)
    assert len({x.artifact for x in bundle.manifest.engines}) == 1
    assert list(bundle.manifest.groups()) == [target.group, targets[-1].group]
    for row in packed.parity[3:]:
        assert row.passed, row
    classified = []
    texts: list[str] = ["good", "the plot is dull and the actor was cold", "a warm story " * 20]
    for engine in (target.group, targets[-1].group):
        with Classifier.from_bundle(packed.folder, engine) as classify:
            classified.append(classify.logits(texts))
    encoded = tokenize(model.tokenizer, [(x,) for x in texts], max_length=20)
    for logits in classified:  # a text longer than the longest engine is cut as the tokenizer cuts it
        assert np.abs(logits - reference_logits(model.net, encoded)).max() < 1e-4


@torch.no_grad()
def test_cells_and_trigrams_are_bundled_like_any_other(
    make_dense: Dense, probes: TokenizedTexts, tmp_path: Path
) -> None:
    cells = map(Cell, ("max(linear2(elu(linear1(x))), x)", "linear2(relu(mul(cut(x), linear1(x))))"))
    layers = tuple(replace(layer, ffn_stack=2, cell=cell) for layer, cell in zip(SHAPE.layers, cells, strict=True))
    shape = replace(SHAPE, layers=layers)
    plain = make_dense(SHAPE, seed=2)
    net = Supernet(shape=shape, facts=replace(plain.net.facts, embedding="trigram", embedding_size=9))
    for parameter in net.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    model = replace(plain, net=net.eval())
    int8 = replace(CPU[1], precision="int8")
    packed = pack(model, tmp_path / "bundle", [*CPU, int8], texts=probes, calibration=probes, origin=ORIGIN)
    assert all(row.passed for row in packed.parity)
    read = load_dense(packed.folder)
    assert (read.net.shape, read.net.facts) == (shape, net.facts)
    assert read_bundle(packed.folder).manifest.model.subnet == shape.to_json()
    texts: list[str] = ["good", "the plot is dull", "warm"]
    with Classifier.from_bundle(packed.folder) as classify:
        found = classify.logits(texts)
    wanted = reference_logits(net, tokenize(model.tokenizer, [(x,) for x in texts], max_length=16))
    assert np.abs(found - wanted).max() < 1e-4


def test_heads_of_tokens_are_not_served_yet(model: DenseModel, probes: TokenizedTexts, tmp_path: Path) -> None:
    tokens = replace(model, net=model.net.with_head("token"))
    with pytest.raises(ExportError, match="a head of kind 'token' is not served yet: bundles answer for whole texts"):
        pack(tokens, tmp_path / "bundle", CPU, texts=probes, origin=ORIGIN)
    assert not (tmp_path / "bundle").exists()


def test_rebuilding_adds_what_new_targets_need(packed: Packed, probes: TokenizedTexts, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(packed.folder, folder)
    before = read_bundle(folder)
    wanted = [replace(CPU[0], shape=Shape(batch=3, length=12)), CPU[1]]
    rebuilt = rebuild(before, wanted, texts=probes)
    after = read_bundle(folder).manifest
    assert [x.target for x in after.engines] == wanted
    assert after.files["model.onnx"] == before.manifest.files["model.onnx"]
    assert not [name for name in after.files if name.endswith(".plan")]
    assert all(row.passed for row in rebuilt.parity)
    assert dict(after.parents) == dict(before.manifest.parents)
    with pytest.raises(ExportError, match="calibrate int8 on"):
        rebuild(read_bundle(folder), INT8[:1], texts=probes)
    assert read_bundle(folder).manifest == after
    assert [x.name for x in tmp_path.iterdir()] == ["bundle"]


def test_the_first_layer_that_departs_is_named(
    model: DenseModel, probes: TokenizedTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is built from a file whose second layer has another weight than the network."""
    wrong = copy.deepcopy(model.net)
    with torch.no_grad():
        wrong.encoder[1].stack[0].output.bias[0] += 5.0
    monkeypatch.setattr(atb_export.packing, "graph_for", lambda _, *rest, **more: graph_for(wrong, *rest, **more))
    with pytest.raises(VerificationError) as caught:
        pack(model, tmp_path / "bundle", CPU, texts=probes, origin=ORIGIN)
    assert "The first to depart is layer1: " in str(caught.value)
    assert "embeddings, layer0.attention" not in str(caught.value)  # the three before it are told
    assert "layer0.attention, layer0, layer1.attention agree" in str(caught.value)


def test_what_was_compared_is_in_the_manifest_and_the_card(packed: Packed) -> None:
    rows = read_bundle(packed.folder).manifest.numbers["parity"]
    assert [dict(row) for row in rows] == [row.to_json() for row in packed.parity]
    stages = [row["stage"] for row in rows]
    assert stages[1:3] == ["onnx (batch 1)", "onnx (padded batch)"]
    assert [x for x in stages if x.endswith("(large weights)")] == [
        f"{target.group} (large weights)" for target in (*CPU, *([PLAN] if HAS_RTX else []))
    ]
    assert f"{CPU[1].label} (beside padding)" in stages
    assert f"{CPU[0].label} (beside padding)" not in stages  # a batch of one has no other rows
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
        (row,) = (x for x in packed.parity if x.stage == PLAN.label)
        assert row.passed is None
        assert row.skipped


@pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx is not installed")
def test_buckets_of_a_plan_share_it_and_its_typed_graph(
    model: DenseModel, probes: TokenizedTexts, tmp_path: Path
) -> None:
    asked = [replace(PLAN, precision="f16", shape=Shape(batch=1, length=n)) for n in (8, 16)]
    packed = pack(model, tmp_path / "bundle", asked, texts=probes, origin=ORIGIN)
    bundle = read_bundle(packed.folder)
    assert {x.artifact for x in bundle.manifest.engines} == {f"{asked[0].group}/model.plan"}
    record = json.loads((packed.folder / asked[0].group / "plan.json").read_text())
    assert record["onnx_sha256"] == bundle.manifest.files["model-f16.onnx"].sha256
    stages = {row.stage: row for row in packed.parity}
    assert stages["onnx f16 (as written)"].passed
    assert (stages["onnx f16 (as written)"].max_abs_error or 0) > 1e-5
    assert set(stages) >= {x.label for x in asked}
    rebuilt = rebuild(bundle, [replace(asked[0], device="sm_120")], texts=probes)
    assert {Path(x.artifact).parent.name for x in read_bundle(packed.folder).manifest.engines} == {
        "tensorrt-sm_120-f16-b1-t1"
    }
    assert not (packed.folder / asked[0].group).exists()
    assert [row.passed for row in rebuilt.parity if row.stage.startswith("onnx")] == [True] * 3


def test_an_overflow_in_f16_is_refused_and_its_layer_named(
    make_dense: Dense, probes: TokenizedTexts, tmp_path: Path
) -> None:
    """A GPU would answer with what is not a number; without one the graph is computed as it is written."""
    wild = make_dense(SHAPE, seed=2)
    with torch.no_grad():
        for linear in (wild.net.encoder[0].stack[0].intermediate, wild.net.encoder[0].stack[0].output):
            linear.weight.mul_(3000)
    asked = replace(PLAN, precision="f16")
    with pytest.raises(VerificationError, match=r"onnx f16 \(as written\): error inf") as caught:
        pack(wild, tmp_path / "bundle", [asked], texts=probes, origin=ORIGIN)
    assert "The first to depart is layer0: values that are not finite; embeddings, layer0.attention agree" in str(
        caught.value
    )
    assert nothing_is_left(tmp_path)


def test_checking_again_finds_the_same(packed: Packed, probes: TokenizedTexts) -> None:
    bundle = read_bundle(packed.folder)
    assert takes_pairs(bundle) is False
    rows = verify_bundle(bundle, load_dense(packed.folder), probes)
    assert sorted(row.stage for row in rows) == sorted(row.stage for row in packed.parity)
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
    for name in ("model.onnx", "model-openvino.onnx"):
        spoil(folder / name)
    write_manifest(folder, replace(manifest, engines=manifest.engines[:1]))
    failed = [row.stage for row in verify_bundle(read_bundle(folder), load_dense(folder), probes) if not row.passed]
    assert failed == ["onnx (batch 1)", "onnx (padded batch)", CPU[0].label]
    where = departure_of(read_bundle(folder), load_dense(folder), probes, CPU[0].label)
    assert where is not None
    assert where.startswith("The first to depart is logits")


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


def shift_logits(model: onnx.ModelProto) -> None:
    """Changes one number of the classifier's bias."""
    bias = next(x for x in model.graph.initializer if x.name == "logits.bias")
    values = numpy_helper.to_array(bias).copy()
    values.flat[0] += 3.0
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))


def spoil(path: Path) -> None:
    """The same in a file, whose other weights stay where they are."""
    model = onnx.load(path, load_external_data=False)
    shift_logits(model)
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
        "model-openvino.onnx",
        "model.onnx",
        "model-int8.onnx",
        "model-int8.onnx",
    ]
    assert "model-int8.onnx" in bundle.manifest.files
    again = verify_bundle(bundle, load_dense(packed.folder), texts)
    assert sorted(x.stage for x in again) == sorted(x.stage for x in packed.parity)
    assert all(x.passed for x in again)
    stages = {x.stage: x for x in packed.parity}
    assert stages["onnx int8 (rounding)"].tolerance == TOLERANCES["rounding"]
    assert (stages["onnx int8 (rounding)"].max_abs_error or 0) > 1e-3
    for entry in entries[2:]:
        row = stages[entry.target.label]
        assert row.passed
        assert (row.tolerance, row.rows) == (TOLERANCES["int8"], len(engine_probes(texts, length=16)))
        assert (row.max_abs_error or 0) < 1e-3
        with backend(entry.target.backend).load(bundle.artifact(entry), entry.target) as engine:
            got = engine_logits(engine, texts)
        assert 1e-3 < np.abs(got - reference_logits(model.net, texts)).max() < 0.5


def test_int8_without_texts_to_calibrate_on_is_told(model: DenseModel, probes: TokenizedTexts, tmp_path: Path) -> None:
    with pytest.raises(AtbError, match=r"openvino-CPU-int8-b1-l16-t1 needs real texts to calibrate int8 on"):
        pack(model, tmp_path / "bundle", [CPU[1], INT8[0]], texts=probes, origin=ORIGIN)
    assert nothing_is_left(tmp_path)


def spoilt_engines(monkeypatch: pytest.MonkeyPatch, broken: str, spoil: Callable[[onnx.ModelProto], object]) -> None:
    """Engines of one backend are built from another model than the bundle's file, which itself is right."""
    maker = backend(broken)

    def wrong(artifact: Path, target: EngineTarget) -> Any:
        model = read_whole(artifact)
        spoil(model)
        return maker.open(model.SerializeToString(), target)

    monkeypatch.setattr(maker, "load", wrong)


def test_an_int8_engine_of_another_graph_is_refused(
    model: DenseModel, probes: TokenizedTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is built from a graph whose ranges are half of those it is verified by."""

    def halve(model: onnx.ModelProto) -> None:
        for x in model.graph.initializer:
            if x.name.endswith("input.scale"):
                x.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(x) / 2, x.name))

    spoilt_engines(monkeypatch, "openvino", halve)
    with pytest.raises(VerificationError, match="openvino-CPU-int8"):
        pack(model, tmp_path / "bundle", INT8[:1], texts=probes, origin=ORIGIN, calibration=probes)
    assert nothing_is_left(tmp_path)


def nothing_is_left(folder: Path) -> bool:
    return list(folder.iterdir()) == []


def test_an_onnx_model_that_computes_something_else_is_refused(
    model: DenseModel, probes: TokenizedTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any, **more: Any) -> bytes:
        made = onnx.load_from_string(graph_for(*arguments, **more))
        shift_logits(made)
        return bytes(made.SerializeToString())

    monkeypatch.setattr(atb_export.packing, "graph_for", wrong)
    with pytest.raises(VerificationError, match=r"2 of 2 comparisons failed; the worst is tiny / onnx") as caught:
        pack(model, tmp_path / "bundle", CPU, texts=probes, origin=ORIGIN)
    assert "The first to depart is logits: " in str(caught.value)
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("broken", ["openvino", "onnxruntime"])
def test_an_engine_that_computes_something_else_is_refused(
    model: DenseModel, probes: TokenizedTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    spoilt_engines(monkeypatch, broken, shift_logits)
    with pytest.raises(VerificationError, match=f"the worst is tiny / {broken}-CPU-f32") as caught:
        pack(model, tmp_path / "bundle", CPU, texts=probes, origin=ORIGIN)
    assert "every value up to logits agrees" in str(caught.value)  # the bundle's own file is right
    assert nothing_is_left(tmp_path)


def test_an_engine_that_answers_nothing_is_refused(
    model: DenseModel, probes: TokenizedTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atb_export.parity, "engine_logits", lambda _, texts: np.full((len(texts), 2), np.nan))
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
    assert [row.skipped for row in packed.parity] == [None, "not installed", None, None]


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
