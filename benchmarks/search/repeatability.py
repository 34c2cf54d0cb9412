"""Do two runs rank the same engines the same way: an hour apart, and with a busy process beside one of them?

    .venv/bin/python benchmarks/search/repeatability.py                                 about 65 minutes, mostly waiting
    .venv/bin/python benchmarks/search/repeatability.py --only first --out runs/first.json          1 minute now, and
    .venv/bin/python benchmarks/search/repeatability.py --first runs/first.json --out runs/all.json 2 minutes later on
    .venv/bin/python benchmarks/search/repeatability.py --quick                         back to back, fewer windows

Twenty subnets whose layers differ, spread evenly over a decade of latency (0.2 to 2 ms at batch 1, length 64, one
thread), are compiled and measured three times, each time in a process of its own: on a quiet machine, on a quiet
machine again after `--gap-minutes`, and beside a process that multiplies matrices without pause. What is compared is
the ratio to the reference, as a search compares it. `noise` is the median relative difference of two runs of an engine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from outcome import finish, table, target

from atb_export.onnx.graph import graph_bytes
from atb_export.work import SEARCH_PLAN
from runtime.engine import Engine, backend
from runtime.environment import environment, environment_id
from runtime.files import write_whole
from runtime.latency import LatencyReport
from runtime.measure import MeasurePlan, measure
from runtime.target import EngineTarget, Shape
from search.statistics import spearman
from supernet.facts import ModelFacts
from supernet.model import Supernet
from supernet.space import SearchSpace
from supernet.subnet import SubnetConfig

RUNS = ("first", "second", "busy")
ENGINES, LENGTH, DECADE_MS = 20, 64, (0.2, 2.0)
FACTS = ModelFacts(vocab_size=2000, max_position_embeddings=512)
REFERENCE = SubnetConfig.uniform(hidden_size=312, depth=4, heads=12, ffn_size=1200)
SPACE = SearchSpace.of_depths(
    source_layers=6,
    depths=range(1, 7),
    hidden_sizes=tuple(range(128, 513, 4)),
    heads=tuple(range(1, 13)),
    head_sizes=tuple(range(16, 65, 4)),
    ffn_sizes=tuple(range(128, 2049, 4)),
)
BURNER = "import numpy as np; a = np.random.default_rng(0).random((1200, 1200))\nwhile True: a @ a"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
ROUGH_PLAN = MeasurePlan(windows=2, window_ms=3.0, min_runs=3, max_repeats=2, max_warmups=4)


def net_of(space: SearchSpace) -> Supernet:
    """Random weights: latency does not depend on them."""
    torch.manual_seed(0)
    return Supernet(shape=space.largest().renumbered(), facts=FACTS).eval()


def engine_target(precision: str) -> EngineTarget:
    """One engine of OpenVINO's, as the issue has it."""
    return EngineTarget(backend="openvino", precision=precision, shape=Shape(batch=1, length=LENGTH))  # type: ignore[arg-type]


def measured(
    net: Supernet, subnets: Sequence[SubnetConfig], precision: str, plan: MeasurePlan
) -> Iterator[LatencyReport]:
    """Each engine beside the reference, one after the other, as in a search."""
    asked = engine_target(precision)
    feeds = {name: np.ones((1, LENGTH), dtype=np.int64) for name in ("input_ids", "attention_mask")}

    def opened(subnet: SubnetConfig | None) -> Engine:
        shape = Supernet(shape=REFERENCE, facts=FACTS).eval() if subnet is None else net
        return backend(asked.backend).open(graph_bytes(shape, subnet), asked)

    with opened(None) as reference:
        for subnet in subnets:
            with opened(subnet) as engine:
                both = {"reference": reference, "engine": engine}
                yield measure(both, dict.fromkeys(both, feeds), reference="reference", plan=plan)["engine"]


