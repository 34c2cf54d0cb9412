"""Exports a dense model: ONNX, verified engines, and the bundle that names every file by its hash."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from atb_export.card import model_card
from atb_export.dense import DenseModel, save_dense
from atb_export.errors import AtbError
from atb_export.onnx.graph import graph_bytes
from atb_export.onnx.quantise import quantised_bytes
from atb_export.verify import (
    Logits,
    Parity,
    compare,
    engine_logits,
    exact_quantised_logits,
    probe_texts,
    reference_logits,
    refuse,
)
from runtime.engine import backend
from runtime.manifest import EngineEntry, Manifest, ModelFacts, write_manifest
from runtime.target import EngineTarget, Shape
from supernet.batches import TokenizedTexts

# Backends whose artifact serves every shape, float precision and thread count, and the folder of the bundle it is in:
# the weights are stored once for all of a bundle's targets. ONNX Runtime's is the bundle's own model.onnx.
SHARED_ARTIFACTS = {"onnxruntime": "", "openvino": "openvino"}
# The same for int8, which has a graph of its own.
INT8_ARTIFACTS = {"onnxruntime": "int8", "openvino": "openvino-int8"}
INT8_MODEL = "int8/model.onnx"

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


def onnx_bytes(model: DenseModel, *, pairs: bool) -> bytes:
    """The lean graph of the whole dense network."""
    return graph_bytes(model.net, token_types=pairs)


def pack(
    model: DenseModel,
    folder: Path,
    targets: Sequence[EngineTarget],
    *,
    texts: TokenizedTexts,
    origin: Origin,
    calibration: TokenizedTexts | None = None,
    say: Say = lambda _: None,
) -> Packed:
    """Builds, verifies and writes the bundle into `folder`, which appears whole or not at all.

    `texts` are real sentences to verify on, `calibration` those that int8 targets take their ranges from. Raises
    `VerificationError` where any form computes something else, `BackendUnavailable` where a target's package is
    missing, `AtbError` where int8 has nothing to be calibrated on; then nothing is written.
    """
    if calibration is None and (asked := [x.label for x in targets if x.precision == "int8"]):
        raise AtbError(f"{asked[0]} needs real texts to calibrate int8 on, and none are given")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        packed = _write(model, aside, targets, texts=texts, origin=origin, calibration=calibration, say=say)
        os.chmod(aside, 0o755)  # noqa: S103 - a bundle is for whoever may read its parent
        if folder.exists():
            shutil.rmtree(folder)
        aside.replace(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return replace(packed, folder=folder)


def _write(
    model: DenseModel,
    folder: Path,
    targets: Sequence[EngineTarget],
    *,
    texts: TokenizedTexts,
    origin: Origin,
    calibration: TokenizedTexts | None,
    say: Say,
) -> Packed:
    pairs = texts.token_type_ids is not None
    save_dense(model, folder)
    path = folder / "model.onnx"
    path.write_bytes(onnx_bytes(model, pairs=pairs))
    rows = verify_dense(model, folder, texts, name=origin.name)
    rows += verify_onnx(model, path, texts, name=origin.name)
    if calibration is not None and any(x.precision == "int8" for x in targets):
        rounded = folder / INT8_MODEL
        rounded.parent.mkdir()
        rounded.write_bytes(quantised_bytes(model.net, model.net.shape, calibration, token_types=pairs))
        rows += verify_rounding(model, rounded, texts, name=origin.name)
    refuse(rows)
    engines = []
    for target in targets:
        say(f"{origin.name}: {target.label}")
        engine, found = build_engine(model, source_of(folder, target), target, folder, texts, name=origin.name)
        rows += found
        refuse(found)
        engines.append(engine)
    manifest = Manifest(
        name=origin.name,
        model=ModelFacts(
            task="regression" if len(model.labels) == 1 else "classification",
            labels=model.labels,
            max_length=origin.max_length,
            subnet=origin.subnet if origin.subnet is not None else model.net.shape.to_json(),
        ),
        engines=tuple(engines),
        parents=dict(origin.parents),
        numbers={**origin.numbers, "parity": [row.to_json() for row in rows]},
    )
    (folder / "README.md").write_text(model_card(manifest, task=origin.task), encoding="utf-8")
    written = write_manifest(folder, manifest)
    return Packed(folder=folder, bundle_bytes=sum(entry.bytes for entry in written.files.values()), parity=tuple(rows))


@torch.no_grad()
def verify_dense(model: DenseModel, folder: Path, texts: TokenizedTexts, *, name: str) -> list[Parity]:
    """The `transformers` folder, loaded as a user would, alone and in one padded batch."""
    wanted = reference_logits(model.net, texts)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    logits = loaded(**texts.batch(range(len(texts)))).logits.numpy()
    return [compare(name, f"dense ({type(loaded).__name__}, padded batch)", logits, wanted, precision="f32")]


def verify_onnx(model: DenseModel, path: Path, texts: TokenizedTexts, *, name: str) -> list[Parity]:
    """The ONNX file under ONNX Runtime: rows alone at their own length, and one padded batch."""
    runtime = backend("onnxruntime")
    if (reason := runtime.can_run()) is not None:
        return [Parity(model=name, stage="onnx", skipped=reason)]
    wanted = reference_logits(model.net, texts)
    longest = max(map(len, texts.input_ids))
    found = []
    for label, shape in (("onnx (batch 1)", Shape(batch=1, length=longest)),
                         ("onnx (padded batch)", Shape(batch=len(texts), length=longest))):  # fmt: skip
        with runtime.open(path, EngineTarget(backend="onnxruntime", precision="f32", shape=shape)) as engine:
            logits = engine_logits(engine, texts)
            found.append(compare(name, label, logits, wanted, precision=engine.effective_precision))
    return found


def verify_rounding(model: DenseModel, path: Path, texts: TokenizedTexts, *, name: str) -> list[Parity]:
    """The int8 graph, computed as it is written, against the float network: what rounding costs in logits."""
    shape = Shape(batch=1, length=max(map(len, texts.input_ids)))
    got = exact_quantised_logits(path, EngineTarget(backend="onnxruntime", precision="int8", shape=shape), texts)
    return [compare(name, "onnx int8 (rounding)", got, reference_logits(model.net, texts), precision="rounding")]


def source_of(folder: Path, target: EngineTarget) -> Path:
    """The ONNX of a bundle that the target's engine is built from."""
    return folder / (INT8_MODEL if target.precision == "int8" else "model.onnx")


