"""Exports a dense model: ONNX, verified engines, and the bundle that names every file by its hash.

OpenVINO and ONNX Runtime read the bundle's ONNX files themselves, so that their engines of all shapes, threads and
float precisions need no file of their own; a TensorRT plan is built for each group of targets and has a folder.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from atb_export.card import model_card
from atb_export.dense import DenseModel, load_dense, save_dense
from atb_export.errors import AtbError, ExportError
from atb_export.graphs import GRAPH_FILES, GraphKind, graph_for, graph_kind
from atb_export.locate import first_departure
from atb_export.onnx.external import WeightFiles
from atb_export.parity import Verifier
from atb_export.verify import Parity, refuse
from runtime.engine import backend
from runtime.errors import BackendUnavailable
from runtime.manifest import Bundle, EngineEntry, Manifest, ModelFacts, write_manifest
from runtime.target import EngineTarget
from supernet.batches import TokenizedTexts

LEAN = "lean"
"""In a manifest's numbers where the bundle goes without the float weights."""

_WEIGHTS = "model.safetensors"
_CARD = "README.md"
_READ_ONNX = ("onnxruntime", "openvino")  # backends whose artifact is an ONNX file of the bundle

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A finished bundle: its folder, total bytes, what was compared, and what could not run here."""

    folder: Path
    bundle_bytes: int
    parity: tuple[Parity, ...]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a bundle tells of itself besides its files."""

    name: str
    task: str
    max_length: int
    subnet: Mapping[str, Any] | None = None
    parents: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)


def source_of(folder: Path, target: EngineTarget) -> Path:
    """The ONNX of a bundle that the target's engine is built from."""
    return folder / GRAPH_FILES[graph_kind(target)]


def pack(
    model: DenseModel,
    folder: Path,
    targets: Sequence[EngineTarget],
    *,
    texts: TokenizedTexts,
    origin: Origin,
    calibration: TokenizedTexts | None = None,
    keep_float: frozenset[str] = frozenset(),
    int8_words: bool = False,
    lean: bool = False,
    before: Sequence[Parity] = (),
    say: Say = lambda _: None,
) -> Packed:
    """Builds, verifies and writes the bundle into `folder`, which appears whole or not at all.

    `texts` are real sentences to verify on, `calibration` those that int8 targets take their ranges from; targets that
    differ in length only are the buckets of one engine. A `lean` bundle is verified as any other, then goes without the
    float weights, so that nobody can verify its engines against them again. `before` are comparisons of what was done
    to the model, kept with the others. Raises `VerificationError` where any form computes something else,
    `ExportError` for a head that answers for tokens, `BackendUnavailable` where a target's package is missing,
    `AtbError` where int8 has nothing to be calibrated on; then nothing is written.
    """
    if (head := model.net.facts.head) != "sequence":
        raise ExportError(f"a model under a head of kind {head!r} is not served yet: bundles answer for whole texts")
    if calibration is None and (asked := [x.label for x in targets if x.precision == "int8"]):
        raise AtbError(f"{asked[0]} needs real texts to calibrate int8 on, and none are given")
    with _replacing(folder) as aside:
        say("weights and tokenizer")
        save_dense(model, aside)
        check = Verifier(model, texts, name=origin.name)
        rows = [*before, *check.dense(aside)]
        refuse(rows)
        weights = WeightFiles(aside)
        if not lean:
            weights.add_safetensors(_WEIGHTS)
        made = partial(
            graph_for,
            model.net,
            None,
            token_types=check.pairs,
            calibration=calibration,
            keep_float=keep_float,
            int8_words=int8_words,
        )
        for kind, target in _kinds(targets, lean=lean).items():
            say(f"graph {GRAPH_FILES[kind]}")
            onnx = made(target)
            rows += _verified_graph(check, weights.write(onnx, GRAPH_FILES[kind], scales=_scales(model)), kind)
        engines, found = _engines(check, aside, targets, say)
        manifest = Manifest(
            name=origin.name,
            model=ModelFacts(
                task="regression" if len(model.labels) == 1 else "classification",
                labels=model.labels,
                max_length=origin.max_length,
                subnet=origin.subnet if origin.subnet is not None else model.net.shape.to_json(),
            ),
            engines=engines,
            parents=dict(origin.parents),
            numbers={**origin.numbers, "task": origin.task, "parity": [row.to_json() for row in (*rows, *found)]},
        )
        if lean:
            manifest = replace(manifest, numbers={**manifest.numbers, LEAN: True})
            for name in (_WEIGHTS, "config.json"):
                (aside / name).unlink()
        say("hashes and model card")
        packed = _finished(aside, manifest, [*rows, *found])
    return replace(packed, folder=folder)


