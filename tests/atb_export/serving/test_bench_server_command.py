"""bench --server: load on a running server, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Atb = Callable[..., Any]
SHORT = ("--seconds", 0.4, "--rounds", 2, "--json")


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    (tmp_path / "texts").write_text("a good film\nthe plot is dull\n\nÜber gut — 映画\n")
    (tmp_path / "pairs").write_text("good\tbad\nthe plot\tis dull\n")
    return tmp_path


def test_closed_and_open_loops_and_the_knee(cwd: Path, atb: Atb, programs: Path, served: Any) -> None:
    given = ["--texts", "texts", "--connections", "1,4", "--rate", 60, "--sweep", "--max-ms", 500, "--bin", programs]
    answer = atb("bench", "--server", served.url, *given, *SHORT, "--out", "raw.json", cwd=cwd)
    assert answer.code == 0, answer.err
    told = answer.document
    assert (told["protocol"], told["model"], told["texts"]) == ("oip", "m", 3)
    assert [x["connections"] for x in told["closed"]] == [1, 4]
    assert [x["rate_per_s"] for x in told["open"]] == [60]
    for row in told["closed"]:
        assert row["failures"] == {}
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["p999_ms"]
    (row,) = told["open"]  # which gives up on what a starved machine answers too late
    assert row["answers"].get("200", 0) + row["failures"].get("unanswered", 0) == row["requests"]
    assert {x["rounds"] for x in told["closed"] + told["open"]} == {2}
    assert told["sweep"]["max_ms"] == 500
    raw = json.loads((cwd / "raw.json").read_text())
    assert sum(n for _, n in raw["closed"][0]["latency_ns"]["200"]) == raw["closed"][0]["requests"]
    for words in ("Closed loop", "Open loop", "Sweep", "p99.9", served.url):
        assert words in answer.out
    assert {path for path, *_ in served.asked if "models" in path} == {"/v2/models/m", "/v2/models/m/infer"}


def test_another_protocol_with_a_token_and_failures_by_status(cwd: Path, atb: Atb, programs: Path, served: Any) -> None:
    given = ["--texts", "texts", "--connections", 2, "--bin", programs]
    tei = atb("bench", "--server", served.url, "--protocol", "tei", "--header", "A: b c", *given, *SHORT, cwd=cwd)
    assert tei.code == 0, tei.err
    assert {(path, headers["a"]) for path, headers, _ in served.asked} == {("/predict", "b c")}
    served.status = 503
    oip = atb("bench", "--server", served.url, "--model", "m", "--protocol", "oip-binary", *given, *SHORT, cwd=cwd)
    if oip.code == 0:  # else the very first answer was refused
        (row,) = oip.document["closed"]
        assert row["failures"].keys() == {"503"}
        assert "503" in oip.out
    else:
        assert "answers 503 to a text of the file" in oip.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--protocol", "oip", "--model", "nobody"], "no model 'nobody'"),
        (["--protocol", "infinity"], "/classify answers 404"),
        (["--texts", "pairs", "--protocol", "plain"], "single texts"),
        (["--bin", "."], "atb-load is not in ."),
    ],
)
def test_what_cannot_be_measured(cwd: Path, atb: Atb, programs: Path, served: Any, given: list[str], said: str) -> None:
    answer = atb("bench", "--server", served.url, "--texts", "texts", "--bin", programs, *given, cwd=cwd)
    assert answer.code == 1, answer.out
    assert said in answer.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--server", "http://127.0.0.1:1"], "--server needs --texts"),
        (["--server", "http://127.0.0.1:1", "--texts", "texts", "--header", "x"], "NAME:VALUE"),
        (["--server", "http://127.0.0.1:1", "--windows", "5"], "--windows is not of --server"),
        (["--server", "http://127.0.0.1:1", "bundle"], "SUBJECT is not of --server"),
        (["bundle", "--sweep"], "--sweep is of --server URL"),
        ([], "Missing argument 'SUBJECT...'"),
    ],
)
def test_wrong_usage(cwd: Path, atb: Atb, given: list[str], said: str) -> None:
    answer = atb("bench", *given, cwd=cwd)
    assert answer.code == 2
    assert said in answer.err


def test_nobody_there(cwd: Path, atb: Atb, programs: Path) -> None:
    answer = atb("bench", "--server", "127.0.0.1:1", "--texts", "texts", "--bin", programs, cwd=cwd)
    assert answer.code == 1
    assert "http://127.0.0.1:1/v2 does not answer" in answer.err


def test_it_needs_neither_torch_nor_an_engine() -> None:
    code = "import sys; import atb_export.serving.bench, atb_export.cli.bench_server, atb_export.cli.serve_command; "
    code += "print([x for x in ('torch', 'openvino', 'onnx', 'onnxruntime') if x in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
