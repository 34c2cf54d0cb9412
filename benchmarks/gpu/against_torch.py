"""TensorRT, ONNX Runtime's CUDA provider, torch and `torch.compile` on one card, interleaved, the same weights.

    .venv/bin/python benchmarks/gpu/against_torch.py --out RESULT.json    some minutes on a machine with an NVIDIA GPU
    .venv/bin/python benchmarks/gpu/against_torch.py --quick              one shape, one length, fewer windows

TensorRT is whichever flavour is installed, built from the lean graph in each precision, with and without a CUDA graph;
ONNX Runtime gets the same graph. Torch runs the `transformers` model with SDPA, eager and compiled with
`mode="reduce-overhead"`, which is CUDA graphs. Everybody starts from numpy arrays on the host and ends there. f32 is
f32: no engine may round to TensorFloat-32. Logits are held against the float64 net on the CPU before anything is timed.
On a machine without a GPU it says so, and that it measured nothing, and ends with exit code 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import geometric_mean
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[1] / "engines"))
from common import BASE, TINY, feeds, finish, net_of, sizes, stock_weights, table, target
from stock import bert

from atb_export.onnx.graph import graph_bytes
from atb_export.onnx.typed import typed_graph_bytes
from runtime.backends.tensorrt import TensorRtBackend, no_gpu
from runtime.engine import Engine, EngineBase, Feeds, backend
from runtime.errors import AtbRuntimeError
from runtime.files import write_whole
from runtime.measure import MeasurePlan, measure
from runtime.target import EngineTarget, Precision, Shape
from runtime.tensors import TensorSpec
from supernet.model import Supernet

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
WORST = {"f32": 2e-3, "f16": 5e-2, "bf16": 3e-1}  # of logits of the order of 1
EAGER, COMPILED, OURS = "torch eager", "torch.compile", "TensorRT"
PACKAGES = ("tensorrt", "tensorrt-rtx-cu13", "onnxruntime-gpu", "cuda-python", "torch", "transformers", "numpy")
DEVICE = "cuda"


class TorchEngine(EngineBase):
    """A module on the GPU behind the protocol of engines: int64 arrays of the host in, float32 logits on it out."""

    def __init__(self, model: Any, name: str, precision: str, shape: Shape) -> None:
        self.target = EngineTarget(backend=name, device="current", precision=cast(Precision, precision), shape=shape)
        self.effective_precision = precision
        self.inputs = tuple(
            TensorSpec(name=x, dtype="int64", shape=shape.dims) for x in ("input_ids", "attention_mask")
        )
        self._model = model

    @torch.inference_mode()
    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """`logits`."""
        given = {x.name: torch.from_numpy(feeds[x.name]).to(DEVICE, non_blocking=True) for x in self.inputs}
        return {"logits": self._model(**given).logits.float().cpu().numpy()}

    def close(self) -> None:
        """Lets go of the model."""
        self._model = None


def missing() -> str | None:
    """Why nothing can be measured here, or None."""
    if (reason := no_gpu()) is not None:
        return reason
    return None if torch.cuda.is_available() else "this torch has no CUDA: install the build of torch for this driver"


def opened(net: Supernet, precision: str, shape: Shape) -> dict[str, Callable[[], Engine]]:
    """What each row of the table is opened by."""

    def onnx() -> bytes:
        if precision == "f32":
            return graph_bytes(net)
        return typed_graph_bytes(net, token_types=False, precision=cast(Any, precision))

    def module() -> Any:
        model = bert(sizes(net))
        model.load_state_dict(stock_weights(net), strict=False)
        return model.to(DEVICE, DTYPES[precision]).eval()

    def of(name: str, device: str) -> EngineTarget:
        return EngineTarget(backend=name, device=device, precision=cast(Precision, precision), shape=shape)

    def compiled() -> Engine:
        torch._dynamo.reset()
        return TorchEngine(torch.compile(module(), mode="reduce-overhead"), "torch_compile", precision, shape)

    return {
        EAGER: lambda: TorchEngine(module(), "torch", precision, shape),
        COMPILED: compiled,
        "ONNX Runtime CUDA": lambda: backend("onnxruntime").open(onnx(), of("onnxruntime", "CUDA")),
        OURS: lambda: TensorRtBackend().open(onnx(), of("tensorrt", "current")),
        f"{OURS}, no CUDA graph": lambda: TensorRtBackend(cuda_graphs=False).open(onnx(), of("tensorrt", "current")),
    }


@torch.no_grad()
def compare(net: Supernet, precision: str, shape: Shape, plan: MeasurePlan) -> list[dict[str, Any]]:
    """A row for each engine; one that cannot be opened, or answers something else, has a reason and no time."""
    full = dict(feeds(shape.batch, shape.length))
    ids, mask = (torch.from_numpy(full[name]) for name in ("input_ids", "attention_mask"))
    wanted = net.double()(ids, mask).logits.numpy()
    net.float()
    rows: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name, make in opened(net, precision, shape).items():
            row = rows[name] = {"engine": name, "precision": precision, **shape.to_json()}
            try:
                engine = stack.enter_context(make())
                wrong = float(np.abs(engine.infer(_taken(engine, full))["logits"] - wanted).max())
            except (AtbRuntimeError, RuntimeError) as error:
                row["reason"] = (str(error).splitlines() or [type(error).__name__])[0][:300]
                continue
            row |= {"effective_precision": engine.effective_precision, "largest_error": wrong}
            row["no_graph"] = getattr(engine, "no_graph", None)
            if wrong > WORST[precision]:
                row["reason"] = f"answers something else: off by {wrong:.3g}, allowed are {WORST[precision]:.3g}"
                continue
            engines[name] = engine
        if EAGER in engines:
            given = {name: _taken(engine, full) for name, engine in engines.items()}
            for name, report in measure(engines, given, reference=EAGER, plan=plan).items():
                rows[name] |= {"median_ms": report.p50_ms, "speedup": 1 / report.ratio_to_reference}
    return list(rows.values())


def _taken(engine: Engine, full: Feeds) -> Feeds:
    return {x.name: full[x.name] for x in engine.inputs}


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Geometric mean over what both were measured in, of how much faster TensorRT is than each of the others."""
    found = {}
    times = {(x["model"], x["precision"], x["batch"], x["length"], x["engine"]): x.get("median_ms") for x in rows}
    for other in dict.fromkeys(x["engine"] for x in rows if x["engine"] != OURS):
        pairs = [(ms, times[(*key[:4], other)]) for key, ms in times.items() if key[4] == OURS]
        ratios = [theirs / ours for ours, theirs in pairs if ours and theirs]
        if ratios:
            found[other] = geometric_mean(ratios)
    return found


