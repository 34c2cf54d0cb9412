"""The lean graph in int8: ranges measured on real rows, Q/DQ written around the products with weights.

Weights are int8, symmetric, one scale per output; activations uint8, one scale and zero point per tensor (on the quick
start's nets half the error of symmetric int8, for 2 to 4 % more time). Ranges are the smallest and the largest value
seen: LayerNorm's outliers sit in a few tokens that attention needs, and cutting the outermost tenth of the tokens costs
ten times the error while cutting the outermost thousandth gains nothing. Softmax, LayerNorm, attention's own products,
pooler and classifier stay float: they are a few percent of the time.

The scheme is that of Jacob et al. 2018 (arXiv:1712.05877); the nodes are ONNX's QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from atb_export.onnx.builder import GraphBuilder
from atb_export.onnx.graph import WORDS, graph_bytes
from runtime.backends.onnxruntime import FreeSession
from supernet.batches import TokenizedTexts
from supernet.model import Supernet
from supernet.space import SubnetConfig

Ranges = Mapping[str, tuple[float, float]]
"""Name of a linear -> smallest and largest value of its input."""

_FLOAT = ("pooler", "logits")
_BATCH = 16


def quantised_graph(net: Supernet, subnet: SubnetConfig, rows: TokenizedTexts, *, token_types: bool) -> onnx.ModelProto:
    """The subnet's ONNX classifier with int8 products, calibrated on `rows`: real texts, labels not needed.

    16 rows answer as well as 256 do: a range needs the outliers, and every text has them. Most of the time is one float
    inference per row. Raises `BackendUnavailable` where ONNX Runtime is missing.
    """
    return onnx.load_from_string(quantised_bytes(net, subnet, rows, token_types=token_types))


def quantised_bytes(net: Supernet, subnet: SubnetConfig, rows: TokenizedTexts, *, token_types: bool) -> bytes:
    """`quantised_graph` as a file's content."""
    ranges = measure_ranges(net, subnet, rows, token_types=token_types)
    return graph_bytes(net, subnet, token_types=token_types, builder=partial(QuantisingBuilder, ranges=ranges))


def measure_ranges(
    net: Supernet, subnet: SubnetConfig, rows: TokenizedTexts, *, token_types: bool
) -> dict[str, tuple[float, float]]:
    """What the inputs of the subnet's linears range over on `rows`; padding does not count."""
    if not len(rows):
        raise ValueError("int8 is calibrated on real texts, and none are given")
    longest, limit = max(map(len, rows.input_ids)), net.facts.max_position_embeddings
    if longest > limit:
        raise ValueError(f"a text to calibrate on has {longest} tokens, the position table {limit}: cut it")
    # Only the words that occur: the table is most of a graph's bytes.
    words = np.unique(np.concatenate([*map(np.asarray, rows.input_ids), [rows.pad_token_id]]))
    graph = graph_bytes(net, subnet, token_types=token_types, builder=partial(_RangeBuilder, words=words))
    session = FreeSession(graph, optimised=True)
    found: dict[str, tuple[float, float]] = {}
    for _, batch in rows.in_order(_BATCH):
        feeds = {name: batch[name].numpy() for name in session.inputs}
        feeds["input_ids"] = np.searchsorted(words, feeds["input_ids"])
        real = batch["attention_mask"].numpy() == 1
        outputs = session.run(feeds)
        for name in (x.removesuffix(".lowest") for x in outputs if x.endswith(".lowest")):
            # [batch, sequence], or [batch, 1] where only the first token is computed
            low, high = (outputs[f"{name}.{end}"] for end in ("lowest", "highest"))
            kept = real[:, : low.shape[1]]
            before = found.get(name, (0.0, 0.0))  # a range holds 0: it must be exact
            found[name] = (min(before[0], float(low[kept].min())), max(before[1], float(high[kept].max())))
    return found


class QuantisingBuilder(GraphBuilder):
    """Writes every linear that has a range as a product of dequantised uint8 and int8."""

    def __init__(self, name: str, *, ranges: Ranges) -> None:
        super().__init__(name)
        self.ranges = ranges

    def linear(self, x: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """As `GraphBuilder.linear`; the bias stays float."""
        if name in _FLOAT:
            return super().linear(x, name, weight, bias)
        if name not in self.ranges:
            raise ValueError(f"the linear {name} was not calibrated; there are {', '.join(self.ranges)}")
        scale, zero = _activation_scale(*self.ranges[name])
        names = [self.weight(f"{name}.input.scale", scale), self.weight(f"{name}.input.zero", zero)]
        rounded = self.node("QuantizeLinear", [x, *names], f"{name}.input.rounded")
        taken = self.node("DequantizeLinear", [rounded, *names], f"{name}.input")
        steps = _weight_scales(weight)
        values = np.clip(np.rint(weight / steps), -127, 127).astype(np.int8)
        names = [self.weight(f"{name}.weight", values), self.weight(f"{name}.weight.scale", steps)]
        matrix = self.node("DequantizeLinear", names, f"{name}.weight.float", axis=1)
        product = self.node("MatMul", [taken, matrix], f"{name}.product")
        return self.node("Add", [product, self.weight(f"{name}.bias", bias)], name)


class _RangeBuilder(GraphBuilder):
    """The float graph with each token's smallest and largest input of every linear as further outputs."""

    def __init__(self, name: str, *, words: NDArray[np.int64]) -> None:
        super().__init__(name)
        self.words = words

    def weight(self, name: str, values: NDArray[Any]) -> str:
        return super().weight(name, values[self.words] if name == WORDS else values)

    def linear(self, x: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        if name not in _FLOAT:
            axis = self.weight("last_axis", np.array([-1], dtype=np.int64))
            for op, end in (("ReduceMin", "lowest"), ("ReduceMax", "highest")):
                found = self.node(op, [x, axis], f"{name}.{end}", keepdims=0)
                dims = ["batch", f"{name}.tokens"]
                self._outputs.append(helper.make_tensor_value_info(found, TensorProto.FLOAT, dims))
        return super().linear(x, name, weight, bias)


def _activation_scale(low: float, high: float) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The scale and the zero point that spread uint8 over a range with 0 in it."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255 or 1.0)
    return np.array(scale), np.array(np.clip(np.rint(-low / scale), 0, 255), dtype=np.uint8)


def _weight_scales(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """One step per output of `weight` [in, out]; 1 where all its weights are 0."""
    steps = np.abs(weight).max(0).astype(np.float32) / np.float32(127)
    return np.where(steps > 0, steps, np.float32(1)).astype(np.float32)
