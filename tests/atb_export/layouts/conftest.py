"""Small real bundles, made once: engines of several lengths, of pairs, and plans."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from atb_export.dense import DenseModel, save_dense
from atb_export.onnx.graph import graph_bytes
from runtime.backends.tensorrt.record import PLAN_FILE, RECORD_FILE, PlanRecord, Profile, ShapeRange
from runtime.engine import backend
from runtime.manifest import Bundle, EngineEntry, Manifest, ModelFacts, read_bundle, write_manifest
from runtime.target import EngineTarget, Shape
from runtime.tensors import TensorSpec
from supernet.space import LayerConfig, SubnetConfig

SHAPE = SubnetConfig(
    hidden_size=28,
    layers=(
        LayerConfig(source=0, heads=3, head_size=8, ffn_size=50),
        LayerConfig(source=1, heads=2, head_size=6, ffn_size=33),
    ),
)
PARITY = [
    {"stage": "onnx", "skipped": None, "max_abs_error": 2e-6, "tolerance": 1e-4, "label_agreement": 1.0, "rows": 6},
    {"stage": "gpu", "skipped": "no | GPU\nhere"},
]
MEASURED = {
    "metric": "accuracy",
    "accuracy": 0.8123,
    "accuracy_se": 0.0091,
    "test_rows": 1800,
    "of_teacher": {"accuracy": 0.99, "latency": 0.25},
    "latency_ms": 0.731,
    "latency_ci_ms": [0.72, 0.74],
    "cpu": "A CPU",
    "target": {
        "backend": "openvino",
        "effective_precision": "f32",
        "shape": {"batch": 1, "length": 16},
        "threads": 1,
    },
}
NUMBERS: dict[str, Any] = {"parameters": 12345, "shape": "2 layers of 28", "measured": MEASURED, "parity": PARITY}
TEXTS = (
    "",
    "good",
    "a dull plot.",
    "this film is superb and the story is warm , clever and all",
    "the plot is bad " * 9,
    "x" * 90,
    "🎬 映画",
    "bad",
)


def target(name: str, length: int, *, batch: int = 1, dynamic: bool = False) -> EngineTarget:
    return EngineTarget(backend=name, precision="f32", shape=Shape(batch=batch, length=length), dynamic=dynamic)


Make = Callable[..., Bundle]


@pytest.fixture(scope="session")
def make_bundle(make_dense: Callable[..., DenseModel], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A bundle with engines for these targets; OpenVINO's and ONNX Runtime's share their artifacts."""

    def build(
        *targets: EngineTarget,
        pairs: bool = False,
        labels: tuple[str, ...] = ("neg", "pos"),
        name: str = "tiny model",
        flavour: str = "tensorrt",
    ) -> Bundle:
        folder = tmp_path_factory.mktemp("made") / "bundle"
        model = make_dense(SHAPE, labels=labels, seed=2)
        save_dense(model, folder)
        (folder / "model.onnx").write_bytes(graph_bytes(model.net, token_types=pairs))
        (folder / "README.md").write_text("# the bundle's own\n")
        _plans(folder, targets, flavour, pairs)
        entries = []
        for x in targets:
            artifact = "model.onnx"
            if x.backend == "openvino":
                maker = backend("openvino")
                made = maker.compile(folder / "model.onnx", x, folder / "openvino")
                artifact = made.relative_to(folder).as_posix()
            elif x.backend == "tensorrt":
                artifact = f"{x.group}/{PLAN_FILE}"
            entries.append(EngineEntry(target=x, artifact=artifact, effective_precision="f32"))
        facts = ModelFacts(task="classification", labels=labels, max_length=40)
        write_manifest(folder, Manifest(name=name, model=facts, engines=tuple(entries), numbers=NUMBERS))
        return read_bundle(folder)

    return build


def _plans(folder: Path, targets: Sequence[EngineTarget], flavour: str, pairs: bool) -> None:
    """Bytes in the place of each group's plan, with a record of it: no GPU is asked for to lay one out."""
    groups: dict[str, list[EngineTarget]] = {}
    for x in targets:
        if x.backend == "tensorrt":
            groups.setdefault(x.group, []).append(x)
    names = ("input_ids", "attention_mask", *(("token_type_ids",) if pairs else ()))
    for group, found in groups.items():
        data = Random(0).randbytes(2000)
        dims = [x.shape.dims for x in found]
        record = PlanRecord(
            flavour=flavour,
            version="10.9.0",
            version_compatible=False,
            target=found[-1],
            compute_capabilities=found[-1].devices,
            gpu=None,
            effective_precision="f32",
            inputs=tuple(TensorSpec(name=x, dtype="int64", shape=("batch", "sequence")) for x in names),
            outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", 2)),),
            profiles=tuple(
                Profile(shape=x.shape, ranges={name: ShapeRange(min=d, opt=d, max=d) for name in names})
                for x, d in zip(found, dims, strict=True)
            ),
            plan_sha256=hashlib.sha256(data).hexdigest(),
            plan_bytes=len(data),
            onnx_sha256="0" * 64,
        )
        (folder / group).mkdir()
        (folder / group / PLAN_FILE).write_bytes(data)
        (folder / group / RECORD_FILE).write_text(json.dumps(record.to_json()))


@pytest.fixture(scope="session")
def bundle(make_bundle: Make) -> Bundle:
    """Two lengths for ONNX Runtime and OpenVINO, and a TensorRT plan of them."""
    cpu = [target(x, length) for x in ("onnxruntime", "openvino") for length in (16, 32)]
    gpu = [replace(target("tensorrt", length), device="sm_89") for length in (16, 32)]
    return make_bundle(*cpu, *gpu)
