"""The word table in 8 bits: each row with a scale of its own, looked up first and made float afterwards.

The table is 59 to 81 % of a tiny BERT. Only looked-up rows are made float, by Gather, Cast and Mul, so that every
runtime keeps the bytes as they are. A row's numbers move by at most half of its scale, 1/254 of its largest.
`round_words` makes the same change to the network, which then is what the graph computes, within float32.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from atb_export.dense import DenseModel
from atb_export.errors import ExportError

_WORDS = "words"


def int8_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """`table` [rows, n] as integers from -127 to 127 and a scale [rows, 1]; 1 where a row is 0 throughout."""
    scales = np.abs(table).max(1, keepdims=True).astype(np.float32) / np.float32(127)
    scales[scales == 0] = 1
    return np.clip(np.rint(table / scales), -127, 127).astype(np.int8), scales


@torch.no_grad()
def round_words(dense: DenseModel) -> DenseModel:
    """The model with its word table rounded as `int8_words` rounds it; nothing else is changed."""
    values, scales = int8_rows(dense.net.word_embeddings.weight.float().numpy())
    net = dense.net.slice(dense.net.shape)
    net.word_embeddings.weight.copy_(torch.from_numpy(values * scales))
    return replace(dense, net=net)


def int8_words(graph: bytes) -> bytes:
    """A written graph of any precision with its word table in int8. Raises `ExportError` where it has none."""
    model = onnx.load_from_string(graph)
    tables = [x for x in model.graph.initializer if x.name == _WORDS]
    lookups = [i for i, x in enumerate(model.graph.node) if x.op_type == "Gather" and x.input[0] == _WORDS]
    readers = sum(_WORDS in x.input for x in model.graph.node)
    if len(tables) != 1 or len(lookups) != readers or not lookups:
        raise ExportError("the graph has no word table that is only looked up in: its words stay as they are")
    (table,) = tables
    kind, exact = table.data_type, numpy_helper.to_array(table)
    values, scales = int8_rows(exact.astype(np.float32))
    table.CopyFrom(numpy_helper.from_array(values, _WORDS))
    model.graph.initializer.append(numpy_helper.from_array(scales.astype(exact.dtype), f"{_WORDS}.scale"))
    nodes = list(model.graph.node)
    for i in reversed(lookups):
        _, ids = nodes[i].input
        (out,) = nodes[i].output
        make = onnx.helper.make_node
        nodes[i : i + 1] = [
            make("Gather", [_WORDS, ids], [f"{out}.int8"], name=f"{out}.int8"),
            make("Gather", [f"{_WORDS}.scale", ids], [f"{out}.scale"], name=f"{out}.scale"),
            make("Cast", [f"{out}.int8"], [f"{out}.steps"], name=f"{out}.steps", to=kind),
            make("Mul", [f"{out}.steps", f"{out}.scale"], [out], name=out),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())
