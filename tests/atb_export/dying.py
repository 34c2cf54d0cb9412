"""A program for tests: `python dying.py RECIPE POINT...` runs `atb run RECIPE --resume` once per point, each time
in a process of its own that dies there by a real signal, and prints how each ended as one JSON line.

Latencies are a function of the subnet, so that two searches can be compared; everything else is real.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import atb_export.measuring
import atb_export.packing
import atb_export.result
import atb_export.searching
import atb_export.stages
import search.record
import supernet.checkpoint
import supernet.teacher
import supernet.training
from atb_export.cli.main import run
from runtime.latency import LatencyReport


def made_up_latencies() -> None:
    """Engines carry the cost of their subnet; a measurement reads it."""
    real = atb_export.measuring.open_engine

    def open_engine(net: Any, target: Any, *, subnet: Any = None, pairs: bool) -> Any:
        engine = real(net, target, subnet=subnet, pairs=pairs)
        whole = subnet or net.shape
        engine.cost_ms = sum(1 + x.ffn_size / 100 + x.heads / 10 + x.head_size / 50 for x in whole.layers)
        return engine

    def measure(engines: Any, feeds: Any, *, reference: str, plan: Any) -> Any:
        def samples(engine: Any) -> tuple[float, ...]:
            return (getattr(engine, "cost_ms", 1.0),) * 4

        return {
            name: LatencyReport(
                target=engine.target.label,
                effective_precision=engine.effective_precision,
                shape=engine.target.shape,
                threads=1,
                samples_ms=samples(engine),
                windows=(2, 2),
                reference="reference",
                reference_samples_ms=samples(engines[reference]),
                reference_windows=(2, 2),
                warmup_runs=1,
                repeated_windows=0,
                disturbed_windows=0,
                environment="made up",
            )
            for name, engine in engines.items()
        }

    atb_export.measuring.open_engine = atb_export.searching.open_engine = open_engine
    atb_export.measuring.measure = measure
    # The teacher's few steps need checkpoints too.
    atb_export.stages.TrainPlan = functools.partial(supernet.training.TrainPlan, checkpoint_every=40)


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
    """Dies when half of an evaluation's line is on disk."""
    real = search.record.Record.append

    def append(self: Any, candidate: Any) -> None:
        if len(self.candidates) == count:
            with self.path.open("ab") as file:
                file.write(json.dumps(candidate.to_json()).encode()[:40])
            die()
        real(self, candidate)

    search.record.Record.append = append


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
    "supernet": lambda: amid_checkpoint("supernet", 2),
    "search": lambda: amid_record(3),
    "distill": lambda: after_checkpoint("winner", 1),
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
