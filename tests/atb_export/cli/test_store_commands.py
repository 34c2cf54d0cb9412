"""`atb store`: what it shows, what it changes, what it refuses, and that it needs nothing heavy for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from atb_export.cli.main import run
from atb_export.cli.store_commands import store_command
from search.store import Accuracy, EngineKey, Failure, Measurement, Store
from supernet.space import SubnetConfig

TARGET = "openvino-CPU-bf16-b1-l64-t1"
SUBNET = SubnetConfig.uniform(hidden_size=128, depth=2, heads=4, ffn_size=512)

Ask = Callable[..., Any]


def key(number: int, hardware: str = "0123456789ab", target: str = TARGET) -> EngineKey:
    return EngineKey(
        graph=f"{number:064x}",
        target=target,
        effective_precision="bf16",
        batch=1,
        length=64,
        threads=1,
        runtime="openvino 2026.4.1",
        hardware=hardware,
    )


def measurement(number: int, *, second: int = 0, **where: str) -> Measurement:
    return Measurement(
        key=key(number, **where),
        ms=1.25 + number,
        ci_ms=(1.125 + number, 1.5 + number),
        subnet=SUBNET.to_json(),
        reference="c" * 64,
        reference_ms=2.5,
        report={"samples_ms": [1.0, 2.0]},
        created=f"2026-03-01T12:00:{second:02d}+00:00",
    )


def fill(path: Path) -> None:
    with Store.open(path) as store:
        store.add(*(measurement(i, second=i) for i in range(3)), measurement(7, target="onnxruntime-CPU"))
        store.add(Failure(key=key(9), reason="no kernel\x1b[31m\nfor it", created="2026-03-01T12:00:00+00:00"))
        for checkpoint, complete in (("d" * 64, True), ("e" * 64, False)):
            store.add(
                Accuracy(
                    checkpoint=checkpoint,
                    subnet=SUBNET.to_json(),
                    precision="float",
                    data="dev",
                    rows=8,
                    complete=complete,
                    accuracy=0.75,
                    correct=b"\x3f",
                )
            )
        store.history("quick", {"seed": 3}).append({"x": 1})


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """(exit code, stdout, stderr) of `atb store ...` in a folder with the default store."""
    monkeypatch.chdir(tmp_path)
    fill(Path("runs/store.sqlite"))

    def store(*arguments: object) -> tuple[int, str, str]:
        code = run(["store", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return store


def test_ls_shows_targets_and_the_newest_measurements(ask: Ask) -> None:
    code, out, _ = ask("ls")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("runs/store.sqlite  0.")
    assert "4 measurements of 4 graphs, 1 failure, 2 accuracies, 1 search" in lines[0]
    assert any(x.split() == [TARGET, "0123456789ab", "3", "3", "1"] for x in lines)
    (newest,) = [x for x in lines if "3.250 [3.125, 3.500]" in x]
    assert newest.startswith("2026-03-01T12:00:02  000000000000  2L-128 [")
    assert "openvino 2026.4.1" in newest


def test_ls_filters_and_counts(ask: Ask) -> None:
    code, out, _ = ask("ls", "--target", TARGET, "--limit", 2, "--json")
    assert code == 0
    document = json.loads(out.splitlines()[-1])
    assert [x["ms"] for x in document["measurements"]] == [3.25, 2.25]
    assert "report" not in document["measurements"][0]
    assert document["summary"]["measurements"] == 4
    _, out, _ = ask("ls", "--target", "none", "--json")
    assert json.loads(out.splitlines()[-1])["measurements"] == []
    _, out, _ = ask("ls", "--hardware", "0123456789ab", "--json")
    assert len(json.loads(out.splitlines()[-1])["measurements"]) == 4


@pytest.mark.parametrize(
    ("what", "shown", "rows"),
    [
        ("failures", "no kernel [31m for it", 1),
        ("accuracies", "8 (stopped)", 2),
        ("searches", "quick", 1),
    ],
)
def test_ls_shows_the_other_kinds(ask: Ask, what: str, shown: str, rows: int) -> None:
    code, out, _ = ask("ls", f"--{what}", "--json")
    assert code == 0
    assert shown in out
    assert "\x1b" not in out
    document = json.loads(out.splitlines()[-1])
    assert len(document[what]) == rows
    assert set(document) == {"store", "summary", what}


def test_a_store_travels_as_lines_or_as_a_file(ask: Ask, tmp_path: Path) -> None:
    for name in ("out.jsonl", "out.sqlite"):
        code, out, _ = ask("export", name, "--json")
        assert code == 0
        assert json.loads(out.splitlines()[-1])["rows"] == {"measurement": 4, "failure": 1, "accuracy": 2, "search": 1}
        code, _, err = ask("export", name)
        assert code == 1
        assert f"error: {name} exists already" in err
    with Store.open(tmp_path / "colleague.sqlite") as store:
        store.add(measurement(0, hardware="ba9876543210"), measurement(0))
    code, out, _ = ask("merge", "out.jsonl", "out.sqlite", "colleague.sqlite", "--store", "new.sqlite", "--json")
    assert code == 0
    merged = json.loads(out.splitlines()[-1])["merged"]
    assert merged["out.jsonl"]["measurement"] == {"added": 4, "skipped": 0}
    assert merged["out.sqlite"]["measurement"] == {"added": 0, "skipped": 4}
    assert merged["colleague.sqlite"]["measurement"] == {"added": 1, "skipped": 1}
    assert any(x.split() == ["colleague.sqlite", "measurement", "1", "1"] for x in out.splitlines())


def test_gc_says_what_would_go_and_then_does_it(ask: Ask) -> None:
    options = ["--failures-older-than", 1, "--checkpoint", "d" * 64, "--drop-search", "quick", "--keep", 1, "--json"]
    expected = {"damaged": 0, "measurements": 0, "failures": 1, "accuracies": 1, "searches": 1}
    for more in (["--dry-run"], [], []):
        code, out, err = ask("gc", *options, *more)
        if more or code == 0:
            assert json.loads(out.splitlines()[-1])["removed"] == expected
            assert json.loads(out.splitlines()[-1])["dry_run"] == bool(more)
            assert ("would go" in out) == bool(more)
    assert code == 1
    assert "no search 'quick' to drop" in err
    _, out, _ = ask("ls", "--json")
    assert json.loads(out.splitlines()[-1])["summary"]["accuracies"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["ls", "--store", "none.sqlite"], 1, "error: there is no store at none.sqlite"),
        (["export", "x.jsonl", "--store", "none.sqlite"], 1, "error: there is no store at none.sqlite"),
        (["gc", "--store", "none.sqlite"], 1, "error: there is no store at none.sqlite"),
        (["merge", "none.jsonl"], 1, "error: there is no store or export at none.jsonl"),
        (["merge"], 2, "Missing argument"),
        (["ls", "--searches", "--target", "x"], 2, "leave --target and --hardware out"),
        (["gc", "--failures-older-than", "1e9"], 2, "name fewer"),
        (["gc", "--failures-older-than", "nan"], 2, "name fewer"),
        (["gc", "--keep", "0"], 2, "keep"),
        (["ls", "--limit", "0"], 2, "limit"),
    ],
)
def test_what_cannot_be_done_is_told(ask: Ask, arguments: list[str], code: int, text: str) -> None:
    found, _, err = ask(*arguments)
    assert found == code
    assert text in err
    assert "Traceback" not in err
    assert not Path("none.sqlite").exists()


@pytest.mark.parametrize("command", ["ls", "export", "merge", "gc"])
def test_every_command_has_help_with_an_example_and_json(command: str) -> None:
    done = CliRunner().invoke(store_command, [command, "--help"])
    assert done.exit_code == 0
    assert "Example:" in done.output
    assert f"atb store {command}" in done.output
    assert "--json" in done.output
    assert "runs/store.sqlite" in done.output


def test_it_needs_neither_torch_nor_onnx(tmp_path: Path) -> None:
    fill(tmp_path / "runs" / "store.sqlite")
    script = (
        "import sys; from atb_export.cli.main import run; code = run(['store', 'ls', '--json'])\n"
        "heavy = {'torch', 'onnx', 'transformers', 'openvino', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(code or (str(heavy) if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["summary"]["measurements"] == 4
