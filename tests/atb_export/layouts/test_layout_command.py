"""`atb layout`: what it says, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from atb_export.cli.main import COMMANDS, HELP, run
from runtime.manifest import Bundle


def call(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = run(["layout", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("form", ["triton", "ovms", "huggingface"])
def test_each_layout_says_what_it_wrote(
    bundle: Bundle, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(bundle.folder, "--format", form, "--out", tmp_path / "out", "--json", capsys=capsys)
    assert (code, err) == (0, "")
    document: dict[str, Any] = json.loads(out.splitlines()[-1])
    there = {x.relative_to(tmp_path / "out").as_posix() for x in (tmp_path / "out").rglob("*") if x.is_file()}
    assert set(document["files"]) == there
    assert "README.md" in there
    assert document["bytes"] == sum((tmp_path / "out" / x).stat().st_size for x in there)
    assert document["model"] == "tiny_model"
    assert all(x in out for x in document["engines"])
    assert ((tmp_path / "out").stat().st_mode & 0o777) == 0o755
    assert [x.name for x in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("form", ["triton", "ovms", "huggingface"])
def test_a_bundle_with_a_flipped_byte_is_refused(
    bundle: Bundle, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bundle.folder, tmp_path / "bundle")
    path = tmp_path / "bundle" / "model.onnx"
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
    code, _, err = call(tmp_path / "bundle", "--format", form, "--out", tmp_path / "out", capsys=capsys)
    assert code == 1
    assert "model.onnx has changed" in err
    assert not (tmp_path / "out").exists()


def test_refusals_are_one_message(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old").mkdir()
    code, _, err = call(bundle.folder, "--format", "ovms", "--out", tmp_path / "old", capsys=capsys)
    assert (code, err) == (1, f"error: {tmp_path / 'old'} exists already; name a new folder\n")
    code, _, err = call(bundle.folder, "--format", "triton", "--engine", "x", "--out", tmp_path / "new", capsys=capsys)
    assert code == 1
    assert err.startswith("error: the bundle has no engine x; it has onnxruntime-CPU-f32-b1-l16-t1,")


def test_options_of_another_format_are_wrong_usage(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for form, option in (("ovms", "--python-engine"), ("huggingface", "--engine=openvino")):
        code, _, err = call(bundle.folder, "--format", form, "--out", tmp_path / "out", option, capsys=capsys)
        assert code == 2
        assert f"--format {form} has no {option.split('=')[0]}" in err
    assert not (tmp_path / "out").exists()


def test_the_command_is_listed() -> None:
    from atb_export.cli.main import atb

    assert COMMANDS["layout"] == "atb_export.cli.layout_command"
    assert HELP["layout"] in " ".join(CliRunner().invoke(atb, ["--help"]).output.split())
