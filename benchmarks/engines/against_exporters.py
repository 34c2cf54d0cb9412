"""Our graph against the exporters people use: same dense weights, precision, threads and static shapes.

    .venv/bin/python benchmarks/engines/against_exporters.py --optimum-python PY    about 25 minutes on 2 quiet cores
    .venv/bin/python benchmarks/engines/against_exporters.py --quick                lengths 16 and 128, about 4 minutes

Every engine of a row of the table is timed in one interleaved run, a window of ours before and after each window of a
rival's, once its logits were held against torch in float32. A figure is rival's time / our time: above 1 we are faster.
"best" is the fastest rival of that row. The attention of `transformers` has two forms, which exporters carry through:
both are rivals, as the slower one, its default, would flatter us. PY is an interpreter with optimum-intel, which may
want another version of transformers than ours; without it that rival is left out. torch.compile takes 10 to 40 s a
shape, so it takes part at length 64 (128 with --quick) and batch 1 unless --compile all.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np
import torch
from common import BASE, TINY, feeds, finish, net_of, table, target
from rivals import Rivals, TorchEngine, UnfitError, quiet, taken

from atb_export.graphs import graph_for
from runtime.backends.openvino import BACKEND as OPENVINO
from runtime.environment import environment
from runtime.measure import MeasurePlan, measure
from runtime.target import EngineTarget, Shape
from supernet.cost import flops

OURS = "ours"
BASELINE = "BERT-base torch eager"
# Relative to the largest logit. bf16 has 8 bits, and these weights are random: it only has to be the same function.
TOLERANCE = {"f32": 1e-3, "bf16": 0.1}
PLAN = MeasurePlan(windows=8, window_ms=15.0, min_runs=3, max_repeats=6, warmup_runs=3, max_warmups=10)
QUICK = MeasurePlan(windows=4, window_ms=10.0, min_runs=2, max_repeats=3, warmup_runs=2, max_warmups=6)


def rows(options: argparse.Namespace) -> list[tuple[str, Shape, int]]:
    """Precision, shape and threads of every run."""
    batches = [Shape(batch=1, length=n) for n in ((16, 128) if options.quick else (16, 32, 64, 128))]
    batches += [Shape(batch=8, length=64)]
    return [(p, shape, t) for p in options.precisions for t in options.threads for shape in batches]


class Run:
    """All rows of one net."""

    def __init__(self, name: str, rivals: Rivals, options: argparse.Namespace, base: Any) -> None:
        self.name, self.rivals, self.options, self.base = name, rivals, options, base
        self.skipped: dict[str, str] = {}

    def row(self, precision: str, shape: Shape, threads: int) -> dict[str, Any]:
        """One interleaved run: milliseconds of ours, and what the rivals take for each of ours."""
        asked = EngineTarget(backend="openvino", precision=precision, shape=shape, threads=threads)  # type: ignore[arg-type]
        torch.set_num_threads(threads)
        given = feeds(shape.batch, shape.length, padded=shape.batch > 1)
        wanted = self._exact(given)
        shipped = graph_for(self.rivals.net, None, asked, token_types=False)
        with ExitStack() as stack:
            engines = {OURS: stack.enter_context(OPENVINO.open(shipped, asked))}
            for rival, opener in self.rivals.openers().items():
                if rival == "torch.compile" and not self._compiles(shape, threads):
                    continue
                try:
                    with quiet():
                        engine = stack.enter_context(opener(asked))
                        engine.infer(taken(engine, given))
                    engines[rival] = engine
                except UnfitError as error:
                    self.skipped[rival] = str(error)
                except Exception as error:
                    self.skipped[rival] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            worst = {name: self._error(engine, given, wanted) for name, engine in engines.items()}
            if wrong := [name for name, x in worst.items() if not x <= TOLERANCE[precision]]:
                raise RuntimeError(f"{self.name} {asked.label}: {wrong[0]} is off by {worst[wrong[0]]:.2g} of a logit")
            if self.base is not None and (shape.batch == 1 or not self.options.quick):
                engines[BASELINE] = TorchEngine(self.base.model(precision), asked, compiled=False)
            reports = measure(
                engines,
                {name: taken(engine, given) for name, engine in engines.items()},
                reference=OURS,
                plan=QUICK if self.options.quick else PLAN,
            )
        gc.collect()
        return {
            "net": self.name,
            "precision": precision,
            "batch": shape.batch,
            "length": shape.length,
            "threads": threads,
            "ours_ms": reports[OURS].quantile_ms(0.25),
            "rivals": {name: reports[name].ratio_to_reference for name in engines if name != OURS},
            "error": worst,
        }

    def _compiles(self, shape: Shape, threads: int) -> bool:
        if self.options.compile == "all":
            return True
        length = 128 if self.options.quick else 64
        tiny = self.name in (("KD-S4",) if self.options.quick else TINY)
        return self.options.compile == "some" and tiny and shape.batch == 1 and shape.length == length and threads == 1

    @torch.inference_mode()
    def _exact(self, given: Any) -> Any:
        ids, mask = (torch.from_numpy(given[name]) for name in ("input_ids", "attention_mask"))
        return self.rivals.net(ids, mask).logits.numpy()

    @staticmethod
    def _error(engine: Any, given: Any, wanted: Any) -> float:
        found = engine.infer(taken(engine, given))
        logits = next(iter(found.values()))
        return float(np.abs(logits - wanted).max() / np.abs(wanted).max())


def best(row: dict[str, Any]) -> tuple[str, float] | None:
    """The fastest rival and its ratio; BERT-base is none."""
    found = {name: x for name, x in row["rivals"].items() if name != BASELINE}
    return min(found.items(), key=lambda x: x[1]) if found else None


def mean(values: Sequence[float]) -> float | None:
    """Geometric; None of nothing."""
    return geometric_mean(values) if values else None


def flop_bound(name: str, shape: Shape) -> float:
    """What an exporter's products with weights and between tokens cost, over ours, by arithmetic."""
    subnet = TINY[name]
    n, whole = subnet.hidden_size, 0
    for layer in subnet.layers:
        q, f = layer.qkv_size, layer.ffn_size
        whole += 2 * shape.length * (4 * n * q + 2 * shape.length * q + 2 * n * f * layer.ffn_stack)
    whole += 2 * n * n + 2 * n * 2
    return whole * shape.batch / flops(subnet, length=shape.length, batch=shape.batch)


