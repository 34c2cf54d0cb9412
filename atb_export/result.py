"""Everything a run found, as one document: `result.json`, which the report draws and `--json` prints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from atb_export.baselines import DESCRIPTIONS, baseline
from atb_export.card import model_card
from atb_export.dense import DenseModel
from atb_export.measuring import FINAL_PLAN, measure_together, sweep
from atb_export.report import write_report
from atb_export.report.page import SCHEMA
from atb_export.report.pictures import write_pictures
from atb_export.stages import Run
from atb_export.verify import engine_logits, probe_texts
from atb_export.workspace import Stage, write_json
from runtime.engine import Engine, backend
from runtime.environment import environment
from runtime.files import write_whole
from runtime.latency import LatencyReport
from runtime.manifest import read_bundle, write_manifest
from runtime.target import Shape
from search.candidate import Candidate
from search.statistics import band, paired, spearman
from supernet.cost import parameters
from supernet.metrics import metric_error, score_error
from supernet.space import SubnetConfig

SWEEP_SHAPES = tuple(Shape(batch=b, length=n) for b in (1, 8) for n in (16, 32, 64, 128))


@dataclass(frozen=True, kw_only=True, eq=False)
class Contestant:
    """A finished model: how it was made and where its bundle is."""

    name: str
    description: str
    subnet: SubnetConfig
    model: DenseModel
    bundle: Stage
    slice_parity: Mapping[str, Any] | None = None


def contestants(run: Run, *, compare: bool) -> list[Contestant]:
    """Teacher, winner and, where asked, the baselines, each distilled and packed."""
    whole = run.ordered.shape
    # Before the search: a baseline that does not fit is a mistake of the recipe, and the search takes minutes.
    by_hand = [(x, DESCRIPTIONS[x], baseline(x, whole), False) for x in run.recipe.compare.baselines if compare]
    found = [
        Contestant(
            name="teacher",
            description=f"the fine-tuned teacher, {run.recipe.teacher.model}",
            subnet=whole,
            model=run.teacher_dense(),
            bundle=run.bundle_stage("teacher", run.teacher_dense(), run.supernet_stage, whole),
        )
    ]
    winner = ("winner", "the searched subnet, distilled further", run.winner.subnet, True)
    for name, description, subnet, inherits in [winner, *by_hand]:
        # Baselines are compiled as the winner is: what is compared is the shape, not the precision.
        design = replace(run.winner, subnet=subnet)
        stage = run.student_stage(name, subnet, inherits=inherits)
        model = run.dense(stage)
        found.append(
            Contestant(
                name=name,
                description=description,
                subnet=subnet,
                model=model,
                bundle=run.bundle_stage(name, model, stage, subnet, design),
                slice_parity=stage.result["slice"],
            )
        )
    return found


def take_part(run: Run, *, compare: bool) -> None:
    """What `finish` trains, in the processes that are not the first: the rest is done by that one."""
    whole = run.ordered.shape
    by_hand = [(x, baseline(x, whole), False) for x in run.recipe.compare.baselines if compare]
    for name, subnet, inherits in [("winner", run.winner.subnet, True), *by_hand]:
        run.student_stage(name, subnet, inherits=inherits)


def load_measured(run: Run, contestant: Contestant) -> Engine:
    """The contestant's engine for the measured target, from its bundle, whose hashes are checked first."""
    bundle = read_bundle(contestant.bundle.folder / "bundle")
    entry = bundle.manifest.engines[0]
    return backend(entry.target.backend).load(bundle.artifact(entry), entry.target)


