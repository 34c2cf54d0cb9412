"""Commands on dense models and bundles: export, bench, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from atb_export.cli.output import emit, json_option, table
from atb_export.errors import VerificationError
from runtime.backends import BACKENDS
from runtime.engine import Engine, backend
from runtime.errors import AtbRuntimeError, BundleError
from runtime.manifest import Bundle, EngineEntry, read_bundle
from runtime.target import PRECISIONS, EngineTarget, Shape


def _folder(**more: Any) -> click.Path:
    return click.Path(path_type=Path, file_okay=False, **more)


@click.command("export")
@click.argument("model", type=_folder())
@click.option(
    "--target",
    "backends",
    multiple=True,
    type=click.Choice(sorted(BACKENDS)),
    default=("openvino",),
    show_default=True,
    help="A backend to build for; may be repeated.",
)
@click.option("--device", "gpus", default="sm_89,sm_120", show_default=True, help="GPUs a TensorRT plan is built for.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--length", type=click.IntRange(2), default=64, show_default=True, help="Tokens per text.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--text", "sentences", multiple=True, help="A sentence to verify on; may be repeated.")
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file with a real text per line (two with a tab between for --pairs), for int8; 16 are enough.",
)
@click.option("--pairs", is_flag=True, help="The model takes two texts: keep its token types.")
@click.option("--out", required=True, type=_folder(), help="The bundle to write: a new folder.")
@json_option
def export_command(
    model: Path,
    backends: tuple[str, ...],
    gpus: str,
    precision: Any,
    batch: int,
    length: int,
    threads: int,
    sentences: tuple[str, ...],
    calibrate: Path | None,
    pairs: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Export MODEL, a folder with a BERT classifier of `transformers` or of ours, to verified engines in a bundle.

    Nothing is written if any engine computes something else than the model.

    \b
    Example:
      atb export runs/picked --target openvino --target onnxruntime --out runs/picked-bundle
    """
    if out.exists():
        raise click.ClickException(f"{out} exists already; name a new folder")
    if precision == "int8" and calibrate is None:
        raise click.ClickException("int8 takes its ranges from real texts: name a file of them with --calibrate")
    rows = [] if calibrate is None else _rows(calibrate, 2 if pairs else 1)
    from atb_export.dense import load_dense
    from atb_export.packing import Origin, pack
    from atb_export.probes import probe_sentences
    from atb_export.ui import Ui, quiet_libraries
    from atb_export.work import CALIBRATION_ROWS
    from supernet.batches import tokenize
    from supernet.cost import parameters

    quiet_libraries()
    dense = load_dense(model)
    limit = min(length, dense.net.facts.max_position_embeddings)
    texts = [(text, text) if pairs else (text,) for text in probe_sentences(sentences)]
    targets = [
        EngineTarget(
            backend=name,
            device=gpus if name == "tensorrt" else "CPU",
            precision="f32" if name != "openvino" and precision == "auto" else precision,
            shape=Shape(batch=batch, length=limit),
            threads=threads,
        )
        for name in dict.fromkeys(backends)
    ]
    packed = pack(
        dense,
        out,
        targets,
        texts=tokenize(dense.tokenizer, texts, max_length=limit),
        calibration=tokenize(dense.tokenizer, rows[:CALIBRATION_ROWS], max_length=limit) if rows else None,
        origin=Origin(
            name=out.name,
            task=f"telling {' or '.join(dense.labels[:6])}",
            max_length=limit,
            numbers={
                "parameters": parameters(dense.net.shape, dense.net.facts),
                "shape": str(dense.net.shape),
            },
        ),
        say=Ui().say,
    )
    _show_parity([x.to_json() for x in packed.parity])
    click.echo(f"\nbundle  {out}  {packed.bundle_bytes / 1e6:.1f} MB")
    emit(
        {"bundle": str(out), "bundle_bytes": packed.bundle_bytes, "parity": [x.to_json() for x in packed.parity]},
        as_json=as_json,
    )


