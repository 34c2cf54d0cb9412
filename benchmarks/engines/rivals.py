"""The ways others go from the same dense weights to something that answers, each as an `Engine` to be timed.

All are given static shapes, the same precision and the same number of threads. OpenVINO's engines, ours and those of
other exporters' files, are compiled and called by the same code with the same options.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import stock
import torch
from common import sizes, stock_weights

from runtime.backends.onnxruntime import BACKEND as ONNXRUNTIME
from runtime.backends.openvino import BACKEND as OPENVINO
from runtime.engine import EngineBase, Feeds
from runtime.target import EngineTarget
from runtime.tensors import TensorSpec
from supernet.model import Supernet

Opener = Callable[[EngineTarget], Any]
"""An engine for a target; raises `UnfitError` where there is none."""

_TORCH = {"f32": torch.float32, "bf16": torch.bfloat16}


class UnfitError(Exception):
    """Why a rival does not take part for a target."""


class TorchEngine(EngineBase):
    """A torch module called as it is; `compiled` by torch.compile for one shape."""

    def __init__(self, model: Any, target: EngineTarget, *, compiled: bool) -> None:
        self.target = target
        self.effective_precision = target.precision
        self.inputs = tuple(
            TensorSpec(name=name, dtype="int64", shape=target.shape.dims) for name in ("input_ids", "attention_mask")
        )
        self._model = torch.compile(model, dynamic=False) if compiled else model

    @torch.inference_mode()
    def infer(self, feeds: Feeds) -> dict[str, Any]:
        """float32 logits."""
        given = {x.name: torch.from_numpy(feeds[x.name]) for x in self.inputs}
        return {"logits": self._model(**given).logits.float().numpy()}

    def close(self) -> None:
        """Leaves the model to the collector."""


class _Logits(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return found


class Rivals:
    """The files of one net's exports, made when they are first asked for, and the engines opened from them."""

    def __init__(self, net: Supernet, folder: Path, *, optimum_python: str | None) -> None:
        self.net, self.folder, self.optimum_python = net, folder, optimum_python
        self.seconds: dict[str, float] = {}
        self.versions: dict[str, str] = {}
        self._models: dict[str, Any] = {}

    def model(self, precision: str = "f32", attention: str = "sdpa") -> Any:
        """The `transformers` model."""
        key = f"{precision} {attention}"
        if key not in self._models:
            self._models[key] = stock.load(self._written(), attention).to(_TORCH[precision])
        return self._models[key]

    def openers(self) -> dict[str, Opener]:
        """By name."""
        return {
            "optimum-intel": lambda target: OPENVINO.load(self._optimum(), target),
            "torch.onnx": lambda target: OPENVINO.open(self._exported("sdpa"), target),
            "torch.onnx eager-attention": lambda target: OPENVINO.open(self._exported("eager"), target),
            "ONNX Runtime optimised": self._onnxruntime,
            "torch eager": lambda target: TorchEngine(self.model(target.precision), target, compiled=False),
            "torch.compile": lambda target: TorchEngine(self.model(target.precision), target, compiled=True),
        }

    def _written(self) -> Path:
        if not self.folder.exists():
            stock.write(sizes(self.net), stock_weights(self.net), self.folder)
        return self.folder

    def _optimum(self) -> Path:
        """IR by optimum-intel, in a process of its own."""
        out = self.folder / "optimum"
        path = out / "openvino_model.xml"
        if not path.exists():
            python = self.optimum_python or (sys.executable if importlib.util.find_spec("optimum.intel") else None)
            if python is None:
                raise UnfitError(
                    "optimum-intel is not installed here: give an interpreter that has it with --optimum-python"
                )
            command = [python, str(Path(stock.__file__).resolve()), str(self._written()), str(out)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise UnfitError(f"optimum-intel: {done.stderr.strip().splitlines()[-1][:200]}")
            told = json.loads(done.stdout.strip().splitlines()[-1])
            self.seconds["optimum-intel"] = told.pop("seconds")
            self.versions |= {f"{name} (optimum)": value for name, value in told.items()}
        return path

    def _exported(self, attention: str) -> Path:
        """ONNX by torch.onnx.export, free batch and length."""
        path = self._written() / f"torch-{attention}.onnx"
        if not path.exists():
            if importlib.util.find_spec("onnxscript") is None:
                raise UnfitError("torch.onnx.export needs onnxscript: pip install onnxscript")
            ids = torch.randint(1000, 2000, (2, 16))
            free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=512)}
            with quiet(), torch.no_grad():
                torch.onnx.export(
                    _Logits(self.model(attention=attention)).eval(),
                    (ids, torch.ones_like(ids)),
                    path,
                    dynamo=True,
                    external_data=False,
                    input_names=["input_ids", "attention_mask"],
                    output_names=["logits"],
                    dynamic_shapes={"input_ids": free, "attention_mask": free},
                )
        return path

    def _onnxruntime(self, target: EngineTarget) -> Any:
        """The exported graph through onnxruntime.transformers.optimizer; of the two attentions, what it fuses more."""
        if target.precision != "f32":
            raise UnfitError("ONNX Runtime has no bf16 on the CPU")
        path = self._written() / "optimised.onnx"
        if not path.exists():
            try:
                from onnxruntime.transformers import optimizer
            except ImportError as error:
                raise UnfitError(f"ONNX Runtime's optimiser: {error}") from error
            n, first = self.net.shape.hidden_size, self.net.shape.layers[0]
            stock_heads = first.heads * first.head_size == n
            found = []
            for attention in ("eager", "sdpa"):
                with quiet():
                    made = optimizer.optimize_model(
                        str(self._exported(attention)),
                        model_type="bert",
                        num_heads=first.heads if stock_heads else 0,  # it finds other ones out by itself
                        hidden_size=n if stock_heads else 0,
                        use_gpu=False,
                    )
                found.append((len(made.model.graph.node), attention, made))
            _, _, best = min(found, key=lambda x: x[:2])
            best.save_model_to_file(str(path))
            (self.folder / "fused.json").write_text(json.dumps(best.get_fused_operator_statistics()))
        return ONNXRUNTIME.open(path, replace(target, backend="onnxruntime"))


def taken(engine: Any, feeds: Feeds) -> Feeds:
    """Of the feeds those the engine takes, in the types it takes."""
    return {x.name: np.ascontiguousarray(feeds[x.name], dtype=x.dtype) for x in engine.inputs}


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters print and warn."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        silence = io.StringIO()
        with (
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