def measure_all(run: Run, found: Sequence[Contestant]) -> Stage:
    """Accuracy on the test rows and latency side by side, both of the packed engines; then the sweep."""
    inputs = [x.bundle.fingerprint for x in found]
    name = "benchmark" if len(found) == 2 else "comparison"

    def make(folder: Path) -> dict[str, Any]:
        texts, labels = run.texts("test"), run.labels("test")
        metrics = run.data.metrics(run.teacher.labels)
        further = {name: (run.texts(name), run.labels(name)) for name in run.data.more_tests}
        scores: dict[str, dict[str, float]] = {}
        with ExitStack() as stack:
            engines = {x.name: stack.enter_context(load_measured(run, x)) for x in found}
            logits = {}
            with run.ui.progress("accuracy on test rows") as progress:
                for i, (name, engine) in enumerate(engines.items()):
                    logits[name] = torch.from_numpy(engine_logits(engine, texts))
                    scores[name] = metrics(logits[name], labels)
                    for other, (more, theirs) in further.items():
                        answers = metrics(torch.from_numpy(engine_logits(engine, more)), theirs)
                        scores[name] |= {f"{metric} of {other}": value for metric, value in answers.items()}
                    progress(i + 1, len(engines), name)
            run.ui.say("benchmark: all engines side by side")
            probes = probe_texts(texts, length=run.recipe.targets[0].length, count=8)
            reports = measure_together(engines, probes, reference="teacher", plan=FINAL_PLAN)
        write_json(folder / "latency.json", {name: report.to_json() for name, report in reports.items()})
        run.ui.say("benchmark: latency by batch and length")
        targets = {"teacher": run.engine_targets()[0], "winner": run.engine_targets(run.winner)[0]}
        models = {x.name: (x.model.net, targets[x.name]) for x in found if x.name in targets}
        fitting = [x for x in SWEEP_SHAPES if x.length <= run.ordered.facts.max_position_embeddings]
        rows = sweep(models, texts, reference="teacher", shapes=fitting)
        return {
            "accuracy": {name: each[metrics.primary] for name, each in scores.items()},
            "accuracy_se": {
                name: metric_error(metrics.primary, values, labels, positive=metrics.positive)
                for name, values in logits.items()
            },
            "metrics": scores,
            "correct": {name: _correct(values, labels) if metrics.by_row else None for name, values in logits.items()},
            "sweep": rows,
        }

    return run.workspace.stage(name, inputs, make)


def _correct(logits: torch.Tensor, labels: torch.Tensor) -> list[int]:
    """Per test row 1 or 0, for paired statistics of a metric that is a share of rows."""
    return (logits.argmax(-1) == labels).int().tolist()


def finish(run: Run, *, compare: bool) -> dict[str, Any]:
    """Runs what is left, writes `bundle/`, `latency.json`, `result.json` and `report.html`; returns the document."""
    found = contestants(run, compare=compare)
    stage = measure_all(run, found)
    reports = {
        name: LatencyReport.from_json(data)
        for name, data in json.loads((stage.folder / "latency.json").read_text()).items()
    }
    searched = run.search_stage.result
    rows = len(run.data.splits.test)
    labels = len(run.teacher.labels)
    # A benchmark from before there were other metrics has neither of them.
    errors, metrics = stage.result.get("accuracy_se", {}), stage.result.get("metrics", {})

    def model(x: Contestant) -> dict[str, Any]:
        report = reports[x.name]
        accuracy = stage.result["accuracy"][x.name]
        return {
            "name": x.name,
            "description": x.description,
            "accuracy": accuracy,
            "accuracy_se": errors.get(x.name, score_error(accuracy, rows, labels)),
            "metrics": metrics.get(x.name, {}),
            "latency_ms": report.p50_ms,
            "latency_ci_ms": list(report.ci_ms),
            "latency_of_teacher": report.ratio_to_reference,
            "params": parameters(x.subnet, run.ordered.facts),
            "flops": run.flops(x.subnet),
            "bundle_bytes": x.bundle.result["bundle_bytes"],
            "subnet": x.subnet.to_json(),
        }

    target = run.recipe.targets[0]
    result = {
        "schema": SCHEMA,
        "recipe": run.recipe.name,
        "seed": run.recipe.seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": {
            "name": run.recipe.name,
            "kind": run.recipe.task.kind,
            "metric": run.data.metrics(run.teacher.labels).primary,
            "labels": list(run.teacher.labels),
            "rows": run.data.counts(),
            "transfer_texts": run.transfer_texts,
        },
        "teacher": model(found[0]),
        "winner": model(found[1]),
        "baselines": [model(x) for x in found[2:]],
        **search_numbers(searched, run, teacher_flops=run.flops(found[0].subnet)),
        "constraint": {
            "max_ms": searched["constraints_ms"][0],
            "of_teacher": run.recipe.constraint.of_teacher,
            "statistic": run.recipe.constraint.statistic,
        },
        "target": {
            "backend": target.backend,
            "device": target.device,
            "effective_precision": reports["winner"].effective_precision,
            "threads": target.threads,
            "shape": {"batch": target.batch, "length": target.length},
        },
        "sweep": stage.result["sweep"],
        "parity": [
            row for x in found for row in ([x.slice_parity] if x.slice_parity else []) + list(x.bundle.result["parity"])
        ],
        "paired": [
            paired(stage.result["correct"]["winner"], stage.result["correct"][x.name], a="winner", b=x.name).to_json()
            for x in found
            if x.name != "winner" and stage.result["correct"]["winner"] is not None
        ],
        "environment": environment(),
        "seconds": dict(run.workspace.seconds),
    }
    publish(run, found[1], stage, result)
    return result


