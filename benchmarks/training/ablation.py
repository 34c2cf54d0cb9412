"""What each part of the default recipe is worth: every one removed in turn, on the quick start's data.

    .venv/bin/python benchmarks/training/ablation.py            3 seeds, a quarter of the steps: an hour, resumable
    .venv/bin/python benchmarks/training/ablation.py --part 1   the recipe's own steps; some hours
    .venv/bin/python benchmarks/training/ablation.py --quick    one seed, a few percent of steps, less text

There is no search: two subnets of the space of recipes/default.toml, a small and a middle one, are asked in every
variant, sliced from the supernet and after their further distillation. Removed are the order of importance, the choice
of text, each loss, each stage where there are several, all further distillation, and the inheritance from the supernet.
What the recipe does not have is added instead: the sandwich (for as many subnet steps), the sandwich with in-place
distillation. Every row is kept in cells.jsonl under --work.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from common import Cells, finish, mean_and_deviation, opened, table, target

from atb_export.recipe import Recipe
from atb_export.stages import Run
from atb_export.ui import Ui
from runtime.environment import environment
from runtime.files import sha256_of
from supernet.distillation import predict
from supernet.space import SubnetConfig

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "default.toml"
SUBNETS = {
    "small": SubnetConfig.uniform(hidden_size=320, depth=2, heads=4, head_size=32, ffn_size=384, sources=(1, 5)),
    "middle": SubnetConfig.uniform(hidden_size=384, depth=3, heads=6, head_size=32, ffn_size=768, sources=(1, 3, 5)),
}
PART, QUICK = 0.25, 0.03  # of the recipe's steps
Change = Callable[[dict[str, Any]], None]


def without_loss(term: str) -> Change:
    """The term is 0 wherever stages name it."""

    def change(data: dict[str, Any]) -> None:
        for section in (data["supernet"], data["distill"]):
            for part in (section, *section["stage"]):
                if term in part.get("loss", {}):
                    part["loss"] = {**part["loss"], term: 0.0}
            section["stage"] = [x for x in section["stage"] if any(x.get("loss", {"": 1}).values())]

    return change


def _sandwich(data: dict[str, Any], *, in_place: bool = False) -> None:
    """The largest, the smallest and one drawn subnet a step instead of the recipe's one: a third of the steps."""
    data["supernet"] |= {"sampler": "sandwich", "random_subnets": 1, "in_place": in_place}
    for stage in data["supernet"]["stage"]:
        stage["steps"] = max(2, round(stage["steps"] / 3))


def _unordered(data: dict[str, Any]) -> None:
    data["supernet"]["importance"] = "none"


def _all_text(data: dict[str, Any]) -> None:
    data["transfer"]["confidence_quantile"] = 0.0


def _nothing(_: dict[str, Any]) -> None:
    pass


def variants(data: dict[str, Any]) -> dict[str, tuple[Change, frozenset[str], bool]]:
    """Name -> (change of the recipe, stages skipped, whether students inherit from the supernet)."""
    none: frozenset[str] = frozenset()
    found: dict[str, tuple[Change, frozenset[str], bool]] = {
        "whole": (_nothing, none, True),
        "without importance order": (_unordered, none, True),
        "with sandwich": (_sandwich, none, True),
        "with sandwich and in-place distillation": (partial(_sandwich, in_place=True), none, True),
        "without choice of text": (_all_text, none, True),
        "without inheritance": (_nothing, none, False),
    }
    for term in ("soft_label", "hidden", "attention"):
        found[f"without {term}"] = (without_loss(term), none, True)
    stages = [x["name"] for x in data["distill"]["stage"]]
    for name in stages if len(stages) > 1 else ():
        found[f"without stage {name}"] = (_nothing, frozenset({name}), True)
    found["without further distillation"] = (_nothing, frozenset(stages), True)
    return found


