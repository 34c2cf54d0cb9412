"""Model on disk to verified bundle for OpenVINO, against `optimum-cli export openvino`, which verifies nothing.

    .venv/bin/python benchmarks/engines/export_time.py --optimum-python PY [--quick]    1 to 3 minutes

Whole processes, from the shell's view, in turns: `atb export MODEL --target openvino --out BUNDLE` and
`optimum-cli export openvino --model MODEL --task text-classification OUT`. The first turn also fills the disk's caches
and does not count. PY is an interpreter with optimum-intel; without it only our own time is told. The model is a
stock classifier of the sizes of all-MiniLM-L6-v2, written here with random weights unless --model names another.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from common import finish, table, target
from models import stock_classifier

from runtime.environment import environment


def seconds_of(command: list[str]) -> float:
    """Of a whole process; raises with the end of what it said where it fails."""
    begun = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    spent = time.perf_counter() - begun
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:4])} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return spent


def main() -> int:
    """Exit code 0 where the target is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 turns instead of 7")
    parser.add_argument("--optimum-python", help="an interpreter that has optimum-intel")
    parser.add_argument("--model", type=Path, help="a folder with a stock BERT classifier")
    options = parser.parse_args()
    spent: dict[str, list[float]] = {"atb export": [], "optimum-cli": []}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or stock_classifier(folder / "model")
        commands: dict[str, Callable[[Path], list[str]]] = {"atb export": lambda out: ours(model, out)}
        if options.optimum_python is None:
            skipped["optimum-cli"] = "give an interpreter that has optimum-intel with --optimum-python"
        else:
            commands["optimum-cli"] = lambda out: theirs(Path(options.optimum_python), model, out)
        for turn in range(1 + (3 if options.quick else 7)):
            for label, command in commands.items():
                out = folder / f"{label.replace(' ', '-')}-{turn}"
                took = seconds_of(command(out))
                if turn:
                    spent[label].append(took)
                shutil.rmtree(out)
    rows: list[list[object]] = [
        [label, f"{median(times):.2f}", f"{min(times):.2f}", f"{max(times):.2f}"]
        for label, times in spent.items()
        if times
    ]
    print("\nseconds of a whole process, model on disk to files that OpenVINO opens; ours are verified\n")
    table(["", "median", "least", "most"], rows)
    for label, reason in skipped.items():
        print(f"{label} is left out: {reason}")
    ratio = None
    if spent["optimum-cli"]:
        ratio = median(spent["atb export"]) / median(spent["optimum-cli"])
    document: dict[str, Any] = {"seconds": spent, "skipped": skipped, "environment": environment()}
    return finish("engines/export_time", [target("of_optimum_cli", ratio, "<=", 1.0)], quick=options.quick, **document)


def ours(model: Path, out: Path) -> list[str]:
    """`atb` of this environment."""
    return [str(Path(sys.executable).with_name("atb")), "export", str(model), "--target", "openvino", "--out", str(out)]


def theirs(python: Path, model: Path, out: Path) -> list[str]:
    """`optimum-cli` of the other."""
    cli = python.with_name("optimum-cli")
    return [str(cli), "export", "openvino", "--model", str(model), "--task", "text-classification", str(out)]


if __name__ == "__main__":
    sys.exit(main())
