"""What the inputs of a subnet's linears are on real rows: what int8 takes its scales from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from atb_export.onnx.builder import GraphBuilder
from atb_export.onnx.graph import WORDS, graph_bytes
from runtime.backends.onnxruntime import FreeSession
from supernet.batches import TokenizedTexts
from supernet.model import Supernet
from supernet.space import SubnetConfig

FLOAT_LINEARS = frozenset({"pooler", "logits"})
"""Never int8: they are a few percent of the time, and the answer is read off them."""
SAMPLE_TOKENS = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """One linear's input: `low` and `high` [in] over all rows, and `sample` [tokens, in] of the first rows.

    The sample ends with the row that brings it to `SAMPLE_TOKENS`.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    sample: NDArray[np.float32]


class FewWords(GraphBuilder):
    """A graph for the words of a few texts only, numbered by their place: the whole table is most of its bytes."""

    words: NDArray[np.int64]

    def weight(self, name: str, values: NDArray[Any]) -> str:
        """As `GraphBuilder.weight`, the word table cut."""
        return super().weight(name, values[self.words] if name == WORDS else values)


def words_of(rows: TokenizedTexts) -> NDArray[np.int64]:
    """The ids that occur, ascending."""
    return np.unique(np.concatenate([np.asarray(x, dtype=np.int64) for x in rows.input_ids]))


def each_row(session: FreeSession, rows: TokenizedTexts, words: NDArray[np.int64]) -> Iterator[dict[str, NDArray[Any]]]:
    """The outputs for every row on its own, without padding, of a graph of `words`."""
    for i in range(len(rows)):
        feeds = {name: x.numpy() for name, x in rows.batch([i]).items() if name in session.inputs}
        feeds["input_ids"] = np.searchsorted(words, feeds["input_ids"])
        yield session.run(feeds)


def inputs_seen(net: Supernet, subnet: SubnetConfig, rows: TokenizedTexts, *, token_types: bool) -> dict[str, Seen]:
    """Name of a linear -> its input on `rows`, those of `FLOAT_LINEARS` left out.

    Raises `ValueError` where there are no rows or one is too long, `BackendUnavailable` without ONNX Runtime.
    """
    if not len(rows):
        raise ValueError("int8 is calibrated on real texts, and none are given")
    longest, limit = max(map(len, rows.input_ids)), net.facts.max_position_embeddings
    if longest > limit:
        raise ValueError(f"a text to calibrate on has {longest} tokens, the position table {limit}: cut it")
    words = words_of(rows)
    watched: dict[str, str] = {}

    class Watching(FewWords):
        def linear(self, x: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
            if name not in FLOAT_LINEARS:
                watched[name] = x
                dims = ["batch", f"{name}.tokens", weight.shape[0]]
                self._outputs.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, dims))
            return super().linear(x, name, weight, bias)

    def builder(name: str) -> Watching:
        graph = Watching(name)
        graph.words = words
        return graph

    session = FreeSession(graph_bytes(net, subnet, token_types=token_types, builder=builder), optimised=True)
    ends: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    samples: dict[str, list[NDArray[np.float32]]] = {name: [] for name in watched}
    for outputs in each_row(session, rows, words):
        for name, x in watched.items():
            values = outputs[x].reshape(-1, outputs[x].shape[-1])
            low, high = ends.get(name, (values[0], values[0]))
            ends[name] = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
            if sum(map(len, samples[name])) < SAMPLE_TOKENS:
                samples[name].append(values)
    return {name: Seen(low=ends[name][0], high=ends[name][1], sample=np.concatenate(samples[name])) for name in watched}
