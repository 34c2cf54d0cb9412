"""Law 5 on whole runs: what is killed and resumed ends where an uninterrupted run ends."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from runtime.files import sha256_of
from runtime.manifest import read_bundle

KILLED = ["teacher", "supernet", "search", "distill", "bundle", "publish"]


def attempts(cwd: Path, *points: str) -> list[dict[str, Any]]:
    """Each point as `dying.py` describes it, one after the other in the same output folder."""
    program = Path(__file__).with_name("dying.py")
    done = subprocess.run(
        [sys.executable, str(program), "tiny.toml", *points], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def killed(
    tiny_recipe: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """Interrupted by Ctrl-C, then killed once in every stage, each time resumed, and finished at last."""
    cwd = tmp_path_factory.mktemp("killed")
    (cwd / "tiny.toml").write_text(tiny_recipe())
    return cwd, attempts(cwd, "interrupt", *KILLED, "finish")


def test_ctrl_c_is_told_with_130_and_no_traceback(killed: tuple[Path, list[dict[str, Any]]]) -> None:
    first = killed[1][0]
    assert first["code"] == 130
    assert "Traceback" not in first["err"]
    assert "interrupted; what was finished is kept, add --resume to continue" in first["err"]


def test_every_kill_was_one_and_the_end_is_clean(killed: tuple[Path, list[dict[str, Any]]]) -> None:
    cwd, ends = killed
    assert [x["code"] for x in ends[1:-1]] == [-signal.SIGKILL] * len(KILLED)
    assert ends[-1]["code"] == 0, ends[-1]["err"]
    read_bundle(cwd / "out/bundle")
    assert [x.name for x in (cwd / "out").iterdir() if x.name.startswith(".")] == [".lock"]


def test_nothing_half_written_stays(killed: tuple[Path, list[dict[str, Any]]]) -> None:
    stages = killed[0] / "out/stages"
    assert [x.relative_to(stages) for x in stages.rglob("*") if x.name.startswith(".") or "partial" in x.name] == []


def test_law_5_the_same_weights_and_the_same_front(
    killed: tuple[Path, list[dict[str, Any]]], tiny_run: Any, tmp_path: Path
) -> None:
    """Teacher and supernet are those of the uninterrupted run; so are the rest of one with the same latencies."""
    cwd = killed[0]
    whole = tiny_run.copy(tmp_path)
    for name in ("search", "winner", "bundle-winner", "benchmark"):
        shutil.rmtree(whole.stage(name))
    (whole.cwd / "store.sqlite").unlink()  # its measurements are real ones
    (end,) = attempts(whole.cwd, "finish")
    assert end["code"] == 0, end["err"]
    for file in (
        "teacher/model/model.safetensors",
        "ordered/task.safetensors",
        "supernet/supernet.safetensors",
        "winner/dense.safetensors",
        "bundle-winner/bundle/model.onnx",
    ):
        one, other = (x / "out/stages" / file for x in (cwd, whole.cwd))
        if file.endswith(".safetensors"):
            a, b = load_file(one), load_file(other)
            assert set(a) == set(b)
            different = [name for name in a if not a[name].equal(b[name])]
            assert different == [], file
        else:
            assert sha256_of(one) == sha256_of(other), file
    results = [json.loads((x / "out/result.json").read_text()) for x in (cwd, whole.cwd)]
    for x in (y for result in results for y in result["candidates"]):
        del x["seconds"]
    for key in ("candidates", "spearman_flops_latency", "flops_choice", "constraint", "paired", "parity", "task"):
        assert results[0][key] == results[1][key], key
    for model in ("teacher", "winner"):
        assert results[0][model]["accuracy"] == results[1][model]["accuracy"]


def test_a_corrupt_checkpoint_is_told_and_nothing_else_is_lost(tiny_run: Any, atb: Any, tmp_path: Path) -> None:
    """The stage is named; once its folder is deleted, as the message says, the run goes on and ends."""
    run = tiny_run.copy(tmp_path)
    path = run.stage("winner") / "dense.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 16
    path.write_bytes(data)
    before = sha256_of(run.stage("teacher") / "done.json")
    text = atb("run", run.recipe, "--resume", "--threads", 1, cwd=run.cwd).refusal
    assert "dense.safetensors changed since it was written. Delete " in text
    shutil.rmtree(run.stage("winner"))
    assert atb("run", run.recipe, "--resume", "--threads", 1, cwd=run.cwd).code == 0
    assert sha256_of(run.stage("teacher") / "done.json") == before
    assert read_bundle(run.bundle).manifest.parents == read_bundle(tiny_run.bundle).manifest.parents


@pytest.mark.parametrize("damage", ["truncated", "empty", "not safetensors"])
def test_a_damaged_training_checkpoint_is_told(tiny_run: Any, atb: Any, tmp_path: Path, damage: str) -> None:
    run = tiny_run.copy(tmp_path)
    shutil.rmtree(run.stage("winner"))
    folder = run.stage("winner-distill")
    (folder / "done.json").unlink()
    data = (folder / "net.safetensors").read_bytes()
    torn = {"truncated": data[: len(data) // 2], "empty": b"", "not safetensors": b"hello" * 100}[damage]
    (folder / "training.safetensors").write_bytes(torn)
    text = atb("run", run.recipe, "--resume", "--threads", 1, cwd=run.cwd).refusal
    assert "training.safetensors is not a readable checkpoint" in text
    assert "Delete it and resume" in text
    (folder / "training.safetensors").unlink()
    assert atb("search", run.recipe, "--resume", "--threads", 1, cwd=run.cwd).code == 0


def test_a_space_that_the_teacher_has_no_room_for(tiny_recipe: Callable[..., str], atb: Any, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(tiny_recipe(space__ffn_sizes=[32, 4096], teacher__epochs=0))
    text = atb("train", "r.toml", "--threads", 1, cwd=tmp_path).refusal
    assert "does not fit in the teacher: hidden size 32, 4 heads of 8, feed-forward 64" in text
    (tmp_path / "r.toml").write_text(tiny_recipe(space__depths=[2, 9], teacher__epochs=0))
    text = atb("train", "r.toml", "--resume", "--threads", 1, cwd=tmp_path).refusal
    assert "the teacher has 4 layers, so depths are 1 to 4" in text
