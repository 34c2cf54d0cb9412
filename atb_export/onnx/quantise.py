"""The lean graph in int8: scales from real rows, Q/DQ written around the products with weights.

Weights are int8, symmetric, one scale per output; activations int8 around 0, one scale per tensor: all that TensorRT
takes, so that one graph serves every runtime. (uint8 with a zero point has a twelfth less error and costs OpenVINO 2 %
more time.) Two things bring the error down to half of plain min/max ranges with a zero point, for one multiplication
per product, which OpenVINO fuses and ONNX Runtime pays 2 to 4 % of the time for:

- outliers sit in few channels of an activation, so its channels are divided by s and the rows of the weights multiplied
  by it, s = max|x|^a / max|w|^(1-a) as SmoothQuant has it (arXiv:2211.10438). The best `a` differs: it is the one whose
  rounded product is nearest to the exact one on the rows, each linear for itself;
- what rounding adds on average to a product's outputs is taken from its bias.

Ranges are the smallest and the largest value seen: cutting them costs more than it gains. Softmax, LayerNorm,
attention's own products, pooler and classifier stay float: they are a few percent of the time.

The scheme is that of Jacob et al. 2018 (arXiv:1712.05877); the nodes are ONNX's QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atb_export.onnx.builder import GraphBuilder
from atb_export.onnx.calibration import FLOAT_LINEARS, Seen, inputs_seen
from atb_export.onnx.graph import graph_parts
from supernet.batches import TokenizedTexts
from supernet.model import Supernet
from supernet.space import SubnetConfig

SCHEME = "spread"
"""Names what is written around a product: latencies of another scheme are those of other graphs."""

_EXPONENTS = (0.7, 0.8, 0.9)
_TRIED_TOKENS = 64
_NONE: frozenset[str] = frozenset()


def quantised_bytes(
    net: Supernet,
    subnet: SubnetConfig,
    rows: TokenizedTexts,
    *,
    token_types: bool,
    keep_float: frozenset[str] = _NONE,
    symmetric: bool = True,
) -> bytes:
    """A file's content: the subnet's ONNX classifier with int8 products, calibrated on `rows`, which need no labels.

    16 rows of real text serve, 64 are a little better. Linears named in `keep_float` stay as they are. Raises
    `BackendUnavailable` where ONNX Runtime is missing.
    """
    return b"".join(
        quantised_parts(net, subnet, rows, token_types=token_types, keep_float=keep_float, symmetric=symmetric)
    )


def quantised_parts(
    net: Supernet,
    subnet: SubnetConfig,
    rows: TokenizedTexts,
    *,
    token_types: bool,
    keep_float: frozenset[str] = _NONE,
    symmetric: bool = True,
    words_file: str | None = None,
) -> list[bytes | memoryview]:
    """`quantised_bytes` in pieces; with `words_file` the word table is in that file beside it."""
    seen = inputs_seen(net, subnet, rows, token_types=token_types)
    if unknown := keep_float - seen.keys():
        raise ValueError(f"there is no linear {min(unknown)} to keep in float; there are {', '.join(seen)}")
    linears = {name: x for name, x in seen.items() if name not in keep_float}
    builder = partial(QuantisingBuilder, linears=linears, symmetric=symmetric)
    return graph_parts(net, subnet, token_types=token_types, builder=builder, words_file=words_file)


class Rounded(NamedTuple):
    """A linear in integers: x / `spread` is rounded by `scale` and `zero`, the product's bias less `shift`."""

    spread: NDArray[np.float32]
    scale: NDArray[np.float32]
    zero: NDArray[Any]
    values: NDArray[np.int8]
    steps: NDArray[np.float32]
    shift: NDArray[np.float32]