def _rows(path: Path, texts: int) -> list[tuple[str, ...]]:
    """The rows of a file with tabs between the texts of a line."""
    found = [tuple(line.split("\t")) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not found or any(len(row) != texts for row in found):
        raise click.ClickException(f"{path} must have lines of {texts} text{'s, a tab between' if texts > 1 else ''}")
    return found


def _show_parity(rows: list[dict[str, Any]]) -> None:
    lines = []
    for row in rows:
        if row["skipped"] is not None:
            lines.append([row["stage"], "skipped", "", "", row["skipped"]])
        else:
            verdict = "ok" if row["passed"] else "REFUSED"
            error, allowed = f"{row['max_abs_error']:.2g}", f"{row['tolerance']:.2g}"
            lines.append([row["stage"], verdict, error, allowed, f"same label on {row['label_agreement']:.1%}"])
    table(["form", "verdict", "error", "allowed", ""], lines)


@click.command("verify")
@click.argument("bundle", type=_folder())
@json_option
def verify_command(bundle: Path, as_json: bool) -> int:
    """Check every file of BUNDLE against its hash, and its ONNX and engines against the weights inside it.

    Exits with 1 if anything differs.

    \b
    Example:
      atb verify runs/quickstart/bundle
    """
    found = read_bundle(bundle)
    click.echo(f"{len(found.manifest.files)} files have the hashes of the manifest")
    from atb_export.checking import takes_pairs, verify_bundle
    from atb_export.dense import load_dense
    from atb_export.probes import probe_sentences
    from atb_export.ui import quiet_libraries
    from atb_export.verify import refuse
    from supernet.batches import tokenize

    quiet_libraries()
    dense = load_dense(bundle)
    if list(dense.labels) != list(found.manifest.model.labels):
        raise VerificationError(
            f"the manifest's labels are {', '.join(found.manifest.model.labels)}, the model's {', '.join(dense.labels)}"
        )
    pairs = takes_pairs(found)
    texts = [(text, text) if pairs else (text,) for text in probe_sentences(())]
    rows = verify_bundle(found, dense, tokenize(dense.tokenizer, texts, max_length=found.manifest.model.max_length))
    _show_parity([x.to_json() for x in rows])
    parity = [x.to_json() for x in rows]
    emit({"bundle": str(bundle), "files": len(found.manifest.files), "parity": parity}, as_json=as_json)
    refuse(rows)
    return 0


def _entry(bundle: Bundle, wanted: str | None) -> EngineEntry:
    """The engine asked for by backend or label; without a wish the first that runs here."""
    entries = bundle.manifest.engines
    matching = [x for x in entries if wanted is None or wanted in (x.target.backend, x.target.label)]
    if not matching:
        raise BundleError(
            f"{bundle.folder} has no engine {wanted!r}; it has {', '.join(x.target.label for x in entries)}"
        )
    reasons = []
    for entry in matching:
        reason = backend(entry.target.backend).can_run()
        if reason is None:
            return entry
        reasons.append(f"{entry.target.label}: {reason}")
    raise AtbRuntimeError(f"no engine of {bundle.folder} can run here: {'; '.join(reasons)}")


@click.command("bench")
@click.argument("bundles", nargs=-1, required=True, type=_folder())
@click.option("--engine", help="Backend or label of the engine; by default each bundle's first that runs here.")
@click.option("--batch", type=click.IntRange(1), help="Another batch than the engine was built for.")
@click.option("--length", type=click.IntRange(2), help="Another length than the engine was built for.")
@click.option("--threads", type=click.IntRange(1), help="Another number of threads.")
@click.option("--windows", type=click.IntRange(2), default=30, show_default=True, help="Windows per engine.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Keep the raw samples in this JSON file.")
@json_option
def bench_command(
    bundles: tuple[Path, ...],
    engine: str | None,
    batch: int | None,
    length: int | None,
    threads: int | None,
    windows: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure the engines of BUNDLES side by side in one interleaved run; the first is the reference.

    A busy machine shows as a wide interval and as repeated windows. Needs no torch.

    \b
    Example:
      atb bench runs/quickstart/bundle
      atb bench runs/quickstart/stages/bundle-teacher/bundle runs/quickstart/bundle --threads 2
    """
    from contextlib import ExitStack
    from dataclasses import replace

    import numpy as np

    from runtime.environment import environment
    from runtime.files import write_whole
    from runtime.measure import MeasurePlan, measure

    def feeds(opened: Engine) -> dict[str, Any]:
        # All positions are real tokens: a model's time does not depend on which ones.
        dims = opened.target.shape.dims
        ids = (np.arange(dims[0] * dims[1]).reshape(dims) % 97 + 1).astype(np.int64)
        values = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return {x.name: values.get(x.name, np.zeros_like(ids)) for x in opened.inputs}

    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for path in bundles:
            bundle = read_bundle(path)
            entry = _entry(bundle, engine)
            shape = Shape(batch=batch or entry.target.shape.batch, length=length or entry.target.shape.length)
            target = replace(entry.target, shape=shape, threads=threads or entry.target.threads)
            name = bundle.manifest.name if bundle.manifest.name not in engines else str(path)
            engines[name] = stack.enter_context(backend(target.backend).load(bundle.artifact(entry), target))
        first = next(iter(engines))
        reports = measure(
            engines,
            {name: feeds(opened) for name, opened in engines.items()},
            reference=first,
            plan=MeasurePlan(windows=windows, max_repeats=windows),
        )
    facts = environment()
    click.echo(f"{facts['cpu']['model']}, {facts['cpu']['usable']} CPUs\n")
    rows = []
    for name, report in reports.items():
        low, high = report.ci_ms
        rows.append(
            [
                name,
                report.target.rsplit("-b", 1)[0],
                report.effective_precision,
                f"{report.shape.batch}x{report.shape.length}",
                report.threads,
                f"{report.p50_ms:.3f} [{low:.3f}, {high:.3f}]",
                f"{report.p90_ms:.3f}",
                f"{report.p99_ms:.3f}",
                f"{report.throughput_per_s:.0f}",
                f"{report.ratio_to_reference:.3f}",
                report.repeated_windows,
            ]
        )
    table(
        [
            "model",
            "engine",
            "precision",
            "shape",
            "threads",
            "p50 ms [95 %]",
            "p90",
            "p99",
            "rows/s",
            "ratio",
            "repeats",
        ],
        rows,
    )
    plain = {
        name: {
            **report.to_json(),
            "p50_ms": report.p50_ms,
            "p90_ms": report.p90_ms,
            "p99_ms": report.p99_ms,
            "ci_ms": list(report.ci_ms),
            "throughput_per_s": report.throughput_per_s,
            "ratio_to_reference": report.ratio_to_reference,
        }
        for name, report in reports.items()
    }
    document = {"reference": first, "engines": plain, "environment": facts}
    if out is not None:
        import json

        write_whole(out, (json.dumps(document, indent=1) + "\n").encode())
    if as_json:
        for values in plain.values():
            for raw in ("samples_ms", "reference_samples_ms", "windows", "reference_windows"):
                values.pop(raw)
    emit(document, as_json=as_json)
