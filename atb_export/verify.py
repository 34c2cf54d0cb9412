"""Does every form of a model compute the same? One tolerance table, and refusal where it is exceeded.

The reference is the dense network in float64. An error is the largest absolute difference of logits, relative to the
largest reference logit where that exceeds 1.

An int8 engine is held against its own graph, computed as it is written: how far rounding took that graph from the
network is a loss of accuracy, to be measured as such. Even so the two differ where a value lies at a rounding edge: one
step more or less there, thousands of values behind it, and the logits of that row move by up to the loss itself. Most
rows have no such value, so the middle row is held to the table, and no row may leave `WORST_ROW`.

`STRESS` is the table for random weights with large values, where attention is all or nothing: two scores that differ
by less than a precision can tell turn a row around, and no engine of that precision could do better. So there every
precision that rounds to less than float32 is held to the table by its middle row alone, and the others must be finite:
of 18 networks one row of one moved by 0.54 in bf16, with nothing wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atb_export.errors import VerificationError
from runtime.backends.onnxruntime import FreeSession
from runtime.engine import Engine, Feeds
from runtime.target import EngineTarget
from supernet.batches import TokenizedTexts
from supernet.model import Supernet
from supernet.space import SubnetConfig

TOLERANCES = {"f64": 1e-9, "f32": 1e-4, "tf32": 5e-3, "f16": 1e-2, "bf16": 5e-2, "int8": 2e-2, "rounding": 1e-1}
"""Largest allowed error by effective precision; bf16 keeps 8 bits of a number, which a few layers multiply.

"int8" is of an engine against its graph: trained nets of 4 to 6 layers stay below 2e-3, 12 layers of random weights
below 1.5e-2. "rounding" is of that graph against the network, where 3e-2 is usual; more than this is a wrong range.
"""
STRESS = {"f64": 1e-9, "f32": 1e-3, "tf32": 2e-2, "f16": 2e-2, "bf16": 1e-1, "int8": 5e-2}
"""The same for `atb_export.stress`, about ten times (bf16 five times) what was seen of 2, 6 and 12 layers with 6 seeds
each: f32 engines up to 9e-5 in the worst row; middle rows of bf16 1.3e-2 from OpenVINO and 2.1e-2 as written, of f16
2.2e-3 as written, of int8 5.4e-3. A graph as written stands in for engines that need a GPU; tf32 was never seen."""
WORST_ROW = 0.5
_BY_THE_MIDDLE_ROW = {"int8", "rounding"}
_EXACT = {"f64", "f32"}

Logits = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """One comparison; `passed` is None where it could not run here, for the reason in `skipped`.

    `max_abs_error` is of the worst row, in int8 of the middle one unless the worst left `WORST_ROW`.
    """

    model: str
    stage: str
    max_abs_error: float | None = None
    tolerance: float | None = None
    label_agreement: float | None = None
    rows: int = 0
    passed: bool | None = None
    skipped: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As in result.json."""
        return asdict(self)


class Reference:
    """The network in float64, which remembers what it answered: every form of a model is held against it."""

    def __init__(self, model: Supernet, subnet: SubnetConfig | None = None) -> None:
        self.net = model.slice(subnet if subnet is not None else model.shape).double().eval()
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], Logits] = {}

    @torch.no_grad()
    def logits(self, texts: TokenizedTexts) -> Logits:
        """Float64 [rows, labels], each row on its own, without padding; of spans as `by_place` has them."""
        types: Sequence[list[int]] = texts.token_type_ids or [[]] * len(texts)
        keys = [(tuple(ids), tuple(of)) for ids, of in zip(texts.input_ids, types, strict=True)]
        for i, key in enumerate(keys):
            if key not in self._known:
                self._known[key] = self.net(**texts.batch([i])).logits[0].numpy()
        found = [self._known[key] for key in keys]
        return np.stack(found) if self.net.facts.head == "sequence" else by_place(found)


