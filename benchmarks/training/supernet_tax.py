"""What it costs to be one of many: one supernet against separately distilled models, at four sizes.

    .venv/bin/python benchmarks/training/supernet_tax.py            2 seeds, some 80 minutes on 2 cores, resumable
    .venv/bin/python benchmarks/training/supernet_tax.py --quick    one seed, a few percent of the steps

The separate models start as cuts of the teacher and are distilled for as long as they gain by it (LONG steps);
those of the supernet inherit from it and are distilled further for SHORT steps. `separate, short` shows what the
same short length alone makes of a cut. Cost is the time of all training but the teacher's, and, beside it, the
operations of forward and backward passes (three forward passes a student, one a teacher). Target: within 1.0 point
of the separate models on average, at less than half of their cost. Every row is kept in cells.jsonl under --work.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import Cells, finish, mean_and_deviation, opened, recipe_of, table, target

from atb_export.recipe import Recipe
from atb_export.stages import Run
from atb_export.ui import Ui
from atb_export.workspace import fingerprint_of
from runtime.environment import environment
from supernet.distillation import predict
from supernet.sampler import subnets_of
from supernet.space import SubnetConfig

SHARED_STEPS, SHORT, LONG = 1000, 300, 2500
LOSS = {"soft_label": 1.0, "hidden": 1.0, "attention": 0.1}
SPACE = {
    "depths": [2, 3, 4, 5],
    "hidden_sizes": [384],
    "heads": [4, 6, 8, 12],
    "head_sizes": [32],
    "ffn_sizes": [384, 512, 768, 1024, 1536],
}


def _cut(depth: int, heads: int, ffn: int, sources: Sequence[int]) -> SubnetConfig:
    return SubnetConfig.uniform(
        hidden_size=384, depth=depth, heads=heads, head_size=32, ffn_size=ffn, sources=list(sources)
    )


SIZES = {
    "2 layers": _cut(2, 4, 512, (1, 5)),
    "3 layers": _cut(3, 6, 768, (1, 3, 5)),
    "4 layers": _cut(4, 8, 1024, (1, 2, 3, 5)),
    "5 layers": _cut(5, 12, 1536, (0, 1, 2, 4, 5)),
}


def recipe_for(folder: Path, seed: int, *, steps: int, part: float) -> Recipe:
    """The quick start with stages, so that the supernet and the separate models have the same ordered teacher."""
    made = recipe_of(
        "quickstart",
        output=folder,
        epochs=1 if part < 1 else None,
        seed=seed,
        space=SPACE,
        constraint={"of_teacher": 0.5},
        target=[{"backend": "openvino", "length": 64}],
        supernet={"stage": [{"name": "shared", "steps": max(2, round(SHARED_STEPS * part)), "loss": LOSS}]},
        distill={"stage": [{"name": "alone", "steps": max(2, round(steps * part)), "loss": LOSS}]},
    )
    assert isinstance(made, Recipe)
    return made


def cell(kind: str, seed: int, work: Path, *, part: float) -> dict[str, Any]:
    """Accuracy at every size, the seconds and the operations of the training behind them."""
    steps = LONG if kind == "separate" else SHORT
    base, folder = work / f"supernet-{seed}", work / f"{kind.replace(', ', '-')}-{seed}"
    recipe = recipe_for(folder, seed, steps=steps, part=part)
    inherits = kind == "supernet"
    with opened(recipe, base=None if folder == base else base) as workspace:
        run = Run(recipe=recipe, workspace=workspace, ui=Ui(quiet=True))
        run.supernet_stage  # noqa: B018 - what students are cut from is beside it
        metrics, texts, labels = run.data.metrics(run.teacher.labels), run.texts("test"), run.labels("test")
        found, operations = {}, 0.0
        for name, subnet in SIZES.items():
            net = run.dense(run.student_stage(name.replace(" ", "-"), subnet, inherits=inherits)).net
            found[name] = metrics.score(predict(net, texts), labels)
            (stage,) = recipe.distill.stages()
            operations += stage.steps * stage.batch_size * (3 * run.flops(subnet) + run.flops(run.ordered.shape))
        taken = workspace.seconds
        seconds = sum(x for name, x in taken.items() if name.endswith("-alone"))
        if inherits:
            seconds += taken["supernet-shared"]
            (shared,) = recipe.supernet.stages()
            every = sum(
                run.flops(x)
                for step in range(50)
                for x in subnets_of(shared.sampler, run.space, step=step, steps=50, seed=seed)
            )
            operations += shared.steps * shared.batch_size * (3 * every / 50 + run.flops(run.ordered.shape))
        teacher = metrics.score(predict(run.ordered, texts), labels)
    return {"accuracy": found, "seconds": seconds, "operations": operations, "teacher": teacher}


def main() -> int:
    """Exit code 0 where all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, a few percent of the steps")
    parser.add_argument("--seeds", type=int, help="how many seeds")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/supernet_tax"))
    options = parser.parse_args()
    begun = time.monotonic()
    part = 0.03 if options.quick else 1.0
    seeds = range(1, 1 + (options.seeds or (1 if options.quick else 2)))
    work = options.work / ("quick" if options.quick else "full")
    cells = Cells(work / "cells.jsonl")
    kinds = ("supernet", "separate", "separate, short")
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    recipe = fingerprint_of(SPACE, LOSS, [x.to_json() for x in SIZES.values()], [SHARED_STEPS, SHORT, LONG])[:12]
    for seed in seeds:
        for kind in kinds:
            row = cells.get(
                lambda kind=kind, seed=seed: cell(kind, seed, work, part=part),
                kind=kind,
                seed=seed,
                part=part,
                recipe=recipe,
            )
            rows[kind].append(row)
    shown = [
        [
            kind,
            *(statistics.fmean(x["accuracy"][size] for x in found) for size in SIZES),
            statistics.fmean(x["seconds"] for x in found),
            statistics.fmean(x["operations"] for x in found) / 1e12,
        ]
        for kind, found in rows.items()
    ]
    print(f"\nteacher {rows['supernet'][0]['teacher']:.4f}\n")
    table(["test accuracy", *SIZES, "seconds", "TFLOP"], shown)
    pairs = list(zip(rows["supernet"], rows["separate"], strict=True))
    points = [100 * (b["accuracy"][size] - a["accuracy"][size]) for a, b in pairs for size in SIZES]
    cost, work_ratio = (statistics.fmean(a[key] / b[key] for a, b in pairs) for key in ("seconds", "operations"))
    mean, deviation = mean_and_deviation(points)
    return finish(
        "training/supernet_tax",
        [target("points_behind_separate", mean, "<=", 1.0), target("cost_of_separate", cost, "<=", 0.5)],
        quick=options.quick,
        seconds=time.monotonic() - begun,
        deviation_of_points=deviation,
        operations_of_separate=work_ratio,
        cells=cells.asked,
        environment=environment(),
    )


if __name__ == "__main__":
    sys.exit(main())
