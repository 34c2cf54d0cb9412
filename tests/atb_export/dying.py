"""A program for tests: `python dying.py RECIPE POINT...` runs `atb run RECIPE --resume` once per point, each time
in a process of its own that dies there by a real signal, and prints how each ended as one JSON line.

Latencies are a function of the graph, so that two searches can be compared; everything else is real.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import atb_export.measuring
import atb_export.packing
import atb_export.result
import atb_export.teachers
import atb_export.work
import runtime.measure
import search.store
import supernet.checkpoint
import supernet.teacher
import supernet.training
from atb_export.cli.main import run
from runtime.engine import backend
from runtime.measure import MeasurePlan


def made_up_latencies() -> None:
    """Engines carry the cost of their graph, which is its size; a measurement reads it."""
    compiler = type(backend("openvino"))
    real_open, real_measure = compiler.open, runtime.measure.measure

    def open_engine(self: Any, onnx: Any, target: Any) -> Any:
        engine = real_open(self, onnx, target)
        engine.cost_ms = (onnx.stat().st_size if isinstance(onnx, Path) else len(onnx)) / 1e5
        return engine

    def measure(engines: Any, feeds: Any, *, reference: str, plan: Any) -> Any:
        short = MeasurePlan(windows=2, window_ms=0.1, max_repeats=0, max_warmups=2, warmup_runs=1, min_runs=1)
        beside = getattr(engines[reference], "cost_ms", 1.0)
        found = {}
        for name, report in real_measure(engines, feeds, reference=reference, plan=short).items():
            found[name] = replace(
                report,
                samples_ms=(getattr(engines[name], "cost_ms", 1.0),) * len(report.samples_ms),
                reference_samples_ms=(beside,) * len(report.reference_samples_ms),
            )
        return found

    compiler.open = open_engine  # type: ignore[method-assign]
    atb_export.work.measure = atb_export.measuring.measure = measure
    # The teacher's few steps need checkpoints too.
    atb_export.teachers.TrainPlan = functools.partial(supernet.training.TrainPlan, checkpoint_every=40)


def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def after_checkpoint(stage: str, count: int) -> None:
    """Dies when the stage's checkpoint was written for the `count`-th time."""
    real, seen = supernet.training.save_training, iter(range(1, 1000))

    def save(path: Path, *arguments: Any, **more: Any) -> None:
        real(path, *arguments, **more)
        if path.parent.name == stage and next(seen) == count:
            die()

    supernet.training.save_training = save


def amid_checkpoint(stage: str, count: int) -> None:
    """Dies when half of the stage's checkpoint is on disk."""
    real, seen = supernet.checkpoint.save_file, iter(range(1, 1000))

    def save(tensors: Any, path: Path, **more: Any) -> None:
        real(tensors, path, **more)
        if path.parent.name == stage and "training" in path.name and next(seen) == count:
            os.truncate(path, path.stat().st_size // 2)
            die()

    supernet.checkpoint.save_file = save


def amid_record(count: int) -> None:
    """Dies when an evaluation is written but not committed."""
    real = search.store.History.append

    def append(self: Any, candidate: Any) -> None:
        if len(self) == count:
            self._connection.execute("BEGIN IMMEDIATE")
            row = (self.search, count, json.dumps(candidate))
            self._connection.execute("INSERT INTO evaluations (search, position, candidate) VALUES (?, ?, ?)", row)
            die()
        real(self, candidate)

    search.store.History.append = append


def before_manifest() -> None:
    """Dies in a bundle that has all its files but the manifest."""
    atb_export.packing.write_manifest = lambda *_: die()


def before_publishing() -> None:
    """Dies with everything done but nothing shown."""
    atb_export.result.write_json = lambda *_: die()


def interrupted(number: int, steps: int) -> None:
    """Ctrl-C (or a polite kill) in the middle of the teacher's training."""
    real, seen = supernet.teacher.hard_label, iter(range(1, 1000))

    def loss(*arguments: Any) -> Any:
        if next(seen) == steps:
            die(number)
        return real(*arguments)

    supernet.teacher.hard_label = loss


POINTS = {
    "teacher": lambda: after_checkpoint("teacher", 2),
    "supernet": lambda: amid_checkpoint("supernet-supernet", 2),
    "search": lambda: amid_record(3),
    "distill": lambda: after_checkpoint("winner-distill", 1),
    "bundle": before_manifest,
    "publish": before_publishing,
    "interrupt": lambda: interrupted(signal.SIGINT, 20),
    "finish": lambda: None,
}


def attempt(recipe: str, point: str) -> dict[str, Any]:
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = 99
            try:
                made_up_latencies()
                POINTS[point]()
                code = run(["run", recipe, "--resume", "--threads", "1"])
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        said.seek(0)
        return {"code": os.waitstatus_to_exitcode(status), "err": said.read().decode()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(json.dumps([attempt(sys.argv[1], point) for point in sys.argv[2:]]))
