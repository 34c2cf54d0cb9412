"""Checks a bundle again, long after it was packed: its files against each other and each engine's numbers."""

from __future__ import annotations

import json

import onnx

from atb_export.dense import DenseModel
from atb_export.errors import VerificationError
from atb_export.packing import INT8_MODEL, verify_dense, verify_onnx, verify_rounding, wanted_logits
from atb_export.verify import Parity, compare, engine_logits, probe_texts
from runtime.engine import backend
from runtime.manifest import Bundle, EngineEntry
from runtime.onnx_file import sha256_of
from supernet.batches import TokenizedTexts


def takes_pairs(bundle: Bundle) -> bool:
    """Whether the bundle's ONNX model has the input for a second text."""
    model = onnx.load(bundle.folder / "model.onnx", load_external_data=False)
    return any(x.name == "token_type_ids" for x in model.graph.input)


def verify_bundle(bundle: Bundle, model: DenseModel, texts: TokenizedTexts) -> list[Parity]:
    """The `transformers` folder, the ONNX file and every engine against the float64 network inside the bundle;
    int8 engines against its int8 graph, and that against the network.

    Engines that cannot run here are skipped with the reason, after what can be checked without running them.
    """
    name = bundle.manifest.name
    rows = verify_dense(model, bundle.folder, texts, name=name)
    rows += verify_onnx(model, bundle.folder / "model.onnx", texts, name=name)
    if INT8_MODEL in bundle.manifest.files:
        rows += verify_rounding(model, bundle.folder / INT8_MODEL, texts, name=name)
    return rows + [_verify_engine(bundle, entry, model, texts) for entry in bundle.manifest.engines]


def _verify_engine(bundle: Bundle, entry: EngineEntry, model: DenseModel, texts: TokenizedTexts) -> Parity:
    name, target = bundle.manifest.name, entry.target
    maker = backend(target.backend)
    if target.backend == "tensorrt":
        _check_plan_source(bundle, entry)
    if (reason := maker.can_run()) is not None:
        return Parity(model=name, stage=target.label, skipped=reason)
    probes = probe_texts(texts, length=target.shape.length, count=len(texts))
    with maker.load(bundle.artifact(entry), target) as engine:
        return compare(
            name,
            target.label,
            engine_logits(engine, probes),
            wanted_logits(model, bundle.folder, target, probes),
            precision=engine.effective_precision,
        )


def _check_plan_source(bundle: Bundle, entry: EngineEntry) -> None:
    """A plan that cannot run here can still be shown to be built from this bundle's ONNX model."""
    record = json.loads(bundle.artifact(entry).with_name("plan.json").read_text())
    if record["onnx_sha256"] != sha256_of(bundle.folder / "model.onnx"):
        raise VerificationError(f"the plan {entry.artifact} was built from another ONNX model than the bundle's")