def main() -> int:
    """Exit code 0 where all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer lengths and shorter windows")
    parser.add_argument("--optimum-python", help="an interpreter that has optimum-intel")
    parser.add_argument("--precisions", nargs="+", default=["bf16", "f32"], choices=["bf16", "f32"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--nets", nargs="+", choices=[*TINY, *BASE], help="by default all; with --quick the tiny ones")
    parser.add_argument("--compile", default="some", choices=["none", "some", "all"], help="rows of torch.compile")
    options = parser.parse_args()
    options.nets = options.nets or [*TINY, *([] if options.quick else BASE)]
    found: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = Rivals(net_of(BASE["BERT-base"]), Path(folder) / "BERT-base", optimum_python=options.optimum_python)
        for name in options.nets:
            rivals = base
            if name in TINY:
                rivals = Rivals(net_of(TINY[name]), Path(folder) / name, optimum_python=options.optimum_python)
            run = Run(name, rivals, options, base if name == "KD-S4" else None)
            for precision, shape, threads in rows(options):
                found.append(run.row(precision, shape, threads))
                print(".", end="", flush=True, file=sys.stderr)
            skipped |= run.skipped
            versions |= rivals.versions
            torch.compiler.reset()
    print(file=sys.stderr)
    return tell(found, skipped, versions, options)


def tell(
    found: list[dict[str, Any]], skipped: dict[str, str], versions: dict[str, str], options: argparse.Namespace
) -> int:
    """The tables, the targets, the document."""
    names = list(dict.fromkeys(name for row in found for name in row["rivals"] if name != BASELINE))
    lines: list[list[object]] = []
    for row in found:
        fastest = best(row)
        cells = [f"{row['rivals'][name]:.2f}" if name in row["rivals"] else "-" for name in names]
        what = f"{row['net']} {row['precision']} {row['batch']}x{row['length']} {row['threads']}t"
        lines.append([what, f"{row['ours_ms']:.3f}", *cells, "-" if fastest is None else f"{fastest[1]:.3f}"])
    print("\nrival's time / ours, per row one interleaved run; ms are ours\n")
    table(["net, precision, batch x length, threads", "ms", *names, "best"], lines)
    for name, reason in skipped.items():
        print(f"{name} takes no part everywhere: {reason}")
    tiny = [row for row in found if row["net"] in TINY]
    ratios = {id(row): fastest[1] for row in tiny if (fastest := best(row)) is not None}
    bounds = {id(row): flop_bound(row["net"], Shape(batch=row["batch"], length=row["length"])) for row in tiny}
    print("\ngeometric means over the tiny nets; FLOPs: the exporters' multiplications / ours, by arithmetic\n")
    groups: list[list[object]] = []
    for label, key in (("net", "net"), ("precision", "precision"), ("threads", "threads"), ("length", "length")):
        for value in dict.fromkeys(row[key] for row in tiny):
            part = [row for row in tiny if row[key] == value and id(row) in ratios]
            if part:
                cells = [
                    "-" if (x := mean([row["rivals"][name] for row in part if name in row["rivals"]])) is None else x
                    for name in names
                ]
                own = [ratios[id(row)] for row in part]
                bound = mean([bounds[id(row)] for row in part])
                groups.append([f"{label} {value}", *cells, mean(own) or math.nan, min(own), bound])
    table(["", *names, "best", "least", "FLOPs"], groups)
    eager = [row["rivals"][BASELINE] for row in found if BASELINE in row["rivals"]]
    wanted = [
        target("faster_than_best_exporter", mean(list(ratios.values())), ">=", 1.35),
        target("never_slower_than", min(ratios.values(), default=None), ">=", 0.97),
    ]
    if eager or "KD-S4" in options.nets:
        wanted.append(target("kd_s4_against_bert_base_eager", mean(eager), ">=", 15))
    return finish(
        "engines/against_exporters",
        wanted,
        quick=options.quick,
        rows=found,
        flops_alone=mean(list(bounds.values())),
        skipped=skipped,
        versions=versions,
        environment=environment(),
    )


if __name__ == "__main__":
    sys.exit(main())