def draw(net: Supernet, precision: str) -> list[SubnetConfig]:
    """Subnets drawn until one lies close to each of `ENGINES` latencies, evenly spread over the decade in logarithm."""
    rng, wanted = Random(f"repeatability {precision}"), np.geomspace(*DECADE_MS, ENGINES)
    pool: list[tuple[float, SubnetConfig]] = []
    while len(pool) < 150:
        subnets = [SPACE.sample(rng) for _ in range(25)]
        reports = measured(net, subnets, precision, ROUGH_PLAN)
        pool += [(x.quantile_ms(0.25), s) for x, s in zip(reports, subnets, strict=True)]
        nearest = [min(abs(np.log(ms / goal)) for ms, _ in pool) for goal in wanted]
        if max(nearest) < 0.06:
            break
    chosen: list[SubnetConfig] = []
    for goal in wanted:
        ordered = sorted(pool, key=lambda x: abs(np.log(x[0] / goal)))
        chosen.append(next(subnet for _, subnet in ordered if subnet not in chosen))
    return chosen


@contextmanager
def burner() -> Iterator[None]:
    """A process that keeps one CPU busy with matrix products as long as the context lasts."""
    process = subprocess.Popen(
        [sys.executable, "-c", BURNER], env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
    )
    try:
        time.sleep(1.0)
        if process.poll() is not None:
            raise RuntimeError(f"the busy process ended with code {process.returncode}")
        yield
    finally:
        process.kill()
        process.wait()


def one_run(subnets: dict[str, list[SubnetConfig]], plan: MeasurePlan) -> dict[str, Any]:
    """Reports of all engines by precision, and when."""
    net = net_of(SPACE)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment_id(environment()),
        "reports": {p: [x.to_json() for x in measured(net, s, p, plan)] for p, s in subnets.items()},
    }


def in_own_process(arguments: Sequence[str]) -> Any:
    """The JSON document that this script prints when called like that; another process has other memory and caches."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def ratios(run: dict[str, Any], precision: str) -> list[float]:
    """What a search compares."""
    return [LatencyReport.from_json(x).ratio_to_reference for x in run["reports"][precision]]


def judged(document: dict[str, Any]) -> tuple[list[dict[str, Any]], list[list[object]], dict[str, float]]:
    """Targets, rows of the table, and the noise, of the runs there are."""
    targets, rows, noise = [], [], {}
    runs = document["runs"]
    for precision in document["subnets"]:
        found = {name: np.array(ratios(run, precision)) for name, run in runs.items()}
        pairs = {"quiet_quiet": ("second", 0.98), "quiet_busy": ("busy", 0.95)}
        for pair, (name, wanted) in pairs.items():
            if name not in found:
                continue
            key = f"{pair}_{precision}"
            differences = np.log(found[name] / found["first"])
            noise[key] = float(np.median(np.abs(differences)))
            noise[f"shift_{key}"] = float(np.median(differences))
            value = spearman(found["first"].tolist(), found[name].tolist())
            targets.append(target(f"spearman_{key}", value, ">=", wanted))
            rows.append([key, value or 0.0, f"{noise[key]:.2%}", f"{np.abs(differences).max():.2%}"])
    return targets, rows, noise


def arguments() -> argparse.ArgumentParser:
    """What can be said on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="runs back to back, with fewer windows")
    parser.add_argument("--gap-minutes", type=float, default=60.0, help="between the first and the second run")
    parser.add_argument("--precisions", nargs="+", default=["bf16", "f32"])
    parser.add_argument("--first", type=Path, help="go on from what an earlier call wrote with --out")
    parser.add_argument("--out", type=Path, help="where the runs so far are kept")
    parser.add_argument("--only", choices=["first"], help="stop after the first run")
    parser.add_argument(
        "--one-run", type=Path, help=argparse.SUPPRESS
    )  # a run in its own process, of this file's subnets
    parser.add_argument("--draw", help=argparse.SUPPRESS)  # a precision to draw subnets for
    return parser


