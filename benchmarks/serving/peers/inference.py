"""Text in, label out, for the servers of this folder: the engine their tutorials use, and ours.

`documented` is what the tutorials of these servers do: `tokenizers` and ONNX Runtime on the float32 model, padded to
the longest text of a batch. `ours` is the engine of the bundle: the same OpenVINO, artifact, precision, lengths and
threads that our own server compiles, called with as little Python as possible.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

FEEDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
THREADS = int(os.environ.get("PEER_THREADS", "1"))


class Labels:
    """Softmax, and the best of it."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        self.names: list[str] = manifest["model"]["labels"]

    def best(self, logits: Any) -> dict[str, Any]:
        """The label of one row and its probability."""
        values = np.exp(logits - logits.max())
        at = int(values.argmax())
        return {"label": self.names[at], "score": float(values[at] / values.sum())}


class Documented:
    """ONNX Runtime."""

    def __init__(self, bundle: Path) -> None:
        import onnxruntime

        manifest = json.loads((bundle / "manifest.json").read_text())
        self.labels = Labels(manifest)
        self.tokenizer = Tokenizer.from_file(str(bundle / manifest["model"]["tokenizer"]))
        self.tokenizer.enable_truncation(manifest["model"]["max_length"])
        self.tokenizer.enable_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [x.name for x in self.session.get_inputs()]

    def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """A dictionary with label and score for each text."""
        rows = self.tokenizer.encode_batch(list(texts))
        feeds = {x: np.array([getattr(row, FEEDS[x]) for row in rows], np.int64) for x in self.inputs}
        (logits,) = self.session.run(["logits"], feeds)
        return [self.labels.best(row) for row in logits]


class Ours:
    """The bundle's OpenVINO engines, one static shape for each length, one row at a time; any thread may call it."""

    def __init__(self, bundle: Path) -> None:
        import openvino as ov

        manifest = json.loads((bundle / "manifest.json").read_text())
        self.labels = Labels(manifest)
        engines = [x for x in manifest["engines"] if x["target"]["backend"] == "openvino"]
        first = engines[0]["target"]
        same = [x for x in engines if all(x["target"][k] == first[k] for k in ("precision", "threads", "device"))]
        # What the bundle's own backend compiles with (runtime/backends/openvino/core.py).
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": first["threads"],
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": {"int8": "f32"}.get(first["precision"], first["precision"]),
        }
        core = ov.Core()
        self.compiled = []
        for entry in sorted(same, key=lambda x: x["target"]["shape"]["length"]):
            length = entry["target"]["shape"]["length"]
            model = core.read_model(bundle / entry["artifact"])
            names = [next(x for x in port.get_names() if x in FEEDS) for port in model.inputs]
            model.reshape({port: [1, length] for port in model.inputs})
            self.compiled.append((length, names, core.compile_model(model, first["device"], options)))
        self.tokenizer = Tokenizer.from_file(str(bundle / manifest["model"]["tokenizer"]))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(min(self.compiled[-1][0], manifest["model"]["max_length"]))
        self.local = threading.local()
        self(["warm"])

    def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """A dictionary with label and score for each text."""
        if not hasattr(self.local, "requests"):
            self.local.requests = [self._request(*x) for x in self.compiled]
        return [self._one(text, self.local.requests) for text in texts]

    def _request(self, length: int, names: list[str], compiled: Any) -> tuple[int, Any, list[tuple[str, Any]], Any]:
        """With views of its own buffers, which static shapes never move."""
        request = compiled.create_infer_request()
        buffers = [(name, request.get_input_tensor(i).data) for i, name in enumerate(names)]
        request.infer()
        return length, request, buffers, request.get_output_tensor(0).data

    def _one(self, text: str, requests: list[Any]) -> dict[str, Any]:
        row = self.tokenizer.encode(text)
        count = len(row.ids)
        _, request, buffers, logits = next(x for x in requests if x[0] >= count)
        for name, buffer in buffers:
            buffer[0, :count] = 1 if name == "attention_mask" else getattr(row, FEEDS[name])
            buffer[0, count:] = 0
        request.infer(share_outputs=True)
        return self.labels.best(logits[0])


def load() -> Any:
    """By the environment: PEER_BUNDLE, and PEER_ENGINE as `documented` or `ours`."""
    kinds = {"documented": Documented, "ours": Ours}
    return kinds[os.environ["PEER_ENGINE"]](Path(os.environ["PEER_BUNDLE"]))