def rebuild(
    bundle: Bundle, targets: Sequence[EngineTarget], *, texts: TokenizedTexts, say: Say = lambda _: None
) -> Packed:
    """Builds the engines of a bundle anew for this machine, from the ONNX inside, and verifies all of it again.

    `targets` are the engines it has afterwards; a graph they need that is not inside is written from the weights.
    Raises as `pack` does; then the bundle is as it was.
    """
    manifest, folder = bundle.manifest, bundle.folder
    plans = {Path(x.artifact).parent.as_posix() for x in manifest.engines if x.target.backend not in _READ_ONNX}
    kept = [name for name in manifest.files if name != _CARD and Path(name).parent.as_posix() not in plans]
    model = load_dense(folder)
    with _replacing(folder) as aside:
        say("files of the bundle")
        for name in kept:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, aside / name)
        check = Verifier(model, texts, name=manifest.name)
        rows = check.dense(aside)
        refuse(rows)
        weights = WeightFiles(aside)
        weights.add_safetensors(_WEIGHTS)
        for kind in GRAPH_FILES:
            if (aside / GRAPH_FILES[kind]).is_file():
                weights.add_onnx(GRAPH_FILES[kind])
        for kind, target in _kinds(targets, lean=False).items():
            path = aside / GRAPH_FILES[kind]
            if not path.is_file():
                say(f"graph {path.name}")
                int8_words = bool(manifest.numbers.get("int8_words"))
                onnx = graph_for(model.net, None, target, token_types=check.pairs, int8_words=int8_words)
                weights.write(onnx, path.name, scales=_scales(model))
            rows += _verified_graph(check, path, kind)
        engines, found = _engines(check, aside, targets, say)
        numbers = {**manifest.numbers, "parity": [row.to_json() for row in (*rows, *found)]}
        packed = _finished(aside, replace(manifest, engines=engines, numbers=numbers, files={}), [*rows, *found])
    return replace(packed, folder=folder)


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A folder beside it that takes its place at the end, or vanishes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield aside
        for path in (aside, *aside.rglob("*")):  # a bundle is for whoever may read its parent
            path.chmod(0o755 if path.is_dir() else 0o644)
        if folder.exists():
            shutil.rmtree(folder)
        aside.replace(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _kinds(targets: Sequence[EngineTarget], *, lean: bool) -> dict[GraphKind, EngineTarget]:
    """The graphs a bundle has, each with a target that needs it; the f32 graph is always there, save in a lean one."""
    found: dict[GraphKind, EngineTarget] = {}
    if not lean:
        found["f32"] = replace(targets[0], backend="onnxruntime", precision="f32")
    for target in targets:
        found.setdefault(graph_kind(target), target)
    return found


def _scales(model: DenseModel) -> tuple[float, ...]:
    """What queries are multiplied with in the graph: 1/sqrt(head size)."""
    return tuple(sorted({1 / math.sqrt(layer.head_size) for layer in model.net.shape.layers}))


def _verified_graph(check: Verifier, path: Path, kind: GraphKind) -> list[Parity]:
    found = check.graph(path, kind)
    refuse(found, lambda: first_departure(check.model, None, check.texts, onnx=path, precision=kind))
    return found


def _engines(
    check: Verifier, folder: Path, targets: Sequence[EngineTarget], say: Say
) -> tuple[tuple[EngineEntry, ...], list[Parity]]:
    """Every target's engine, compiled where it needs a file of its own, loaded back and compared; those that cannot
    run here are skipped. Each backend and precision is put to the stress test once."""
    groups: dict[str, list[EngineTarget]] = {}
    for target in targets:
        groups.setdefault(target.group, []).append(target)
    entries: dict[str, EngineEntry] = {}
    rows: list[Parity] = []
    stressed = set()
    for name, group in groups.items():
        say(f"engine {name}" + (f", lengths {_lengths(group)}" if len(group) > 1 else ""))
        artifact = _artifact(folder, group)
        for target in group:
            entry, found = _verified_engine(check, folder, artifact, target)
            entries[target.label] = entry
            rows += found
        kind = (group[0].backend, group[0].device, group[0].precision)
        if kind not in stressed:
            stressed.add(kind)
            rows.append(check.stress(min(group, key=lambda x: x.shape)))
            refuse(rows[-1:])
    return tuple(entries[target.label] for target in targets), rows


def _artifact(folder: Path, group: Sequence[EngineTarget]) -> Path:
    """The file that serves all shapes of a group."""
    longest = max(group, key=lambda target: target.shape)
    maker, onnx = backend(longest.backend), source_of(folder, longest)
    if (reason := maker.unavailable()) is not None:
        raise BackendUnavailable(reason)
    if longest.backend in _READ_ONNX:
        return onnx
    return maker.compile(onnx, longest, folder / longest.group, tuple(sorted(target.shape for target in group)))


def _verified_engine(
    check: Verifier, folder: Path, artifact: Path, target: EngineTarget
) -> tuple[EngineEntry, list[Parity]]:
    maker, onnx = backend(target.backend), source_of(folder, target)
    relative = artifact.relative_to(folder).as_posix()
    entry = EngineEntry(target=target, artifact=relative, effective_precision=target.precision)
    if (reason := maker.can_run()) is not None:
        return entry, [Parity(model=check.name, stage=target.label, skipped=reason)]
    with maker.load(artifact, target) as engine:
        found = check.engine(engine, onnx)
        precision = engine.effective_precision
    refuse(found, lambda: first_departure(check.model, target, check.texts, onnx=onnx, precision=precision))
    return replace(entry, effective_precision=precision), found


def _finished(folder: Path, manifest: Manifest, rows: Sequence[Parity]) -> Packed:
    """Writes the card and the manifest, the last of all files."""
    task = str(manifest.numbers.get("task", manifest.model.task))
    (folder / _CARD).write_text(model_card(manifest, task=task), encoding="utf-8")
    written = write_manifest(folder, manifest)
    size = sum(entry.bytes for entry in written.files.values())
    return Packed(folder=folder, bundle_bytes=size, parity=tuple(rows))


def _lengths(targets: Sequence[EngineTarget]) -> str:
    return ", ".join(str(target.shape.length) for target in targets)