def round_linear(weight: NDArray[np.float32], seen: Seen, *, symmetric: bool) -> Rounded:
    """The `weight` [in, out] and its input in integers, with the exponent that keeps the product nearest to exact.

    The exponent is chosen on some tokens of the sample, the shift taken from all of them.
    """
    some = seen.sample[:: max(1, len(seen.sample) // _TRIED_TOKENS)]
    tried = [_rounded(weight, seen, exponent, symmetric) for exponent in _EXPONENTS]
    exact = some @ weight
    errors = [float(np.square(error - error.mean(0)).mean()) for error in (_product(x, some) - exact for x in tried)]
    best = tried[errors.index(min(errors))]
    return best._replace(shift=(_product(best, seen.sample) - seen.sample @ weight).mean(0))


def _rounded(weight: NDArray[np.float32], seen: Seen, exponent: float, symmetric: bool) -> Rounded:
    """Without a shift yet."""
    spread = _spread(np.maximum(-seen.low, seen.high), np.abs(weight).max(1), exponent)
    low, high = float((seen.low / spread).min()), float((seen.high / spread).max())
    scale, zero = _symmetric_scale(low, high) if symmetric else _activation_scale(low, high)
    spread_weight = weight * spread[:, None]
    steps = _weight_scales(spread_weight)
    values = np.clip(np.rint(spread_weight / steps), -127, 127).astype(np.int8)
    return Rounded(spread, scale, zero, values, steps, np.zeros(weight.shape[1], np.float32))


def _product(made: Rounded, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the integers make of `inputs` [tokens, in], in float32 [tokens, out]."""
    limits, zero = np.iinfo(made.zero.dtype), float(made.zero)
    taken = np.clip(np.rint(inputs / (made.spread * made.scale)) + zero, limits.min, limits.max) - zero
    found: NDArray[np.float32] = (taken.astype(np.float32) * made.scale) @ made.values.astype(np.float32) * made.steps
    return found


def _spread(inputs: NDArray[np.float32], weights: NDArray[np.float32], exponent: float) -> NDArray[np.float32]:
    """s [in], geometric mean 1, from the largest |x| and |w| of every channel; dead channels count as small ones."""
    top = [np.maximum(x, 1e-3 * float(x.max()) or 1.0) for x in (np.abs(inputs), weights)]
    logs = exponent * np.log(top[0]) - (1 - exponent) * np.log(top[1])
    found: NDArray[np.float32] = np.exp(logs - logs.mean()).astype(np.float32)
    return found


class QuantisingBuilder(GraphBuilder):
    """Writes the linears named in `linears`, by what their inputs were seen to be, as products of integers."""

    # TensorRT for RTX 1.7 builds no plan for sliced ones beside int8; OpenVINO gains from them in bf16 only.
    sliced_heads = False

    def __init__(self, name: str, *, linears: Mapping[str, Seen], symmetric: bool) -> None:
        super().__init__(name)
        self.linears = linears
        self.symmetric = symmetric

    def linear(self, x: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """As `GraphBuilder.linear`; the bias stays float."""
        if name in FLOAT_LINEARS or name not in self.linears:
            return super().linear(x, name, weight, bias)
        made = round_linear(weight, self.linears[name], symmetric=self.symmetric)
        spread = self.node("Mul", [x, self.weight(f"{name}.input.spread", 1 / made.spread)], f"{name}.input.spread_out")
        names = [self.weight(f"{name}.input.scale", made.scale), self.weight(f"{name}.input.zero", made.zero)]
        rounded = self.node("QuantizeLinear", [spread, *names], f"{name}.input.rounded")
        taken = self.node("DequantizeLinear", [rounded, *names], f"{name}.input")
        names = [self.weight(f"{name}.weight", made.values), self.weight(f"{name}.weight.scale", made.steps)]
        matrix = self.node("DequantizeLinear", names, f"{name}.weight.float", axis=1)
        product = self.node("MatMul", [taken, matrix], f"{name}.product")
        return self.node("Add", [product, self.weight(f"{name}.bias", bias - made.shift)], name)


def _activation_scale(low: float, high: float) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The scale and the zero point that spread uint8 over a range with 0 in it."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255 or 1.0)
    return np.array(scale), np.array(np.clip(np.rint(-low / scale), 0, 255), dtype=np.uint8)


def _symmetric_scale(low: float, high: float) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """The scale that spreads int8 from -127 to 127 over both ends; 0 is 0."""
    return np.array(np.float32(max(-low, high, 0.0) / 127 or 1.0)), np.array(0, dtype=np.int8)


def _weight_scales(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """One step per output of `weight` [in, out]; 1 where all its weights are 0."""
    steps = np.abs(weight).max(0).astype(np.float32) / np.float32(127)
    return np.where(steps > 0, steps, np.float32(1)).astype(np.float32)