def wanted_logits(model: DenseModel, folder: Path, target: EngineTarget, texts: TokenizedTexts) -> Logits:
    """What the target's engine must answer: the network's logits, in int8 those of the bundle's int8 graph."""
    if target.precision == "int8":
        return exact_quantised_logits(source_of(folder, target), target, texts)
    return reference_logits(model.net, texts)


def build_engine(
    model: DenseModel, onnx: Path, target: EngineTarget, folder: Path, texts: TokenizedTexts, *, name: str
) -> tuple[EngineEntry, list[Parity]]:
    """Compiles one target into `folder`, loads it back and compares; engines that cannot run here are skipped."""
    maker = backend(target.backend)
    shared = INT8_ARTIFACTS if target.precision == "int8" else SHARED_ARTIFACTS
    out = folder / shared.get(target.backend, target.label)
    artifact = maker.compile(onnx, target, out)
    entry = EngineEntry(
        target=target, artifact=artifact.relative_to(folder).as_posix(), effective_precision=target.precision
    )
    if (reason := maker.can_run()) is not None:
        return entry, [Parity(model=name, stage=target.label, skipped=reason)]
    probes = probe_texts(texts, length=target.shape.length, count=len(texts))
    wanted = wanted_logits(model, folder, target, probes)
    with maker.load(artifact, target) as engine:
        found = compare(name, target.label, engine_logits(engine, probes), wanted, precision=engine.effective_precision)
        return replace(entry, effective_precision=engine.effective_precision), [found]
