"""`atb export` makes a verified bundle of a dense model, or its engines anew; `atb verify` checks one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from atb_export.cli.output import emit, json_option, table
from atb_export.errors import VerificationError
from runtime.backends import BACKENDS
from runtime.manifest import read_bundle
from runtime.target import PRECISIONS, EngineTarget, Shape

_GPUS = "sm_89,sm_120"


def _folder(**more: Any) -> click.Path:
    return click.Path(path_type=Path, file_okay=False, **more)


def _file() -> click.Path:
    return click.Path(path_type=Path, dir_okay=False, exists=True)


def _read_targets(ctx: Any, param: Any, values: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """`openvino` and `openvino:bf16` to backends and precisions, without repetitions."""
    found = []
    for value in values:
        name, colon, precision = value.partition(":")
        if name not in BACKENDS:
            raise click.BadParameter(f"there is no backend {name!r}; there are {', '.join(sorted(BACKENDS))}")
        if colon and precision not in PRECISIONS:
            raise click.BadParameter(f"there is no precision {precision!r}; there are {', '.join(PRECISIONS)}")
        found.append((name, precision or ("auto" if name == "openvino" else "f32")))
    return tuple(dict.fromkeys(found))


def _read_lengths(ctx: Any, param: Any, value: str) -> tuple[int, ...]:
    """`16,32,64` in ascending order; nothing for `auto`."""
    if value == "auto":
        return ()
    parts = value.split(",")
    if not all(x.strip().isdecimal() and int(x) > 1 for x in parts):
        raise click.BadParameter(f'lengths are "auto" or whole numbers from 2 on, such as 16,32,64; got {value!r}')
    return tuple(sorted({int(x) for x in parts}))


@click.command("export")
@click.argument("model", type=_folder(), required=False)
@click.option("--out", type=_folder(), help="The bundle to write: a new folder.")
@click.option(
    "--target",
    "wanted",
    multiple=True,
    callback=_read_targets,
    metavar="BACKEND[:PRECISION]",
    help=f"An engine to build: {', '.join(sorted(BACKENDS))}, with {', '.join(PRECISIONS)} after a colon. May be "
    "repeated. By default openvino, in the precision it chooses.",
)
@click.option("--device", help=f"The device; for TensorRT GPUs, or current.  [default: CPU, {_GPUS}]")
@click.option(
    "--lengths",
    callback=_read_lengths,
    metavar="N,N,...|auto",
    default="64",
    show_default=True,
    help="Tokens per text: an engine for each length, or auto to choose them from --texts by measuring.",
)
@click.option("--buckets", type=click.IntRange(1), default=4, show_default=True, help="At most so many for auto.")
@click.option("--dynamic", is_flag=True, help="Engines of any batch and length up to the ones given.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--texts", "texts_file", type=_file(), help="Your own texts, one a line: to verify on and for auto.")
@click.option("--text", "sentences", multiple=True, help="A sentence to verify on; may be repeated.")
@click.option("--pairs", is_flag=True, help="The model takes two texts, a tab between them in files.")
@click.option("--calibrate", type=_file(), help="A file of texts that int8 takes its ranges from; 16 are enough.")
@click.option(
    "--int8-drop",
    type=click.FloatRange(0, 1),
    help="Leave linears in float until int8 changes the label of at most this share of your texts; they are named.",
)
@click.option("--int8-embeddings", is_flag=True, help="Engines map a word table of 8 bits; the model keeps its own.")
@click.option(
    "--lean", is_flag=True, help="Leave the float weights out: small, but not to be verified or rebuilt again."
)
@click.option("--trim-vocabulary", type=_file(), help="Keep only the vocabulary that the texts of this file use.")
@click.option("--rebuild", type=_folder(), help="Build the engines of this bundle anew, for this machine.")
@json_option
def export_command(
    model: Path | None,
    out: Path | None,
    wanted: tuple[tuple[str, Any], ...],
    device: str | None,
    lengths: tuple[int, ...],
    buckets: int,
    dynamic: bool,
    batch: int,
    threads: int,
    texts_file: Path | None,
    sentences: tuple[str, ...],
    pairs: bool,
    calibrate: Path | None,
    int8_drop: float | None,
    int8_embeddings: bool,
    lean: bool,
    trim_vocabulary: Path | None,
    rebuild: Path | None,
    as_json: bool,
) -> None:
    """Export MODEL, a folder with a BERT classifier of `transformers` or of ours, to verified engines in a bundle.

    Every engine is held against the model in float64. Nothing is written if one computes something else.

    \b
    Examples:
      atb export runs/picked --out bundle
      atb export my-bert --target openvino:bf16 --target onnxruntime --lengths 16,32,64 --out bundle
      atb export my-bert --target openvino:int8 --calibrate texts.txt --out bundle
      atb export my-bert --target openvino:int8 --calibrate texts.txt --int8-embeddings --lean --out small
      atb export my-bert --lengths auto --texts texts.txt --buckets 4 --out bundle
      atb export --rebuild bundle                          on another machine, version or GPU
    """
    if rebuild is not None:
        if model is not None or out is not None:
            raise click.UsageError("--rebuild BUNDLE works on that bundle: give neither a MODEL nor --out")
        steps = _Steps()
        _show(_rebuilt(rebuild, wanted, device, steps), rebuild, None, as_json)
        return
    if model is None or out is None:
        raise click.UsageError("name the MODEL to export and the new folder: atb export MODEL --out BUNDLE")
    if out.exists():
        raise click.ClickException(f"{out} exists already; name a new folder, or --rebuild it")
    if any(precision == "int8" for _, precision in wanted) and calibrate is None:
        raise click.ClickException("int8 takes its ranges from real texts: name a file of them with --calibrate")
    if not lengths and texts_file is None:
        raise click.ClickException("--lengths auto chooses them from your own texts: name a file of them with --texts")
    shape = Shape(batch=batch, length=max(lengths, default=2))
    options: dict[str, Any] = {
        "targets": _targets(wanted, device, [EngineTarget(backend="x", shape=shape, threads=threads, dynamic=dynamic)]),
        "lengths": lengths,
        "buckets": buckets,
        "texts": _rows(texts_file, pairs),
        "sentences": sentences,
        "calibration": _rows(calibrate, pairs),
        "vocabulary": _rows(trim_vocabulary, pairs),
        "pairs": pairs,
        "int8_words": int8_embeddings,
        "lean": lean,
        "int8_drop": int8_drop,
    }
    steps = _Steps()
    steps("importing torch and transformers")
    from atb_export.exporting import ExportOrder, export
    from atb_export.ui import quiet_libraries

    quiet_libraries()
    packed, chosen = export(model, out, ExportOrder(**options), say=steps)
    steps("done")
    _show(packed, out, chosen, as_json)


def _targets(
    wanted: Sequence[tuple[str, Any]], device: str | None, like: Sequence[EngineTarget]
) -> tuple[EngineTarget, ...]:
    """The wanted engines, each in the shapes, threads and kinds of the targets in `like`."""
    shapes = dict.fromkeys((x.shape, x.threads, x.dynamic) for x in like)
    return tuple(
        EngineTarget(
            backend=name,
            device=device or (_GPUS if name == "tensorrt" else "CPU"),
            precision=precision,
            shape=shape,
            threads=threads,
            dynamic=dynamic,
        )
        for name, precision in dict.fromkeys(wanted or (("openvino", "auto"),))
        for shape, threads, dynamic in shapes
    )


class _Steps:
    """A line on stderr for each step, with the seconds since the beginning."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()

    def __call__(self, text: str) -> None:
        click.echo(f"{time.perf_counter() - self._begun:6.1f} s  {text}", err=True)