def by_place(logits: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Logits [tokens, labels] of each text as rows [texts * labels, longest] of places to choose among, so that two
    agree where they choose the same place. Behind a text's end stands its first place's, which is not chosen again."""
    longest = max(map(len, logits))
    rows = [np.concatenate([x, np.repeat(x[:1], longest - len(x), axis=0)]).T for x in logits]
    return np.concatenate(rows)


def reference_logits(model: Supernet, texts: TokenizedTexts, subnet: SubnetConfig | None = None) -> Logits:
    """Float64 logits [rows, labels] of one network or subnet."""
    return Reference(model, subnet).logits(texts)


def exact_quantised_logits(onnx: bytes | Path, target: EngineTarget, texts: TokenizedTexts) -> Logits:
    """Logits [rows, labels] of a graph with Q/DQ, every node as it is written, rows padded as for `target`.

    Raises `BackendUnavailable` where ONNX Runtime is missing.
    """
    session = FreeSession(onnx, optimised=False)
    found = []
    for start in range(0, len(texts), 8):
        batch = texts.batch(range(start, min(start + 8, len(texts))), length=target.shape.length)
        found.append(session.run({name: batch[name].numpy() for name in session.inputs})["logits"])
    return np.concatenate(found).astype(np.float64)


def compare(
    model: str, stage: str, got: NDArray[Any], wanted: Logits, *, precision: str, stress: bool = False
) -> Parity:
    """Holds logits [rows, labels] against the reference; a precision without a tolerance is refused."""
    table = STRESS if stress else TOLERANCES
    if precision not in table:
        raise VerificationError(f"{stage} computes in {precision}; tolerances exist for {', '.join(table)}")
    got = np.asarray(got, dtype=np.float64)
    if got.shape != wanted.shape:
        raise VerificationError(f"{stage} answers logits of {list(got.shape)}, the dense model {list(wanted.shape)}")
    scale = max(1.0, float(np.abs(wanted).max()))
    by_middle = precision not in _EXACT if stress else precision in _BY_THE_MIDDLE_ROW
    limit = float("inf") if stress else WORST_ROW
    error = _error(np.abs(got - wanted).max(-1) / scale, by_middle=by_middle, limit=limit)
    same = got.argmax(-1) == wanted.argmax(-1)
    return Parity(
        model=model,
        stage=stage,
        max_abs_error=error if np.isfinite(error) else float("inf"),
        tolerance=table[precision],
        label_agreement=float(same.mean()),
        rows=len(got),
        passed=bool(error <= table[precision]),
    )


def _error(rows: Logits, *, by_middle: bool, limit: float) -> float:
    """One number for the errors of all rows: the middle one where all are numbers within `limit`, else the worst."""
    worst = float(rows.max())
    return float(np.median(rows)) if by_middle and np.isfinite(worst) and worst <= limit else worst


def refuse(rows: Sequence[Parity], locate: Callable[[], str | None] | None = None) -> None:
    """Raises `VerificationError` showing the worst of the failed comparisons, and what `locate` finds out about it."""
    failed = [row for row in rows if row.passed is False]
    if failed:
        worst = max(failed, key=lambda row: (row.max_abs_error or 0.0) / (row.tolerance or 1.0))
        raise VerificationError(
            f"{len(failed)} of {len(rows)} comparisons failed; the worst is {worst.model} / {worst.stage}: "
            f"error {worst.max_abs_error:.3g}, allowed {worst.tolerance:.3g}, labels agree on "
            f"{(worst.label_agreement or 0):.1%} of {worst.rows} rows. {_found(locate)}"
            "It is neither measured nor packed"
        )


def _found(locate: Callable[[], str | None] | None) -> str:
    found = None if locate is None else locate()
    return "" if found is None else f"{found}. "


def feeds_for(engine: Engine, texts: TokenizedTexts, rows: Sequence[int]) -> Feeds:
    """The rows padded to the engine's one shape; rows beyond the given ones repeat the last.

    A dynamic engine gets them as they are, padded to the longest.
    """
    target = engine.target
    if target.dynamic:
        return _arrays(engine, texts.batch(list(rows)))
    filled = list(rows) + [rows[-1]] * (target.shape.batch - len(rows))
    return _arrays(engine, texts.batch(filled, length=target.shape.length))


def _arrays(engine: Engine, batch: Mapping[str, torch.Tensor]) -> Feeds:
    arrays = {name: np.ascontiguousarray(tensor.numpy(), dtype=np.int64) for name, tensor in batch.items()}
    return {x.name: arrays.get(x.name, np.zeros_like(arrays["input_ids"])) for x in engine.inputs}


def engine_logits(engine: Engine, texts: TokenizedTexts) -> NDArray[Any]:
    """Float32 logits [rows, labels] of all texts, in the engine's batches; texts must fit its length."""
    batch = engine.target.shape.batch
    found = []
    for start in range(0, len(texts), batch):
        rows = range(start, min(start + batch, len(texts)))
        found.append(engine.infer(feeds_for(engine, texts, rows))["logits"][: len(rows)])
    return np.concatenate(found)


def logits_beside_padding(engine: Engine, texts: TokenizedTexts) -> NDArray[Any]:
    """Logits [rows, labels] of each text as the first row of a batch whose other rows are padding alone: no text at
    all, as a server fills a batch up. What those rows answer does not matter as long as it is finite."""
    shape = engine.target.shape
    found = []
    for i in range(len(texts)):
        batch = dict(texts.batch([i] * shape.batch, length=shape.length))
        for name, fill in (("input_ids", texts.pad_token_id), ("attention_mask", 0), ("token_type_ids", 0)):
            if name in batch:
                batch[name][1:] = fill
        logits = engine.infer(_arrays(engine, batch))["logits"]
        found.append(logits[0] if np.isfinite(logits).all() else np.full_like(logits[0], np.nan))
    return np.stack(found)


def probe_texts(texts: TokenizedTexts, *, length: int, count: int) -> TokenizedTexts:
    """`count` rows that spread over the lengths present, cut to `length`, the shortest and the longest included."""
    order = sorted(range(len(texts)), key=lambda i: len(texts.input_ids[i]))
    picks = [order[round(i * (len(order) - 1) / max(1, count - 1))] for i in range(min(count, len(order)))]
    types = texts.token_type_ids
    return TokenizedTexts(
        input_ids=tuple(texts.input_ids[i][:length] for i in picks),
        token_type_ids=tuple(types[i][:length] for i in picks) if types is not None else None,
        pad_token_id=texts.pad_token_id,
    )