def machine() -> dict[str, Any]:
    """The card, its driver and the packages."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    found = torch.cuda.get_device_properties(0)
    driver = Path("/proc/driver/nvidia/version")
    return {
        "card": found.name,
        "capability": f"sm_{found.major}{found.minor}",
        "memory_bytes": found.total_memory,
        "driver": driver.read_text().splitlines()[0] if driver.is_file() else None,
        "cuda": torch.version.cuda,
        "packages": packages,
    }


def main() -> int:
    """Measures, prints, and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="TinyBERT4 at length 32 only")
    parser.add_argument("--out", type=Path, help="also write the JSON document to this file")
    asked = parser.parse_args()
    if (reason := missing()) is not None:
        print(f"Not run: {reason}. Nothing was measured.")
        print(json.dumps({"benchmark": "against_torch", "skipped": reason, "targets": []}))
        return 0
    models = {"TinyBERT4": TINY["TinyBERT4"]} if asked.quick else {**TINY, **BASE}
    shapes = [(1, 32)] if asked.quick else [(1, 16), (1, 32), (1, 64), (1, 128), (8, 64), (64, 64)]
    plan = MeasurePlan(windows=4 if asked.quick else 10)
    rows: list[dict[str, Any]] = []
    for model, shape in models.items():
        net = net_of(shape)
        for precision in DTYPES:
            for batch, length in shapes:
                found = compare(net, precision, Shape(batch=batch, length=length), plan)
                rows += [{"model": model, **row} for row in found]
    table(
        ["model", "precision", "batch", "length", "engine", "median ms", "x eager", "largest error", "remark"],
        [
            [
                *(row[key] for key in ("model", "precision", "batch", "length", "engine")),
                *(row.get(key, "-") for key in ("median_ms", "speedup", "largest_error")),
                row.get("reason") or (f"no CUDA graph: {row['no_graph']}" if row.get("no_graph") else ""),
            ]
            for row in rows
        ],
    )
    faster = means(rows)
    document = {"quick": asked.quick, "machine": machine(), "speedup_over": faster, "rows": rows}
    if asked.out is not None:
        write_whole(asked.out, (json.dumps(document, indent=2) + "\n").encode())
    targets = [target(f"{OURS} against {x}, geometric mean", faster.get(x), ">=", 1.0) for x in (EAGER, COMPILED)]
    return finish("against_torch", targets, **document)


if __name__ == "__main__":
    sys.exit(main())
