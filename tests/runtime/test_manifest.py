"""What a bundle is, as both readers see it: the portable one and, where it was built, the native one."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import onnx
import pytest

from runtime import manifest as portable
from runtime.errors import BundleError
from runtime.manifest import Bundle, EngineEntry, Manifest, ModelFacts, write_manifest
from runtime.target import EngineTarget, Shape

TARGET = EngineTarget(backend="openvino", shape=Shape(batch=1, length=8))
MODEL = ModelFacts(task="classification", labels=("bad", "good"), max_length=8, subnet={"hidden_size": 4})
MANIFEST = Manifest(
    name="quickstart",
    model=MODEL,
    engines=(EngineEntry(target=TARGET, artifact="engines/ov/model.xml", effective_precision="bf16"),),
    parents={"teacher": "0" * 64},
    numbers={"accuracy": 0.8},
)


def read_bundle(folder: Path) -> Bundle:
    """By the portable reader, held against the native one: both refuse, or both take it."""
    refusal = _native_refusal(folder)
    if refusal is None:
        return portable.read_bundle(folder)
    try:
        read = portable.read_bundle(folder)
    except BundleError:
        if refusal:
            raise
        pytest.fail("the native reader takes what the portable one refuses")
    if refusal:
        pytest.fail(f"the native reader refuses what the portable one takes: {refusal}")
    return read


def _native_refusal(folder: Path) -> str | None:
    """What the native reader says, empty where it takes the bundle, None where it was not built."""
    try:
        native = importlib.import_module("runtime._native")
    except ImportError:
        return None
    try:
        native.Bundle.read(str(folder))
    except BundleError as error:
        return str(error)
    return ""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "engines/ov").mkdir(parents=True)
    (folder / "engines/ov/model.xml").write_text("<net/>")
    (folder / "engines/ov/model.bin").write_bytes(bytes(range(256)))
    (folder / "tokenizer.json").write_text("{}")
    write_manifest(folder, MANIFEST)
    return folder


def _rewrite(bundle: Path, change: Any) -> None:
    data = json.loads((bundle / "manifest.json").read_text())
    change(data)
    (bundle / "manifest.json").write_text(json.dumps(data))


def test_what_is_written_is_read(bundle: Path) -> None:
    read = read_bundle(bundle)
    assert sorted(read.manifest.files) == ["engines/ov/model.bin", "engines/ov/model.xml", "tokenizer.json"]
    assert read.manifest.files["engines/ov/model.bin"].bytes == 256
    assert read.manifest.engines == MANIFEST.engines
    assert read.manifest.model == MODEL
    assert read.manifest.parents == MANIFEST.parents
    assert read.manifest.numbers == MANIFEST.numbers
    assert read.artifact(read.manifest.engines[0]) == bundle / "engines/ov/model.xml"
    assert read.tokenizer == bundle / "tokenizer.json"


def test_writing_returns_what_is_in_the_file_and_can_be_repeated(bundle: Path) -> None:
    (bundle / "README.md").write_text("card")
    written = write_manifest(bundle, MANIFEST)
    assert "README.md" in written.files
    assert "manifest.json" not in written.files
    assert read_bundle(bundle).manifest == written


@pytest.mark.parametrize("name", ["engines/ov/model.bin", "engines/ov/model.xml", "tokenizer.json"])
def test_one_flipped_bit_is_noticed(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[-1] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} has changed"):
        read_bundle(bundle)


def test_another_size_a_missing_and_an_unlisted_file_are_told_together(bundle: Path) -> None:
    (bundle / "engines/ov/model.bin").write_bytes(b"short")
    (bundle / "tokenizer.json").unlink()
    (bundle / "engines/new.bin").write_bytes(b"")
    with pytest.raises(BundleError) as caught:
        read_bundle(bundle)
    text = str(caught.value)
    assert "model.bin has 5 bytes, the manifest says 256" in text
    assert "tokenizer.json is missing" in text
    assert "engines/new.bin is not listed" in text


def test_links_are_refused_even_to_the_right_bytes(bundle: Path, tmp_path: Path) -> None:
    moved = tmp_path / "model.bin"
    (bundle / "engines/ov/model.bin").rename(moved)
    (bundle / "engines/ov/model.bin").symlink_to(moved)
    with pytest.raises(BundleError, match=r"model\.bin is a link"):
        read_bundle(bundle)
    with pytest.raises(BundleError, match=r"model\.bin is a link"):
        write_manifest(bundle, MANIFEST)


def test_linked_folders_are_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / "engines/ov").rename(tmp_path / "ov")
    (bundle / "engines/ov").symlink_to(tmp_path / "ov")
    with pytest.raises(BundleError, match="engines/ov is a link"):
        read_bundle(bundle)


def test_a_linked_manifest_is_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / "manifest.json").rename(tmp_path / "manifest.json")
    (bundle / "manifest.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(BundleError, match="not a bundle"):
        read_bundle(bundle)


def test_pipes_are_refused(bundle: Path) -> None:
    os.mkfifo(bundle / "pipe")
    with pytest.raises(BundleError, match="pipe is not a plain file"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "a/../../outside",
        "/etc/hostname",
        "a\\..\\b",
        "C:b",
        "./a",
        "a//b",
        "a/",
        ".",
        "",
        "a\0b",
        "manifest.json",
    ],
)
def test_paths_that_leave_the_bundle_are_refused_unopened(bundle: Path, name: str) -> None:
    (bundle.parent / "outside").write_text("secret")
    entry = {"sha256": "0" * 64, "bytes": 6}
    _rewrite(bundle, lambda data: data["files"].update({name: entry}))
    with pytest.raises(BundleError, match="leaves the bundle"):
        read_bundle(bundle)


@pytest.mark.parametrize("schema", [2, 99, 10**30])
def test_a_newer_schema_says_what_to_do(bundle: Path, schema: int) -> None:
    """Whatever else a newer manifest looks like."""
    (bundle / "manifest.json").write_text(json.dumps({"schema": schema, "engines": {"not": "a list"}}))
    with pytest.raises(BundleError, match=rf"schema {schema} is unknown.*newer atb-export, so update"):
        read_bundle(bundle)


@pytest.mark.parametrize("schema", [0, -1, 1.0, True, "1", None, [1]])
def test_an_unknown_schema_is_refused(bundle: Path, schema: Any) -> None:
    _rewrite(bundle, lambda data: data.update(schema=schema))
    with pytest.raises(BundleError, match=r"schema .* is unknown, this version reads 1: build"):
        read_bundle(bundle)


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"schema": 1}', '{"schema": 1, "model": 3}', "[" * 100_000])
def test_what_is_not_a_manifest_is_refused(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match="not a manifest"):
        read_bundle(bundle)


def test_no_manifest_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        read_bundle(tmp_path)
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        read_bundle(tmp_path / "nowhere")


def test_engines_and_tokenizer_must_be_files_of_it(bundle: Path) -> None:
    _rewrite(bundle, lambda data: data["engines"][0].update(artifact="/etc/hostname"))
    with pytest.raises(BundleError, match="/etc/hostname, which is not a file of it"):
        read_bundle(bundle)
    (bundle / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"the tokenizer is at tokenizer\.json"):
        write_manifest(bundle, MANIFEST)


def test_many_problems_are_counted(bundle: Path) -> None:
    for i in range(7):
        (bundle / f"x{i}").write_text("")
    with pytest.raises(BundleError, match="and 2 more"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "translation"},
        {"labels": ("one",)},
        {"labels": ("same", "same")},
        {"labels": (1, 2)},
        {"task": "regression"},
        {"max_length": 0},
    ],
)
def test_impossible_models_are_refused(changes: dict[str, Any]) -> None:
    facts: dict[str, Any] = {"task": "classification", "labels": ("a", "b"), "max_length": 8}
    with pytest.raises(ValueError, match=r"task|labels|max_length"):
        ModelFacts(**{**facts, **changes})


def test_regression_has_one_label(bundle: Path) -> None:
    assert ModelFacts(task="regression", labels=("similarity",), max_length=8).labels == ("similarity",)
    _rewrite(bundle, lambda data: data["model"].update(task="regression"))
    with pytest.raises(BundleError, match="regression 1"):
        read_bundle(bundle)


# --- several lengths, and what hostile hands make of a bundle


def _entry(batch: int, length: int, **more: Any) -> EngineEntry:
    target = EngineTarget(backend="openvino", shape=Shape(batch=batch, length=length), **more)
    return EngineEntry(target=target, artifact="engines/ov/model.xml", effective_precision="bf16")


def test_engines_that_differ_in_length_only_are_a_group(bundle: Path) -> None:
    entries = (_entry(1, 64), _entry(8, 64), _entry(1, 16), _entry(1, 64, dynamic=True), _entry(1, 32))
    write_manifest(bundle, replace(MANIFEST, engines=entries))
    read = read_bundle(bundle).manifest
    assert read.engines == entries
    assert read.groups() == {
        "openvino-CPU-auto-b1-t1": (entries[2], entries[4], entries[0]),
        "openvino-CPU-auto-b8-t1": (entries[1],),
        "openvino-CPU-auto-b1-t1-dynamic": (entries[3],),
    }
    assert json.loads((bundle / "manifest.json").read_text())["schema"] == 1


def test_static_targets_are_written_as_ever(bundle: Path) -> None:
    target = json.loads((bundle / "manifest.json").read_text())["engines"][0]["target"]
    assert sorted(target) == ["backend", "device", "precision", "shape", "threads"]


def test_two_engines_of_one_target_are_refused(bundle: Path) -> None:
    with pytest.raises(ValueError, match="several of openvino-CPU-auto-b1-l8-t1"):
        replace(MANIFEST, engines=MANIFEST.engines * 2)
    _rewrite(bundle, lambda data: data["engines"].append(data["engines"][0]))
    with pytest.raises(BundleError, match="several of openvino-CPU-auto-b1-l8-t1"):
        read_bundle(bundle)


@pytest.mark.parametrize("name", ["tokenizer.json", "files", "schema", "sha256", "artifact"])
def test_a_name_that_is_there_twice_is_refused(bundle: Path, name: str) -> None:
    text = (bundle / "manifest.json").read_text()
    at = text.index(f'"{name}": ')
    (bundle / "manifest.json").write_text(text[:at] + f'"{name}": null, ' + text[at:])
    with pytest.raises(BundleError, match=f"'{name}' is there twice"):
        read_bundle(bundle)


def test_no_byte_of_any_file_can_change(bundle: Path) -> None:
    rng, unnoticed = Random(1), []
    for path in sorted(x for x in bundle.rglob("*") if x.is_file()):
        data = path.read_bytes()
        for at in range(len(data)):
            path.write_bytes(data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :])
            try:
                read_bundle(bundle)
            except BundleError:
                continue
            unnoticed.append((path.name, at))
        path.write_bytes(data)
    read_bundle(bundle)
    assert unnoticed == []


def test_blanks_that_mean_the_same_are_noticed(bundle: Path) -> None:
    data = (bundle / "manifest.json").read_bytes()
    for other in (data + b"\n", data.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + data, data.decode().encode("utf-16")):
        (bundle / "manifest.json").write_bytes(other)
        with pytest.raises(BundleError, match="not as it was written"):
            read_bundle(bundle)


def test_no_file_can_be_cut_short_or_grow(bundle: Path) -> None:
    for path in sorted(x for x in bundle.rglob("*") if x.is_file()):
        data = path.read_bytes()
        for other in (*(data[:end] for end in range(0, len(data), 3)), data[:-1], data + b"\0", data + data):
            path.write_bytes(other)
            with pytest.raises(BundleError, match=path.name):
                read_bundle(bundle)
        path.write_bytes(data)
    read_bundle(bundle)


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("artifact", ["a"]),
        ("artifact", {"a": 1}),
        ("artifact", None),
        ("artifact", ""),
        ("artifact", "../secret"),
        ("artifact", "engines"),
        ("artifact", "engines/ov/../ov/model.xml"),
        ("artifact", "manifest.json"),
        ("effective_precision", 16),
        ("target", None),
    ],
)
def test_engines_must_be_what_they_should_be_even_in_an_honest_hash(bundle: Path, what: str, value: Any) -> None:
    (bundle.parent / "secret").write_text("secret")
    _forge(bundle, lambda data: data["engines"][0].update({what: value}))
    with pytest.raises(BundleError, match=r"not a manifest|not a file of it"):
        read_bundle(bundle)


@pytest.mark.parametrize("value", ["../secret", "/etc/hostname", "", ".", ["tokenizer.json"], None, "\ud800"])
def test_a_tokenizer_outside_is_refused(bundle: Path, value: Any) -> None:
    (bundle.parent / "secret").write_text("secret")
    _forge(bundle, lambda data: data["model"].update(tokenizer=value))
    with pytest.raises(BundleError, match=r"tokenizer is"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    "entry", [None, [], {}, {"sha256": 1, "bytes": 2}, {"sha256": "0", "bytes": -1}, {"sha256": "0", "bytes": 2.0}]
)
def test_files_must_be_what_they_should_be(bundle: Path, entry: Any) -> None:
    _forge(bundle, lambda data: data["files"].update({"tokenizer.json": entry}))
    with pytest.raises(BundleError, match="not a manifest"):
        read_bundle(bundle)


def test_odd_names_are_only_missing(bundle: Path) -> None:
    _forge(bundle, lambda data: data["files"].update({"\ud800.onnx": {"sha256": "0", "bytes": 1}}))
    with pytest.raises(BundleError, match="is missing"):
        read_bundle(bundle)


def _forge(bundle: Path, change: Any) -> None:
    """Changes the manifest and mends its hash, as somebody would who means harm."""
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    del data["sha256"]
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    data["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(data, indent=2) + "\n")


def _onnx_with_weights_at(location: str) -> bytes:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    data: bytes = onnx.helper.make_model(graph).SerializeToString()
    return data


def _relist(bundle: Path, name: str, data: bytes) -> None:
    (bundle / name).write_bytes(data)
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    _forge(bundle, lambda manifest: manifest["files"].update({name: entry}))


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/hostname", "engines/../../secret", "unlisted.bin", "", "..\\secret", "manifest.json", "."],
)
@pytest.mark.parametrize("name", ["model.onnx", "MODEL.ONNX"])
def test_weights_outside_the_bundle_are_refused(bundle: Path, location: str, name: str) -> None:
    (bundle.parent / "secret").write_bytes(bytes(8))
    _relist(bundle, name, _onnx_with_weights_at(location))
    with pytest.raises(BundleError, match=rf"weights of {name} are at .*, which is not a file of it"):
        read_bundle(bundle)
    with pytest.raises(BundleError, match=rf"weights of {name} are at"):
        write_manifest(bundle, MANIFEST)


def test_weights_in_another_file_of_the_bundle_are_fine(bundle: Path) -> None:
    (bundle / "weights.bin").write_bytes(bytes(8))
    (bundle / "model.onnx").write_bytes(_onnx_with_weights_at("weights.bin"))
    (bundle / "engines/ov/other.onnx").write_bytes(_onnx_with_weights_at("model.bin"))
    write_manifest(bundle, MANIFEST)
    assert "weights.bin" in read_bundle(bundle).manifest.files


@pytest.mark.parametrize("data", [b"", b"\x0b", _onnx_with_weights_at("weights.bin")[:-3]])
def test_an_onnx_file_that_cannot_be_read_is_refused(bundle: Path, data: bytes) -> None:
    _relist(bundle, "model.onnx", data)
    with pytest.raises(BundleError, match=r"model\.onnx is not an ONNX model"):
        read_bundle(bundle)


def test_weights_outside_are_found_wherever_a_tensor_may_be(bundle: Path) -> None:
    def outside(name: str) -> onnx.TensorProto:
        tensor = onnx.TensorProto(name=name, data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=name)
        return tensor

    make_node, make_graph = onnx.helper.make_node, onnx.helper.make_graph
    branch = make_graph([make_node("Constant", [], ["b"], value=outside("branch"))], "branch", [], [])
    nodes = [
        make_node("Constant", [], ["c"], value=outside("value")),
        make_node("Other", [], ["d"], domain="x", several=[outside("first"), outside("second")]),
        make_node("If", ["c"], ["e"], then_branch=branch, else_branch=make_graph([], "f", [], [], [outside("else")])),
    ]
    graph = make_graph(nodes, "g", [], [], [outside("initializer")])
    sparse = onnx.SparseTensorProto(values=outside("values"), indices=outside("indices"), dims=[2])
    graph.sparse_initializer.append(sparse)
    body = [make_node("Constant", [], ["g"], value=outside("function"))]
    function = onnx.helper.make_function("x", "F", [], ["g"], body, [onnx.helper.make_opsetid("", 17)])
    hidden = onnx.helper.make_model(graph, functions=[function]).SerializeToString()
    places = ("branch", "value", "first", "second", "else", "initializer", "values", "indices", "function")
    (bundle / "model.onnx").write_bytes(hidden)
    for name in places:
        (bundle / name).write_bytes(b"")
    write_manifest(bundle, MANIFEST)
    for name in places:
        (bundle / name).unlink()
        with pytest.raises(BundleError, match=rf"weights of model\.onnx are at {name}, which"):
            write_manifest(bundle, MANIFEST)
        (bundle / name).write_bytes(b"")
