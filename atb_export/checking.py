"""Checks a bundle again, long after it was packed: its files against each other and each engine's numbers."""

from __future__ import annotations

import json

import onnx

from atb_export.dense import DenseModel
from atb_export.errors import VerificationError
from atb_export.graphs import GRAPH_FILES, graph_kind
from atb_export.locate import first_departure
from atb_export.onnx.external import strangeness
from atb_export.packing import LEAN, source_of
from atb_export.parity import Verifier
from atb_export.verify import Parity
from runtime.engine import backend
from runtime.files import sha256_of
from runtime.manifest import Bundle, EngineEntry
from supernet.batches import TokenizedTexts


def takes_pairs(bundle: Bundle) -> bool:
    """Whether the bundle's ONNX model has the input for a second text."""
    model = onnx.load(bundle.folder / GRAPH_FILES["f32"], load_external_data=False)
    return any(x.name == "token_type_ids" for x in model.graph.input)


def refuse_strange_graphs(bundle: Bundle) -> None:
    """Raises `VerificationError` for ONNX files with weights outside the bundle or operators outside the standard."""
    missing = {source_of(bundle.folder, x.target).name for x in bundle.manifest.engines} - set(bundle.manifest.files)
    found = [f"{name}, which engines are built from, is not in it" for name in sorted(missing)]
    for name in bundle.manifest.files:
        if name.endswith(".onnx"):
            found += strangeness(bundle.folder / name)
    if found:
        raise VerificationError(f"the bundle {bundle.folder} holds ONNX files that are not run: {'; '.join(found)}")


def refuse_lean(bundle: Bundle) -> None:
    """Raises `VerificationError` for a bundle without the weights its engines are held against."""
    if bundle.manifest.numbers.get(LEAN):
        raise VerificationError(
            f"{bundle.folder} is lean: its files have the hashes of the manifest, but the weights that its engines "
            "were verified against are not in it. To verify or rebuild engines here, export the model without --lean"
        )


def verify_bundle(bundle: Bundle, model: DenseModel, texts: TokenizedTexts) -> list[Parity]:
    """The `transformers` folder, the ONNX files and every engine against the float64 network inside the bundle;
    int8 engines against its int8 graph, and that against the network.

    Engines that cannot run here are skipped with the reason, after what can be checked without running them.
    """
    refuse_strange_graphs(bundle)
    check = Verifier(model, texts, name=bundle.manifest.name)
    rows = check.dense(bundle.folder)
    for kind, name in GRAPH_FILES.items():
        if name in bundle.manifest.files:
            rows += check.graph(bundle.folder / name, kind)
    for entry in bundle.manifest.engines:
        rows += _verify_engine(check, bundle, entry)
    groups = {(x.target.backend, x.target.device, x.target.precision): x.target for x in bundle.manifest.engines}
    return rows + [check.stress(target) for target in groups.values()]


def departure_of(bundle: Bundle, model: DenseModel, texts: TokenizedTexts, stage: str) -> str | None:
    """Where the engine or the graph behind a failed comparison begins to depart, if it can be told."""
    for entry in bundle.manifest.engines:
        if stage.split(" (", maxsplit=1)[0] == entry.target.label:
            onnx = source_of(bundle.folder, entry.target)
            return first_departure(model, entry.target, texts, onnx=onnx, precision=entry.effective_precision)
    for kind, name in GRAPH_FILES.items():
        if kind in ("f32", "f16", "bf16") and stage.startswith("onnx (" if kind == "f32" else f"onnx {kind} "):
            return first_departure(model, None, texts, onnx=bundle.folder / name, precision=kind)
    return None


def _verify_engine(check: Verifier, bundle: Bundle, entry: EngineEntry) -> list[Parity]:
    target, source = entry.target, source_of(bundle.folder, entry.target)
    maker = backend(target.backend)
    if target.backend == "tensorrt":
        _check_plan_source(bundle, entry)
    if (reason := maker.can_run()) is not None:
        return [Parity(model=check.name, stage=target.label, skipped=reason)]
    with maker.load(bundle.artifact(entry), target) as engine:
        return check.engine(engine, source)


def _check_plan_source(bundle: Bundle, entry: EngineEntry) -> None:
    """A plan that cannot run here can still be shown to be built from this bundle's ONNX model."""
    record = json.loads(bundle.artifact(entry).with_name("plan.json").read_text())
    if record["onnx_sha256"] != sha256_of(source_of(bundle.folder, entry.target)):
        raise VerificationError(
            f"the plan {entry.artifact} was built from another ONNX model than the bundle's "
            f"{GRAPH_FILES[graph_kind(entry.target)]}: build it again with atb export --rebuild"
        )
