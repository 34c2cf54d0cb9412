"""Which ONNX graph a target's engine is built from, and the one function that writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from atb_export.errors import ExportError
from atb_export.onnx.builder import GraphBuilder
from atb_export.onnx.graph import graph_parts
from runtime.target import EngineTarget
from supernet.batches import TokenizedTexts
from supernet.model import Supernet
from supernet.space import SubnetConfig

GraphKind: TypeAlias = Literal["f32", "openvino", "f16", "bf16", "int8"]

GRAPH_FILES: dict[GraphKind, str] = {
    "f32": "model.onnx",
    "openvino": "model-openvino.onnx",
    "f16": "model-f16.onnx",
    "bf16": "model-bf16.onnx",
    "int8": "model-int8.onnx",
}
"""Where each graph is in a bundle."""


def graph_kind(target: EngineTarget) -> GraphKind:
    """The graph a target needs: int8 has one of its own, f16 and bf16 too where precision is what the types say.

    OpenVINO computes one graph in the float precision it is asked for, with heads cut the way it is quickest at.
    TensorRT knows attention by its transposed heads, and does not build the other way of writing them.
    """
    if target.precision == "int8":
        return "int8"
    if target.backend == "openvino":
        return "openvino"
    return target.precision if target.precision in ("f16", "bf16") else "f32"


class _TransposedHeads(GraphBuilder):
    sliced_heads = False


def graph_for(
    net: Supernet,
    subnet: SubnetConfig | None,
    target: EngineTarget,
    *,
    token_types: bool,
    calibration: TokenizedTexts | None = None,
    keep_float: frozenset[str] = frozenset(),
    int8_words: bool = False,
) -> bytes:
    """The lean graph of a subnet (or of the whole net) for a target: what is measured and what is shipped.

    int8 takes its ranges from `calibration` and leaves the linears in `keep_float` alone; `int8_words` stores the word
    table in 8 bits, which is exact for a network of `onnx.embeddings.round_words`. Raises `ExportError` where int8 has
    no texts to be calibrated on.
    """
    parts = graph_parts_for(
        net, subnet, target, token_types=token_types, calibration=calibration, keep_float=keep_float
    )
    written = b"".join(parts)
    if int8_words:
        from atb_export.onnx.embeddings import int8_words as with_int8_words

        return with_int8_words(written)
    return written


def graph_parts_for(
    net: Supernet,
    subnet: SubnetConfig | None,
    target: EngineTarget,
    *,
    token_types: bool,
    calibration: TokenizedTexts | None = None,
    keep_float: frozenset[str] = frozenset(),
    words_file: str | None = None,
) -> Sequence[bytes | memoryview]:
    """`graph_for` in the pieces it is joined of; with `words_file` a float32 word table is in that file beside it."""
    kind = graph_kind(target)
    if kind == "int8":
        from atb_export.onnx.quantise import quantised_parts

        if calibration is None:
            raise ExportError(f"{target.label} needs real texts to calibrate int8 on, and none are given")
        cut = net.shape if subnet is None else subnet
        return quantised_parts(
            net, cut, calibration, token_types=token_types, keep_float=keep_float, words_file=words_file
        )
    if kind in ("f16", "bf16"):
        from atb_export.onnx.typed import typed_graph_bytes

        return [typed_graph_bytes(net, subnet, token_types=token_types, precision=kind)]
    builder = GraphBuilder if kind == "openvino" else _TransposedHeads
    return graph_parts(net, subnet, token_types=token_types, builder=builder, words_file=words_file)
