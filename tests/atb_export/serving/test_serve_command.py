"""serve: the command line that the native server gets, and what is said where it is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Atb = Callable[..., Any]


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    """With two bundles, as far as their names go, a folder of versions, and a server that tells what it was given."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps({"name": f"the {name}"}))
    (tmp_path / "versions" / "1").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "atb-server"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], os.getpid()]))\nsys.exit(7)\n"
    )
    program.chmod(0o755)
    return tmp_path


def serve(cwd: Path, *words: str) -> tuple[int, list[str], bool]:
    """Exit code, the server's arguments, and whether it took the very process that was started."""
    command = [sys.executable, "-m", "atb_export", "serve", *words]
    environment = {**os.environ, "ATB_BIN": str(cwd / "bin")}
    with subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate()
    arguments, pid = json.loads(out)
    return process.returncode, arguments, pid == process.pid


def test_the_server_takes_the_place_of_the_command(cwd: Path) -> None:
    words = ["one", "b=two", "versions", "--port", "0", "--manage", "--host=::1"]
    code, arguments, same = serve(cwd, *words)
    assert (code, same) == (7, True)
    models = ["--model", "the one=one", "--model", "b=two", "--model", "versions=versions"]
    assert arguments == [*models, "--port", "0", "--manage", "--host=::1"]


def test_a_name_may_stand_anywhere(cwd: Path) -> None:
    for words in (["--name", "n", "one", "--port", "1"], ["one", "--port", "1", "--name", "n"]):
        assert serve(cwd, *words)[1] == ["--model", "n=one", "--port", "1"]


def test_models_may_be_options_of_the_server(cwd: Path) -> None:
    assert serve(cwd, "--model", "a=b")[1] == ["--model", "a=b"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "no BUNDLE is named"),
        (["--port", "1"], 2, "no BUNDLE is named"),
        (["one", "two", "--name", "n"], 2, "there are 2"),
        (["a=one", "--name", "n"], 2, "is named already"),
        (["nowhere"], 1, "nowhere is no folder"),
    ],
)
def test_wrong_usage(cwd: Path, atb: Atb, words: list[str], code: int, said: str) -> None:
    answer = atb("serve", "--bin", "bin", *words, cwd=cwd)
    assert answer.code == code
    assert said in answer.err


def test_a_missing_server_is_explained_and_help_is_there_anyway(
    cwd: Path, atb: Atb, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = atb("serve", "one", "--bin", "two", cwd=cwd)
    assert answer.code == 1
    for words in ("the native server atb-server is not in two", "compiler", "pip install"):
        assert words in answer.err
    monkeypatch.setenv("ATB_BIN", "two")
    helped = atb("serve", "--help", cwd=cwd)
    assert helped.code == 0
    assert "atb serve runs/quickstart/bundle" in helped.out
    assert "cannot be shown" in helped.out
