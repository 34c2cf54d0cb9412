"""Where a failing engine begins to depart: the values between the layers, watched one by one.

The graph names its values by what makes them (`embeddings`, `layer0.attention`, `layer0`, `layer1.attention`, ...).
Cast to float32 they become further outputs, the same backend builds the same target from that graph, and each is held
against the network in float64. The first that differs names the place.

Watching changes what a compiler may fuse. Where every watched value agrees although the logits did not, that is said.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

from atb_export.dense import DenseModel
from atb_export.onnx.as_written import AsWritten
from atb_export.onnx.external import read_whole
from atb_export.probes import engine_probes
from atb_export.verify import TOLERANCES, WORST_ROW, feeds_for
from runtime.backends.onnxruntime import FreeSession
from runtime.engine import backend
from runtime.errors import AtbRuntimeError
from runtime.target import EngineTarget
from supernet.batches import TokenizedTexts
from supernet.model import Supernet

Values = Mapping[str, NDArray[Any]]
"""Name of a value of the graph -> [rows, tokens, size], or [rows, size] where only the first token is computed."""

_SEEN = ".seen"
_FLOATS = {"f32", "f16", "bf16", "tf32", "f64"}
_ROWS = 8


def first_departure(
    model: DenseModel,
    target: EngineTarget | None,
    texts: TokenizedTexts,
    *,
    onnx: bytes | Path,
    precision: str,
) -> str | None:
    """A sentence on the first value where the engine built from `onnx` for `target` departs, or None.

    `precision` is the engine's effective one. Without a `target` the graph is computed as it is written. An int8 engine
    is held against its own graph. None where nothing can be watched here.
    """
    length = max(map(len, texts.input_ids)) if target is None else target.shape.length
    probes = engine_probes(texts, length=length)
    probes = probes.take(range(min(_ROWS, len(probes))))
    try:
        names, watched = _watched(onnx, [name for name, _ in _places(model.net)])
        if target is None:
            got = _as_written(AsWritten(watched), probes, length)
        else:
            got = _of_engine(watched.SerializeToString(), target, probes)
        if target is not None and precision == "int8":
            wanted = _as_written(FreeSession(watched.SerializeToString(), optimised=False), probes, length)
        else:
            wanted = exact_values(model.net, probes, length)
    except (AtbRuntimeError, ValueError, DecodeError):
        return None
    real = [len(ids) for ids in probes.input_ids]
    return departure({x: got[x] for x in names}, wanted, real, precision=precision)


def departure(got: Values, wanted: Values, lengths: list[int], *, precision: str) -> str | None:
    """The first value of `got`, in its order, that is not as `wanted` within `TOLERANCES`; padding is left out."""
    agree: list[str] = []
    for name, values in got.items():
        other = wanted[name]
        if values.ndim == 3 and other.ndim == 3:
            other = other[:, : values.shape[1]]  # the last layer computes the first token only
            rows = [(values[i, :n], other[i, :n]) for i, n in enumerate(lengths)]
        else:
            rows = [(values[i], other[i]) for i in range(len(lengths))]
        scale = max(1.0, *(float(np.abs(y).max()) for _, y in rows))
        errors = [float(np.abs(x.astype(np.float64) - y).max()) / scale for x, y in rows]
        finite = all(np.isfinite(x).all() for x, _ in rows)
        worst = max(errors)
        error = worst if precision in _FLOATS or worst > WORST_ROW else float(np.median(errors))
        if not finite or not error <= TOLERANCES[precision]:
            told = f"error {error:.2g}, allowed {TOLERANCES[precision]:.2g}" if finite else "values that are not finite"
            before = f"; {', '.join(agree[-3:])} agree" if agree else ""
            return f"The first to depart is {name}: {told}{before}"
        agree.append(name)
    return f"Watched, every value up to {agree[-1]} agrees: it lies in what the compiler fuses" if agree else None


def _places(net: Supernet) -> list[tuple[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None]]:
    """Names of the graph's values in order, each with what makes it of its layer's input and the mask."""
    found: list[tuple[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None]] = [("embeddings", None)]
    for i, (layer, cut) in enumerate(zip(net.encoder, net.shape.layers, strict=True)):
        for cells in range(len(layer.stack) + 1):
            # The layer with its first cells only: what it shares with the whole one is the same tensors.
            part = copy.copy(layer)
            part._modules = {**layer._modules, "cells": nn.ModuleList(layer.stack[:cells])}

            def run(x: torch.Tensor, mask: torch.Tensor, part: Any = part, cut: Any = cut) -> torch.Tensor:
                made: torch.Tensor = part(x, mask, cut=cut, need_scores=False)[0]
                return made

            name = (f"layer{i}.attention", f"layer{i}")[cells] if cells < 2 else f"layer{i}.cell{cells - 1}"
            found.append((name, run))
    return [*found, ("logits", None)]


@torch.no_grad()
def exact_values(net: Supernet, texts: TokenizedTexts, length: int) -> dict[str, NDArray[np.float64]]:
    """The watched values in float64, of rows padded to `length`."""
    exact = net.slice(net.shape).double().eval()
    batch = texts.batch(range(len(texts)), length=length)
    answer = exact(**batch, hidden_states=True)
    mask = torch.zeros(len(texts), 1, 1, length, dtype=torch.float64)
    mask = mask.masked_fill(batch["attention_mask"][:, None, None, :] == 0, torch.finfo(torch.float64).min)
    found = {"embeddings": answer.hidden_states[0], "logits": answer.logits}
    for name, run in _places(exact):
        if run is not None:
            found[name] = run(answer.hidden_states[int(name.split(".")[0].removeprefix("layer"))], mask)
    return {name: tensor.numpy() for name, tensor in found.items()}


def _watched(source: bytes | Path, wanted: list[str]) -> tuple[list[str], onnx.ModelProto]:
    """The model with the wanted values it has as further outputs in float32, and their names in order."""
    model = onnx.load_from_string(source) if isinstance(source, bytes) else read_whole(source)
    there = {name for node in model.graph.node for name in node.output}
    outputs = {x.name for x in model.graph.output}
    names = [name for name in wanted if name in there]
    for name in names:
        if name not in outputs:
            model.graph.node.append(helper.make_node("Cast", [name], [name + _SEEN], to=TensorProto.FLOAT))
            dims = ["batch", f"{name}.tokens", f"{name}.size"]
            model.graph.output.append(helper.make_tensor_value_info(name + _SEEN, TensorProto.FLOAT, dims))
    return names, model


def _named(outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removesuffix(_SEEN): values for name, values in outputs.items()}


def _as_written(session: FreeSession | AsWritten, texts: TokenizedTexts, length: int) -> dict[str, NDArray[Any]]:
    batch = texts.batch(range(len(texts)), length=length)
    return _named(session.run({name: batch[name].numpy() for name in session.inputs}))


def _of_engine(watched: bytes, target: EngineTarget, texts: TokenizedTexts) -> dict[str, NDArray[Any]]:
    """What the engine answers, batch by batch, rows of all lengths padded alike."""
    parts: list[dict[str, NDArray[Any]]] = []
    with backend(target.backend).open(watched, target) as engine:
        size = 1 if target.dynamic else target.shape.batch
        for start in range(0, len(texts), size):
            rows = range(start, min(start + size, len(texts)))
            outputs = _named(engine.infer(feeds_for(engine, texts, rows)))
            parts.append({name: values[: len(rows)] for name, values in outputs.items()})
    return {name: _stacked([part[name] for part in parts]) for name in parts[0]}


def _stacked(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """One array of parts whose numbers of tokens may differ: what is missing is padding."""
    if parts[0].ndim < 3:
        return np.concatenate(parts)
    longest = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, longest - part.shape[1]), (0, 0))) for part in parts])
