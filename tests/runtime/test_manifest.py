from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import BundleError
from runtime.manifest import EngineEntry, Manifest, ModelFacts, read_bundle, write_manifest
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


def test_unknown_schema_says_what_to_do(bundle: Path) -> None:
    _rewrite(bundle, lambda data: data.update(schema=2))
    with pytest.raises(BundleError, match=r"schema 2 is unknown.*update"):
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
