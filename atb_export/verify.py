"""Does every form of a model compute the same? One tolerance table, and refusal where it is exceeded.

The reference is the dense network in float64. An error is the largest absolute difference of logits, relative to the
largest reference logit where that exceeds 1.

An int8 engine is held against its own graph, computed as it is written: how far rounding took that graph from the
network is a loss of accuracy, to be measured as such. Even so the two differ where a value lies at a rounding edge: one
step more or less there, thousands of values behind it, and the logits of that row move by up to the loss itself. Most
rows have no such value, so the middle row is held to the table, and no row may leave `WORST_ROW`.
"""

from __future__ import annotations

from collections.abc import Sequence
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
WORST_ROW = 0.5
_BY_THE_MIDDLE_ROW = {"int8", "rounding"}

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


@torch.no_grad()
def reference_logits(model: Supernet, texts: TokenizedTexts, subnet: SubnetConfig | None = None) -> Logits:
    """Float64 logits [rows, labels], each row on its own, without padding."""
    exact = model.slice(subnet if subnet is not None else model.shape).double().eval()
    rows = [exact(**texts.batch([i])).logits[0].numpy() for i in range(len(texts))]
    return np.stack(rows)


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


def compare(model: str, stage: str, got: NDArray[Any], wanted: Logits, *, precision: str) -> Parity:
    """Holds logits [rows, labels] against the reference; a precision without a tolerance is refused."""
    if precision not in TOLERANCES:
        raise VerificationError(f"{stage} computes in {precision}; tolerances exist for {', '.join(TOLERANCES)}")
    got = np.asarray(got, dtype=np.float64)
    if got.shape != wanted.shape:
        raise VerificationError(f"{stage} answers logits of {list(got.shape)}, the dense model {list(wanted.shape)}")
    scale = max(1.0, float(np.abs(wanted).max()))
    error = _error(np.abs(got - wanted).max(-1) / scale, precision)
    same = got.argmax(-1) == wanted.argmax(-1)
    return Parity(
        model=model,
        stage=stage,
        max_abs_error=error if np.isfinite(error) else float("inf"),
        tolerance=TOLERANCES[precision],
        label_agreement=float(same.mean()),
        rows=len(got),
        passed=bool(error <= TOLERANCES[precision]),
    )


def _error(rows: Logits, precision: str) -> float:
    """One number for the errors of all rows."""
    worst = float(rows.max())
    return float(np.median(rows)) if precision in _BY_THE_MIDDLE_ROW and worst <= WORST_ROW else worst


def refuse(rows: Sequence[Parity]) -> None:
    """Raises `VerificationError` showing the worst of the failed comparisons."""
    failed = [row for row in rows if row.passed is False]
    if failed:
        worst = max(failed, key=lambda row: (row.max_abs_error or 0.0) / (row.tolerance or 1.0))
        raise VerificationError(
            f"{len(failed)} of {len(rows)} comparisons failed; the worst is {worst.model} / {worst.stage}: "
            f"error {worst.max_abs_error:.3g}, allowed {worst.tolerance:.3g}, labels agree on "
            f"{(worst.label_agreement or 0):.1%} of {worst.rows} rows. It is neither measured nor packed"
        )


def feeds_for(engine: Engine, texts: TokenizedTexts, rows: Sequence[int]) -> Feeds:
    """The rows padded to the engine's one shape; rows beyond the given ones repeat the last."""
    shape = engine.target.shape
    filled = list(rows) + [rows[-1]] * (shape.batch - len(rows))
    batch = texts.batch(filled, length=shape.length)
    arrays = {name: np.ascontiguousarray(tensor.numpy(), dtype=np.int64) for name, tensor in batch.items()}
    return {x.name: arrays.get(x.name, np.zeros(shape.dims, dtype=np.int64)) for x in engine.inputs}


def engine_logits(engine: Engine, texts: TokenizedTexts) -> NDArray[Any]:
    """Float32 logits [rows, labels] of all texts, in the engine's batches; texts must fit its length."""
    batch = engine.target.shape.batch
    found = []
    for start in range(0, len(texts), batch):
        rows = range(start, min(start + batch, len(texts)))
        found.append(engine.infer(feeds_for(engine, texts, rows))["logits"][: len(rows)])
    return np.concatenate(found)


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