def minutes_since(run: dict[str, Any]) -> float:
    """Since it began."""
    return (datetime.now(UTC) - datetime.fromisoformat(run["at"])).total_seconds() / 60


def minutes_between(document: dict[str, Any]) -> float | None:
    """From the beginning of the first run to that of the second."""
    if "second" not in document["runs"]:
        return None
    first, second = (datetime.fromisoformat(document["runs"][name]["at"]) for name in ("first", "second"))
    return (second - first).total_seconds() / 60


def complete(document: dict[str, Any], options: argparse.Namespace) -> None:
    """Makes the runs that are missing; `document` is kept in a file after each."""
    kept: Path = options.out or Path("runs/repeatability.json")
    kept.parent.mkdir(parents=True, exist_ok=True)
    for name in RUNS:
        if name in document["runs"]:
            continue
        if name == "second" and not options.quick:
            wait = options.gap_minutes - minutes_since(document["runs"]["first"])
            if wait > 0:
                print(f"waiting {wait:.0f} minutes", file=sys.stderr)
                time.sleep(wait * 60)
        write_whole(kept, json.dumps(document).encode())
        with burner() if name == "busy" else nullcontext():
            document["runs"][name] = in_own_process(["--one-run", str(kept), *["--quick"] * options.quick])
        write_whole(kept, json.dumps(document).encode())
        if name == options.only:
            break


def show(document: dict[str, Any]) -> None:
    """A table for each precision."""
    counts = (
        ("windows repeated", lambda x: x.repeated_windows),
        ("kept though disturbed", lambda x: x.disturbed_windows),
        ("preemptions", lambda x: x.conditions.get("preemptions") or 0),
    )
    for precision in document["subnets"]:
        runs = {
            name: [LatencyReport.from_json(x) for x in run["reports"][precision]]
            for name, run in document["runs"].items()
        }
        print(f"\nOpenVINO {precision}, batch 1, length {LENGTH}, 1 thread: ms (ratio to the reference)\n")
        rows: list[list[object]] = [
            [str(i + 1), *(f"{x[i].p50_ms:.3f} ({x[i].ratio_to_reference:.3f})" for x in runs.values())]
            for i in range(ENGINES)
        ]
        rows += [[label, *(sum(of(x) for x in reports) for reports in runs.values())] for label, of in counts]
        table(["engine", *runs], rows)


def main() -> int:
    """Exit code 0 where all targets are met; a call that only makes the first run has none."""
    options = arguments().parse_args()
    torch.set_num_threads(1)
    if options.draw:
        print(json.dumps([x.to_json() for x in draw(net_of(SPACE), options.draw)]))
        return 0
    if options.one_run:
        plan = replace(SEARCH_PLAN, windows=4, max_repeats=4) if options.quick else SEARCH_PLAN
        subnets = json.loads(options.one_run.read_text())["subnets"]
        print(json.dumps(one_run({p: [SubnetConfig.from_json(x) for x in s] for p, s in subnets.items()}, plan)))
        return 0
    if options.first:
        document = json.loads(options.first.read_text())
    else:
        document = {"subnets": {p: in_own_process(["--draw", p]) for p in options.precisions}, "runs": {}}
    here = environment_id(environment())
    if other := {x["environment"] for x in document["runs"].values()} - {here}:
        raise SystemExit(f"{options.first} was measured on {', '.join(other)}, this is {here}: begin again here")
    complete(document, options)
    show(document)
    targets, rows, noise = judged(document)
    gap = minutes_between(document)
    if gap is not None:
        print(f"\n{gap:.1f} minutes between the quiet runs\n")
        table(["pair", "rank correlation", "noise", "largest"], rows)
    return finish(
        "search/repeatability",
        targets,
        quick=options.quick,
        gap_minutes=gap,
        noise=noise,
        environment=environment(),
    )


if __name__ == "__main__":
    sys.exit(main())