def _rebuilt(folder: Path, wanted: Sequence[tuple[str, Any]], device: str | None, steps: _Steps) -> Any:
    """With the bundle's own targets (on `device`), or, where some are wanted, those in the bundle's shapes."""
    steps(f"reading {folder}")
    bundle = read_bundle(folder)
    targets = tuple(x.target for x in bundle.manifest.engines)
    if wanted:
        targets = _targets(wanted, device, targets)
    elif device is not None:
        targets = tuple(replace(x, device=device) if x.backend == "tensorrt" else x for x in targets)
    from atb_export.exporting import rebuild_engines
    from atb_export.ui import quiet_libraries

    quiet_libraries()
    packed = rebuild_engines(bundle, targets, say=steps)
    steps("done")
    return packed


def _rows(path: Path | None, pairs: bool) -> tuple[tuple[str, ...], ...]:
    """The rows of a file, a tab between the texts of a pair; none without a file."""
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{path} is no text in UTF-8: {error}") from error
    found = tuple(tuple(line.split("\t")) for line in lines if line.strip())
    if not found or any(len(row) != 1 + pairs for row in found):
        raise click.ClickException(f"{path} must have lines of {'2 texts, a tab between' if pairs else '1 text'}")
    return found


def _show(packed: Any, folder: Path, chosen: Any, as_json: bool) -> None:
    parity = [x.to_json() for x in packed.parity]
    if chosen is not None:
        rows = zip(chosen.lengths, chosen.shares, chosen.cost_ms, strict=True)
        table(["tokens", "of the texts", "ms"], [[n, f"{share:.1%}", f"{ms:.3f}"] for n, share, ms in rows])
        click.echo(f"expected {chosen.expected_ms:.3f} ms a text; {chosen.single_ms:.3f} ms with one length\n")
    _show_parity(parity)
    click.echo(f"\nbundle  {folder}  {packed.bundle_bytes / 1e6:.1f} MB")
    document = {"bundle": str(folder), "bundle_bytes": packed.bundle_bytes, "parity": parity}
    emit(document if chosen is None else {**document, "buckets": chosen.to_json()}, as_json=as_json)


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

    Exits with 1 if anything differs, naming the first layer that departs.

    \b
    Example:
      atb verify runs/quickstart/bundle
    """
    found = read_bundle(bundle)
    click.echo(f"{len(found.manifest.files)} files have the hashes of the manifest")
    from atb_export.checking import departure_of, refuse_lean, refuse_strange_graphs, verify_bundle
    from atb_export.dense import load_dense
    from atb_export.exporting import bundle_probes
    from atb_export.ui import quiet_libraries
    from atb_export.verify import refuse

    quiet_libraries()
    refuse_lean(found)
    refuse_strange_graphs(found)
    dense = load_dense(bundle)
    texts = bundle_probes(found, dense)
    if list(dense.labels) != list(found.manifest.model.labels):
        raise VerificationError(
            f"the manifest's labels are {', '.join(found.manifest.model.labels)}, the model's {', '.join(dense.labels)}"
        )
    rows = verify_bundle(found, dense, texts)
    parity = [x.to_json() for x in rows]
    _show_parity(parity)
    emit({"bundle": str(bundle), "files": len(found.manifest.files), "parity": parity}, as_json=as_json)
    failed = [row for row in rows if row.passed is False]
    refuse(rows, lambda: departure_of(found, dense, texts, failed[0].stage))
    return 0
