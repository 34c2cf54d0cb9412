"""Exit codes, help, and the one place where errors become messages."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from atb_export.cli.main import COMMANDS, HELP, run
from atb_export.cli.main import atb as group
from supernet.processes import Processes

Atb = Callable[..., Any]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_json(command: str, atb: Atb, tmp_path: Path) -> None:
    answer = atb(command, "--help", cwd=tmp_path)
    assert answer.code == 0
    assert "Example:" in answer.out or "Examples:" in answer.out
    assert f"atb {command}" in answer.out
    assert "--json" in answer.out


def test_the_table_of_commands_is_whole_and_quick() -> None:
    """`atb --help` imports nothing heavy."""
    assert set(COMMANDS) == set(HELP) >= {"run", "train", "search", "pick", "export", "bench", "verify", "doctor"}
    script = (
        "import sys; from atb_export.cli.main import run; code = run(['--help'])\n"
        "heavy = {'torch', 'transformers', 'onnx', 'openvino', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(code or (str(heavy) if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [["nothing"], ["run"], ["verify", "--no-such"], ["bench"], ["export", "x"], ["run", "r", "--threads", 0]],
)
def test_wrong_usage_is_2(arguments: list[object], atb: Atb, tmp_path: Path) -> None:
    answer = atb(*arguments, cwd=tmp_path)
    assert answer.code == 2
    assert answer.refusal


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_disk_that_takes_nothing_more_is_told(number: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fail(**_: Any) -> None:
        raise OSError(number, "the disk says no", "some/file")

    monkeypatch.setattr(group, "main", fail)
    assert run([]) == 1
    assert "error: the disk says no: some/file. " in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_is_130(error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(group, "main", fail)
    assert run([]) == 130
    assert "--resume to continue" in capsys.readouterr().err


def test_our_own_mistakes_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(group, "main", fail)
    with pytest.raises(ZeroDivisionError):
        run([])


def test_doctor_tells_what_is_here_and_how_to_get_the_rest(
    atb: Atb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.engine import backend

    why = "the package openvino is not installed: pip install 'atb-export[openvino]'"
    monkeypatch.setattr(type(backend("openvino")), "unavailable", lambda _: why)
    answer = atb("doctor", "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    document = answer.document
    assert document["engines"]["openvino"] == {"builds": False, "runs": False, "why_not": why}
    assert document["engines"]["onnxruntime"] == {"builds": True, "runs": True, "why_not": None}
    assert document["packages"]["torch"]
    assert document["environment"]["cpu"]["model"]
    missing = [name for name, version in document["packages"].items() if version is None]
    for name in missing:
        (line,) = [x for x in answer.out.splitlines() if x.startswith(f"{name} ") and " missing " in x]
        assert "pip install" in line
    assert json.dumps(document)


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "atb_export", "--version"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("atb")


@pytest.mark.parametrize(("rank", "told"), [(0, "atb, version"), (1, "")])
def test_what_processes_do_not_share_is_done_by_the_first(rank: int, told: str) -> None:
    environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "atb_export", "--version"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout[: len("atb, version")] == told


def test_of_two_processes_the_first_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from torch.distributed import HashStore

    def fail(**_: Any) -> None:
        raise OSError(errno.ENOSPC, "the disk says no", "some/file")

    monkeypatch.setattr(group, "main", fail)
    store = HashStore()
    both = [Processes(count=2, rank=rank, here=2) for rank in (1, 0)]
    for one in both:
        one.__dict__["_store"] = store
        assert run([], one) == 1
    assert capsys.readouterr().err.startswith("error: process 2 of 2: the disk says no: some/file. ")
    monkeypatch.setattr(group, "main", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert [run([], one) for one in both] == [130, 130]
    assert capsys.readouterr().err.count("interrupted") == 1
