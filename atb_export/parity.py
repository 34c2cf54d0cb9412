"""Every form of a model held against the network in float64: `transformers` folder, each ONNX file, each engine."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from atb_export.dense import DenseModel, as_loaded
from atb_export.graphs import graph_for, graph_kind
from atb_export.onnx.as_written import AsWritten
from atb_export.onnx.external import read_whole
from atb_export.probes import engine_probes
from atb_export.stress import stress_copy, stress_texts
from atb_export.verify import (
    Logits,
    Parity,
    Reference,
    by_place,
    compare,
    engine_logits,
    exact_quantised_logits,
    feeds_for,
    logits_beside_padding,
)
from runtime.engine import Engine, backend
from runtime.target import EngineTarget, Shape
from supernet.batches import TokenizedTexts
from supernet.teacher import logits_of

_BESIDE = 6  # texts that are asked beside padding: one inference each
_STRESS_LENGTH = (
    32  # tokens: as long as the short buckets, so that every backend and precision costs a fraction of a second
)


class Verifier:
    """The forms of one model, held against its float64 answers to `texts`; a form that cannot run here is skipped."""

    def __init__(self, model: DenseModel, texts: TokenizedTexts, *, name: str) -> None:
        self.model = model
        self.texts = texts
        self.name = name

    @cached_property
    def reference(self) -> Reference:
        """The network in float64."""
        return Reference(self.model.net)

    @property
    def pairs(self) -> bool:
        """Whether the graphs take token types."""
        return self.texts.token_type_ids is not None

    @torch.no_grad()
    def dense(self, folder: Path) -> list[Parity]:
        """The `transformers` folder, loaded as a user would, in one padded batch."""
        loaded = as_loaded(folder, self.model.net.facts.head)
        logits = logits_of(loaded(**self.texts.batch(range(len(self.texts))))).numpy()
        if self.model.net.facts.head == "span":
            logits = by_place([x[:count] for x, count in zip(logits, self.texts.lengths, strict=True)])
        stage = f"dense ({type(loaded).__name__}, padded batch)"
        return [compare(self.name, stage, logits, self.reference.logits(self.texts), precision="f32")]

    def graph(self, onnx: Path, kind: str) -> list[Parity]:
        """An ONNX file of one kind of graph, under ONNX Runtime; OpenVINO's own is held as its engines."""
        if kind == "openvino":
            return []
        if kind == "int8":
            return [self._rounding(onnx)]
        return self._float(onnx) if kind == "f32" else [self._typed(onnx, kind)]

    def _float(self, onnx: Path) -> list[Parity]:
        """Rows alone at their own length, and one padded batch."""
        runtime = backend("onnxruntime")
        if (reason := runtime.can_run()) is not None:
            return [Parity(model=self.name, stage="onnx", skipped=reason)]
        wanted = self.reference.logits(self.texts)
        longest = max(map(len, self.texts.input_ids))
        found = []
        for label, shape in (("onnx (batch 1)", Shape(batch=1, length=longest)),
                             ("onnx (padded batch)", Shape(batch=len(self.texts), length=longest))):  # fmt: skip
            with runtime.open(onnx, EngineTarget(backend="onnxruntime", precision="f32", shape=shape)) as engine:
                logits = engine_logits(engine, self.texts)
                found.append(compare(self.name, label, logits, wanted, precision=engine.effective_precision))
        return found

    def _typed(self, onnx: Path, kind: str) -> Parity:
        """Every node as it is written: what overflows in f16 does so here as well as on a GPU."""
        session = AsWritten(read_whole(onnx))
        batch = self.texts.batch(range(len(self.texts)))
        logits = session.run({x: batch[x].numpy() for x in session.inputs})["logits"]
        stage = f"onnx {kind} (as written)"
        return compare(self.name, stage, logits, self.reference.logits(self.texts), precision=kind)

    def _rounding(self, onnx: Path) -> Parity:
        """The int8 graph, computed as it is written, against the float network: what rounding costs in logits."""
        shape = Shape(batch=1, length=max(map(len, self.texts.input_ids)))
        target = EngineTarget(backend="onnxruntime", precision="int8", shape=shape)
        got = exact_quantised_logits(onnx, target, self.texts)
        wanted = self.reference.logits(self.texts)
        return compare(self.name, "onnx int8 (rounding)", got, wanted, precision="rounding")

    def engine(self, engine: Engine, onnx: Path) -> list[Parity]:
        """An engine built from `onnx`: real and adversarial texts in mixed batches, beside rows of padding alone, and
        for a dynamic one at each text's own length."""
        target = engine.target
        probes = engine_probes(self.texts, length=target.shape.length)
        wanted = self.wanted(onnx, target, probes)

        def row(what: str, got: NDArray[np.float32], of: Logits) -> Parity:
            return compare(self.name, f"{target.label}{what}", got, of, precision=engine.effective_precision)

        found = [row("", engine_logits(engine, probes), wanted)]
        if target.dynamic:
            alone = [engine.infer(feeds_for(engine, probes, [i]))["logits"][0] for i in range(len(probes))]
            found.append(row(" (alone)", np.stack(alone), wanted))
        elif target.shape.batch > 1:
            some = range(min(_BESIDE, len(probes)))
            found.append(
                row(" (beside padding)", logits_beside_padding(engine, probes.take(some)), wanted[: len(some)])
            )
        return found

    def wanted(self, onnx: bytes | Path, target: EngineTarget, texts: TokenizedTexts) -> Logits:
        """What a target's engine must answer: the network's logits, in int8 those of the int8 graph."""
        if graph_kind(target) == "int8":
            return exact_quantised_logits(onnx, target, texts)
        return self.reference.logits(texts)

    def stress(self, target: EngineTarget) -> Parity:
        """The target's backend and precision on random weights with large values; see `atb_export.stress`."""
        length = min(_STRESS_LENGTH, target.shape.length)
        short = replace(target, shape=Shape(batch=min(2, target.shape.batch), length=length))
        stage = f"{target.group} (large weights)"
        if (reason := backend(target.backend).can_run()) is not None:
            return Parity(model=self.name, stage=stage, skipped=reason)
        net = stress_copy(self.model.net, length=length)
        texts = stress_texts(net, pairs=self.pairs, length=length)
        onnx = graph_for(net, None, short, token_types=self.pairs, calibration=texts)
        wanted = (
            exact_quantised_logits(onnx, short, texts) if graph_kind(short) == "int8" else Reference(net).logits(texts)
        )
        with backend(target.backend).open(onnx, short) as engine:
            got = engine_logits(engine, texts)
            return compare(self.name, stage, got, wanted, precision=engine.effective_precision, stress=True)