def search_numbers(searched: Mapping[str, Any], run: Run, *, teacher_flops: int) -> dict[str, Any]:
    """Candidates and what FLOPs say about them, on the first target."""
    found = [Candidate.from_json({k: v for k, v in x.items() if k != "front"}) for x in searched["candidates"]]
    measured = [x for x in found if x.is_measured]
    flops, latency = [x.flops for x in measured], [x.ms[0] for x in measured]
    limit_ms, teacher_ms = searched["constraints_ms"][0], searched["teacher_ms"][0]
    inside = band(flops, latency, constraint_ms=limit_ms)
    # A search that trusts FLOPs has one way to say "a third of the teacher": a third of its operations.
    budget = teacher_flops * limit_ms / teacher_ms
    choice = max(
        (x for x in measured if x.flops <= budget and x.is_scored), key=lambda x: x.accuracy or 0.0, default=None
    )
    return {
        "engines_measured": len({(x.subnet.renumbered(), x.design.precisions) for x in measured}),
        "engines_failed": sum(x.has_failed for x in found),
        "engines_spared": sum(x.status == "spared" for x in found),
        "candidates": searched["candidates"],
        "search": {
            key: searched[key] for key in ("targets", "constraints_ms", "method", "generations", "stopped", "seconds")
        },
        "spearman_flops_latency": {
            "all": spearman(flops, latency),
            "band": inside.correlation,
            "band_ms": list(inside.band_ms),
            "band_engines": inside.engines,
        },
        "flops_choice": None
        if choice is None
        else {
            "subnet": choice.subnet.to_json(),
            "flops": choice.flops,
            "accuracy": choice.accuracy,
            "latency_ms": choice.ms[0],
            "note": f"most accurate measured candidate within {budget / 1e6:.1f} MFLOP, the same share of the teacher",
        },
    }


def publish(run: Run, winner: Contestant, benchmark: Stage, result: dict[str, Any]) -> None:
    """The winner's bundle with its measured numbers, the raw samples, the result and the report; each whole or not."""
    folder = run.workspace.folder
    aside = folder / ".bundle-aside"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(winner.bundle.folder / "bundle", aside)
    manifest = read_bundle(aside).manifest
    measured = {key: result["winner"][key] for key in ("accuracy", "accuracy_se", "latency_ms", "latency_ci_ms")}
    numbers = {
        **manifest.numbers,
        "measured": {
            **measured,
            "metric": result["task"]["metric"],
            "test_rows": result["task"]["rows"]["test"],
            "of_teacher": {
                "accuracy": measured["accuracy"] / result["teacher"]["accuracy"],
                "latency": result["winner"]["latency_of_teacher"],
            },
            "target": result["target"],
            "cpu": result["environment"]["cpu"]["model"],
        },
    }
    manifest = replace(manifest, numbers=numbers)
    write_whole(aside / "README.md", model_card(manifest, task=run.task_name).encode())
    written = write_manifest(aside, manifest)
    result["winner"]["bundle_bytes"] = sum(entry.bytes for entry in written.files.values())
    shutil.rmtree(folder / "bundle", ignore_errors=True)
    aside.replace(folder / "bundle")
    shutil.copyfile(benchmark.folder / "latency.json", folder / "latency.json")
    write_json(folder / "result.json", result)
    write_report(result, folder / "report.html")
    write_pictures(result, folder / "pictures")
