"""Bytes of a bundle against those of exporters and of the safetensors file, with the accuracy that comes with them.

    .venv/bin/python benchmarks/engines/size.py --optimum-python PY            5 minutes on 2 cores
    .venv/bin/python benchmarks/engines/size.py --quick                        fewer training and dev rows, 3 minutes

A stock BERT (the quick start's teacher) is fine-tuned here for a moment on its movie reviews, unless --model names a
folder with a classifier of the same labels. Every row of the table is one export of it for OpenVINO at length 64, asked
for the labels of the same dev reviews through the engine it packed; the vocabulary is trimmed to the training reviews,
so dev words outside of it fall into shorter pieces. A bundle also holds what makes it self-contained: tokenizer,
safetensors to verify against and to continue training from, card; a lean one does without the safetensors. "engine"
counts what an engine is opened from and that alone: its graph, and the ranges of other files that it maps.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import finish, table, target
from models import reviews, trained_classifier

from atb_export.dense import load_dense
from atb_export.exporting import ExportOrder, export
from atb_export.task import TaskData, label_tensor
from runtime.backends.openvino import BACKEND as OPENVINO
from runtime.classifier import Classifier
from runtime.environment import environment
from runtime.manifest import read_bundle
from runtime.onnx_reader import read_onnx
from runtime.target import EngineTarget, Shape
from supernet.batches import tokenize
from supernet.data.rows import Row
from supernet.metrics import score

LENGTH = 64
FULL = "f32"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to export."""

    precision: str
    trimmed: bool = False
    int8_words: bool = False
    lean: bool = False


VARIANTS = {
    FULL: Variant(precision="f32"),
    "bf16": Variant(precision="bf16"),
    "int8": Variant(precision="int8"),
    "int8, int8 words": Variant(precision="int8", int8_words=True),
    "f32, trimmed": Variant(precision="f32", trimmed=True),
    "bf16, trimmed, int8 words": Variant(precision="bf16", trimmed=True, int8_words=True),
    "int8, trimmed, int8 words": Variant(precision="int8", trimmed=True, int8_words=True),
    "int8, lean": Variant(precision="int8", lean=True),
    "int8, trimmed, int8 words, lean": Variant(precision="int8", trimmed=True, int8_words=True, lean=True),
}


def ours(model: Path, out: Path, variant: Variant, data: TaskData, rows: list[Row]) -> dict[str, Any]:
    """A bundle's bytes, its engine's, and its accuracy on `rows`."""
    shape = Shape(batch=1, length=LENGTH)
    asked = EngineTarget(backend="openvino", precision=variant.precision, shape=shape)  # type: ignore[arg-type]
    train = tuple(row.texts for row in data.splits.train)
    order = ExportOrder(
        targets=(asked,),
        lengths=(LENGTH,),
        texts=train[:16],
        calibration=train[:64] if variant.precision == "int8" else (),
        vocabulary=train if variant.trimmed else (),
        int8_words=variant.int8_words,
        lean=variant.lean,
    )
    packed, _ = export(model, out, order, say=lambda _: None)
    bundle = read_bundle(out)
    opened = bundle.artifact(bundle.manifest.engines[0])
    mapped = {(x.location, x.offset, x.length) for x in read_onnx(opened).external}
    with Classifier.from_bundle(out) as classifier:
        logits = classifier.logits([row.texts[0] if len(row.texts) == 1 else row.texts for row in rows])
    return {
        "bytes": packed.bundle_bytes,
        "engine_bytes": opened.stat().st_size + sum(length for *_, length in mapped),
        "accuracy": score(torch.from_numpy(logits), label_tensor(rows, data.labels)),
    }


def optimum(model: Path, out: Path, python: str, data: TaskData, rows: list[Row]) -> dict[str, Any]:
    """What optimum-cli writes, and the accuracy of its graph in f32."""
    command = [str(Path(python).with_name("optimum-cli")), "export", "openvino", "--model", str(model)]
    subprocess.run([*command, "--task", "text-classification", str(out)], capture_output=True, check=True)
    shape = Shape(batch=1, length=LENGTH)
    asked = EngineTarget(backend="openvino", precision="f32", shape=shape)
    texts = tokenize(load_dense(model).tokenizer, [row.texts for row in rows], max_length=LENGTH)
    logits = []
    with OPENVINO.load(out / "openvino_model.xml", asked) as engine:
        for i in range(len(texts)):
            given = {x.name: np.zeros(shape.dims, x.dtype) for x in engine.inputs}
            ids = texts.input_ids[i]
            given["input_ids"][0, : len(ids)] = ids
            given["attention_mask"][0, : len(ids)] = 1
            logits.append(next(iter(engine.infer(given).values()))[0])
    graph = sum((out / f"openvino_model.{end}").stat().st_size for end in ("xml", "bin"))
    return {
        "bytes": sum(x.stat().st_size for x in out.rglob("*") if x.is_file()),
        "engine_bytes": graph,
        "accuracy": score(torch.from_numpy(np.array(logits)), label_tensor(rows, data.labels)),
    }


def main() -> int:
    """Exit code 0 where the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows to train and to ask")
    parser.add_argument("--optimum-python", help="an interpreter that has optimum-intel")
    parser.add_argument("--model", type=Path, help="a trained classifier of the quick start's labels")
    options = parser.parse_args()
    data = reviews()
    rows = list(data.splits.search_dev)[: 300 if options.quick else None]
    found: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or trained_classifier(folder / "model", data, rows=1500 if options.quick else 6000)
        weights = (model / "model.safetensors").stat().st_size
        for label, variant in VARIANTS.items():
            found[label] = ours(model, folder / label.replace(", ", "-").replace(" ", "-"), variant, data, rows)
        if options.optimum_python is None:
            skipped["optimum-cli"] = "give an interpreter that has optimum-intel with --optimum-python"
        else:
            found["optimum-cli"] = optimum(model, folder / "optimum", options.optimum_python, data, rows)
    print(f"\nbytes and accuracy on {len(rows)} dev rows; safetensors: {weights / 1e6:.1f} MB\n")
    table(
        ["", "bundle MB", "of safetensors", "engine MB", "of safetensors", "accuracy"],
        [
            [
                label,
                f"{x['bytes'] / 1e6:.1f}",
                f"{x['bytes'] / weights:.2f}",
                f"{x['engine_bytes'] / 1e6:.1f}",
                f"{x['engine_bytes'] / weights:.2f}",
                f"{x['accuracy']:.4f}",
            ]
            for label, x in found.items()
        ],
    )
    for label, reason in skipped.items():
        print(f"{label} is left out: {reason}")
    best = found["int8, trimmed, int8 words, lean"]
    wanted = [
        target("f32_engine_of_safetensors", found[FULL]["engine_bytes"] / weights, "<=", 1.01),
        target("least_bundle_of_safetensors", best["bytes"] / weights, "<=", 0.3),
        target("accuracy_lost_by_the_least", found[FULL]["accuracy"] - best["accuracy"], "<=", 0.01),
    ]
    if "optimum-cli" in found:
        wanted.append(
            target("f32_engine_of_optimum", found[FULL]["engine_bytes"] / found["optimum-cli"]["engine_bytes"], "<=", 1)
        )
    return finish(
        "engines/size",
        wanted,
        quick=options.quick,
        dev_rows=len(rows),
        safetensors_bytes=weights,
        exports=found,
        skipped=skipped,
        environment=environment(),
    )


if __name__ == "__main__":
    sys.exit(main())