def cell(name: str, seed: int, work: Path, *, part: float, quick: bool = False) -> dict[str, Any]:
    """Test accuracy of the subnets in one variant."""
    data = tomllib.loads(RECIPE.read_text())
    change, skip, inherits = variants(data)[name]
    for section in ("supernet", "distill"):
        for stage in data[section]["stage"]:
            stage["steps"] = max(2, round(stage["steps"] * part))
    if quick:
        data["teacher"]["epochs"] = 1
        data["transfer"]["limit"] = 5000  # of which the teacher is asked
    change(data)
    data["seed"] = seed
    recipe = Recipe.model_validate(data)
    base = work / f"whole-{seed}"
    folder = base if name == "whole" else work / f"{name.replace(' ', '-')}-{seed}"
    recipe = recipe.model_copy(update={"output": str(folder)})
    begun = time.monotonic()
    with opened(recipe, base=None if folder == base else base) as workspace:
        run = Run(recipe=recipe, workspace=workspace, ui=Ui(quiet=True), skip=skip)
        metrics, texts, labels = run.data.metrics(run.teacher.labels), run.texts("test"), run.labels("test")
        sliced = {x: metrics.score(predict(run.supernet, texts, subnet=y), labels) for x, y in SUBNETS.items()}
        distilled = {}
        for size, subnet in SUBNETS.items():
            net = run.dense(run.student_stage(size, subnet, inherits=inherits)).net
            distilled[size] = metrics.score(predict(net, texts), labels)
        teacher = metrics.score(predict(run.ordered, texts), labels)
    if folder != base:  # a supernet and two students for every variant and seed are some 10 GB
        shutil.rmtree(folder)
    mean = statistics.fmean(distilled.values())
    return {
        "mean": mean,
        "distilled": distilled,
        "sliced": sliced,
        "teacher": teacher,
        "seconds": time.monotonic() - begun,
    }


def main() -> int:
    """Exit code 0 where all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, a few percent of the steps")
    parser.add_argument("--variant", action="append", help="only these, beside the whole recipe")
    parser.add_argument("--seeds", type=int, help="how many seeds")
    parser.add_argument("--part", type=float, default=PART, help="of the recipe's steps")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/ablation"))
    options = parser.parse_args()
    begun = time.monotonic()
    part = QUICK if options.quick else options.part
    seeds = range(1, 1 + (options.seeds or (1 if options.quick else 3)))
    work = options.work / ("quick" if options.quick else "full")
    names = list(variants(tomllib.loads(RECIPE.read_text())))
    if options.variant and (strange := sorted(set(options.variant) - set(names))):
        parser.error(f"variants are {', '.join(names)}; got {', '.join(strange)}")
    names = [x for x in names if not options.variant or x in (*options.variant, "whole")]
    cells = Cells(work / "cells.jsonl")
    key = {"part": part, "recipe": sha256_of(RECIPE)[:12]}  # a cell of another recipe is not one of this
    for seed in seeds:
        for name in names:
            cells.get(
                lambda name=name, seed=seed: cell(name, seed, work, part=part, quick=options.quick),
                variant=name,
                seed=seed,
                **key,
            )
    rows, targets = [], []
    whole = [cells.find(variant="whole", seed=x, **key) or {} for x in seeds]
    for name in names:
        found = [cells.find(variant=name, seed=x, **key) or {} for x in seeds]
        gains = [a["mean"] - b["mean"] for a, b in zip(whole, found, strict=True)]
        gain, deviation = mean_and_deviation(gains)
        sliced = statistics.fmean(y for x in found for y in x["sliced"].values())
        rows.append([name, statistics.fmean(x["mean"] for x in found), -gain, deviation, sliced])
        if name != "whole":
            targets.append(target(f"gain_over_{name.replace(' ', '_')}", gain, ">=", -deviation))
    print(f"\nmean test accuracy of {' and '.join(SUBNETS)}; teacher {whole[0]['teacher']:.4f}\n")
    table(["variant", "distilled", "difference", "deviation", "sliced"], rows)
    return finish(
        "training/ablation",
        targets,
        quick=options.quick,
        seconds=time.monotonic() - begun,
        part=part,
        subnets={name: str(x) for name, x in SUBNETS.items()},
        cells=cells.asked,
        environment=environment(),
    )


if __name__ == "__main__":
    sys.exit(main())
