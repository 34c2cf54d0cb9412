"""`atb distill` in two processes over gloo, that a launcher starts: what they train, how they end, how they go on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from atb_export.cli.main import run

LAUNCHER = Path(__file__).with_name("launcher.py")
STUDENT = {"depth": 2, "hidden_size": 24, "heads": 4, "ffn_size": 40}
# AdamW divides a gradient by its size, so that the rounding of one that is nearly 0 shows; a step moves by 1e-3.
ROUNDING = 2e-4


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Callable[..., str], tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Writes a recipe by name, whose output lies beside it. Its teacher has no dropout, which parts of a batch draw
    each for themselves."""
    folder = tmp_path_factory.mktemp("launched")
    shutil.copytree(tiny_teacher, folder / "teacher")
    config = json.loads((folder / "teacher" / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "teacher" / "config.json").write_text(json.dumps(config))
    (folder / "text.txt").write_text("".join(f"the plot of this film was quite number {i}\n" for i in range(60)))

    def build(name: str, student: dict[str, Any] | None = None, **changes: Any) -> Path:
        sections = {"student": STUDENT | (student or {}), "engine": {"mixed_precision": "no"}}
        sections["transfer"] = {"path": str(folder / "text.txt"), "min_words": 1, "confidence_quantile": 0.3}
        changes = {"teacher__epochs": 1, "teacher__model": str(folder / "teacher"), "output": name} | changes
        text = tiny_recipe(**changes)
        for title, values in sections.items():
            text += f"\n[{title}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        path = folder / f"{name}.toml"
        path.write_text(text)
        return path

    return build


@pytest.fixture(scope="module")
def launches(recipe: Any) -> dict[str, dict[str, Any]]:
    """Two processes each: one run straight, one killed, that resumed, and a student that cannot be cut."""
    straight, killed = recipe("straight"), recipe("killed")
    wrong = recipe("wrong", {"depth": 5, "layers": "important"}, output="straight")
    plan = {
        "straight": ["0", "distill", straight, "--json"],
        "killed": ["8", "distill", killed],
        "resumed": ["0", "distill", killed, "--resume"],
        "wrong": ["0", "distill", wrong, "--resume"],
        "read": ["0", "distill", straight, "--resume"],
    }
    arguments = [x for die_at, *command in plan.values() for x in ("--", die_at, "--", *command, "--threads", "1")]
    found = subprocess.run(
        [sys.executable, str(LAUNCHER), "2", *map(str, arguments[1:])],
        stdout=subprocess.PIPE,
        text=True,
        timeout=200,
        cwd=straight.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
    )
    return dict(zip(plan, map(json.loads, found.stdout.splitlines()), strict=True))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "stages").glob("student-3/dense.safetensors")))


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def test_two_processes_teach_what_one_does_with_batches_twice_as_large(
    recipe: Any, launches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert launches["straight"]["codes"] == [0, 0], launches["straight"]["err"]
    path = recipe("alone", teacher__batch_size=32, distill__batch_size=32)
    monkeypatch.chdir(path.parent)
    threads = torch.get_num_threads()
    try:
        assert run(["distill", str(path), "--threads", "1"]) == 0
    finally:
        torch.set_num_threads(threads)
    alone, both = (weights(path.parent / name) for name in ("alone", "straight"))
    assert apart(both, alone) < ROUNDING
    teachers = [load_file(path.parent / x / "stages/teacher/model/model.safetensors") for x in ("alone", "straight")]
    assert apart(*teachers) < ROUNDING


def test_the_first_process_speaks_alone(launches: Any) -> None:
    for name in ("straight", "resumed", "read"):
        assert launches[name]["codes"] == [0, 0], launches[name]["err"]
        assert "accuracy on 80 test rows" in launches[name]["out"][0]
        assert (launches[name]["out"][1], launches[name]["err"][1]) == ("", "")
    assert json.loads(launches["straight"]["out"][0].splitlines()[-1])["student"]["model_seed"] == 3
    assert "student-3: distill" in launches["straight"]["err"][0]
    assert "teacher:" not in launches["resumed"]["err"][0]
    assert "student-3" not in launches["read"]["err"][0]


def test_law_5_two_processes_killed_and_launched_again(recipe: Any, launches: Any) -> None:
    first, second = launches["killed"]["codes"]
    assert first == -9
    assert second != 0
    folder = recipe("straight").parent
    assert apart(weights(folder / "straight"), weights(folder / "killed")) == 0
    assert not list((folder / "killed").rglob("training.safetensors"))


def test_a_late_error_ends_all_and_is_told_once(launches: Any) -> None:
    found = launches["wrong"]
    assert found["codes"] == [1, 1]
    assert "".join(found["err"]).count("the student has 5 layers and its teacher 4") == 1
    assert "".join(found["err"]).count("error: ") == 1
    assert "Traceback" not in "".join(found["err"])
    assert found["out"] == ["", ""]


def test_one_process_goes_on_with_all_but_the_training(
    recipe: Any, launches: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe("straight")
    monkeypatch.chdir(path.parent)
    before = weights(path.parent / "straight")
    assert run(["distill", str(path), "--resume", "--threads", str(torch.get_num_threads())]) == 0
    assert "student-3" not in capsys.readouterr().err
    other = recipe("other", {"depth": 1}, output="straight")
    assert run(["distill", str(other), "--resume", "--threads", str(torch.get_num_threads())]) == 1
    told = capsys.readouterr().err
    assert "begun by 2 process(es) and goes on in 1" in told
    assert "Train it with 2, or choose another output" in told
    assert apart(before, weights(path.parent / "straight")) == 0
