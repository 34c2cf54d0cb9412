"""Which linears int8 hurts: left in float one after another, most harmful first, until the score is good enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_export.onnx.calibration import FewWords, Seen, each_row, inputs_seen, words_of
from atb_export.onnx.graph import graph_bytes
from atb_export.onnx.quantise import QuantisingBuilder
from atb_export.verify import engine_logits
from runtime.backends.onnxruntime import FreeSession
from runtime.engine import backend
from runtime.target import EngineTarget
from supernet.batches import TokenizedTexts
from supernet.model import Supernet
from supernet.space import SubnetConfig

Score = Callable[[bytes], float]
"""A graph's content -> how good its answers are; more is better."""

HARM_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class FallBack:
    """What was tried. `keep_float` are the linears left in float, in the order they were taken out of int8.

    `scores[i]` is that of the graph with the first i of them in float; `harms` the mean error of the logits with one
    linear in int8 alone, where anything had to be left. `met` is False where even the last graph is not good enough.
    """

    float_score: float
    allowed_drop: float
    keep_float: tuple[str, ...]
    scores: tuple[float, ...]
    harms: dict[str, float]
    met: bool

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class FallBackGraph:
    """The last graph tried, as a file's content, and how it was found."""

    graph: bytes
    found: FallBack


def accuracy_aware(
    net: Supernet,
    subnet: SubnetConfig,
    calibration: TokenizedTexts,
    *,
    token_types: bool,
    score: Score,
    allowed_drop: float,
    most: int | None = None,
    symmetric: bool = True,
) -> FallBackGraph:
    """An int8 graph that scores at most `allowed_drop` less than the float one, with few linears in float.

    `score` is asked at most `most` + 2 times; `most` is the largest number of linears left, by default one that leaves
    most products in int8. Harm is measured on the first rows of `calibration`, linear by linear, and only where int8
    throughout is not good enough. The same inputs give the same graph, if `score` answers the same.
    """
    if allowed_drop < 0:
        raise ValueError(f"allowed_drop is 0 or more, got {allowed_drop}")
    seen = inputs_seen(net, subnet, calibration, token_types=token_types)
    if most is None:
        most = max(0, (len(seen) - 5) // 2)  # pooler, classifier and the last layer's own products are float already

    def written(kept: list[str]) -> bytes:
        chosen = {name: x for name, x in seen.items() if name not in kept}
        builder = partial(QuantisingBuilder, linears=chosen, symmetric=symmetric)
        return graph_bytes(net, subnet, token_types=token_types, builder=builder)

    wanted = score(graph_bytes(net, subnet, token_types=token_types)) - allowed_drop
    kept: list[str] = []
    graph = written(kept)
    scores = [score(graph)]
    harms: dict[str, float] = {}
    while scores[-1] < wanted and len(kept) < min(most, len(seen)):
        harms = harms or _harms(net, subnet, calibration, seen, token_types=token_types, symmetric=symmetric)
        kept.append(max((name for name in harms if name not in kept), key=lambda name: harms[name]))
        graph = written(kept)
        scores.append(score(graph))
    found = FallBack(
        float_score=wanted + allowed_drop,
        allowed_drop=allowed_drop,
        keep_float=tuple(kept),
        scores=tuple(scores),
        harms=harms,
        met=scores[-1] >= wanted,
    )
    return FallBackGraph(graph=graph, found=found)


def label_score(rows: TokenizedTexts, labels: NDArray[Any], target: EngineTarget) -> Score:
    """The share of `rows` whose answer is their label (int64 [rows]), from an engine compiled for `target`.

    True labels make it an accuracy, the float network's answers an agreement. Float labels are those of a regression:
    then it is minus the mean absolute error. The engine's precision is what the graph brings.
    """
    if len(labels) != len(rows):
        raise ValueError(f"there are {len(rows)} rows and {len(labels)} labels")

    def score(graph: bytes) -> float:
        with backend(target.backend).open(graph, target) as engine:
            logits = engine_logits(engine, rows)
        if np.issubdtype(labels.dtype, np.floating):
            return -float(np.abs(logits[:, 0] - labels).mean())
        return float((logits.argmax(-1) == labels).mean())

    return score


class _FewInt8Words(FewWords, QuantisingBuilder):
    """int8 for the words of a few texts only."""


def _harms(
    net: Supernet,
    subnet: SubnetConfig,
    rows: TokenizedTexts,
    seen: dict[str, Seen],
    *,
    token_types: bool,
    symmetric: bool,
) -> dict[str, float]:
    """Linear -> mean absolute error of the logits where it alone is int8."""
    rows = rows.take(range(min(HARM_ROWS, len(rows))))
    words = words_of(rows)

    def answers(chosen: dict[str, Seen]) -> NDArray[Any]:
        def builder(name: str) -> _FewInt8Words:
            graph = _FewInt8Words(name, linears=chosen, symmetric=symmetric)
            graph.words = words
            return graph

        session = FreeSession(graph_bytes(net, subnet, token_types=token_types, builder=builder), optimised=True)
        return np.concatenate([outputs["logits"] for outputs in each_row(session, rows, words)])

    exact = answers({})
    return {name: float(np.abs(answers({name: x}) - exact).mean()) for name, x in seen.items()}
