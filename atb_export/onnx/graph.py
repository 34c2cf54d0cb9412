"""The lean graph of this model family, written straight from a supernet's weights for one subnet.

What it leaves out, and why the answer stays the same:

- query, key and value are one product, and 1/sqrt(head size) is folded into the query's weights;
- one-segment models have no token types: their row is added to the position table;
- the classifier reads the first token only, so the last layer computes everything else for that token alone.
  With one query per head, keys and values of the other positions need not be formed either:
  q.(W_k x + b_k) = (W_k^T q).x + const, where the constant is the same for all positions and drops out of
  softmax; and the weighted sum of W_v x + b_v is W_v (weighted sum of x) + b_v, as the weights sum to one.

Writing it takes milliseconds, so a search measures the very graph that is shipped.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from atb_export.onnx.builder import GraphBuilder
from supernet.model import Supernet
from supernet.space import LayerConfig, SubnetConfig

Array = NDArray[np.float32]

# exp(-10000) is 0 in every float type in use, and the value itself is finite in all of them, fp16 included.
_MASKED = -10000.0


def _array(tensor: torch.Tensor) -> Array:
    values: Array = tensor.detach().to(torch.float32).cpu().numpy()
    return values


def _pair(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[Array, Array]:
    """`nn.Linear`'s [out, in] becomes the [in, out] that MatMul wants."""
    return _array(pair[0]).T, _array(pair[1])


class _Encoder:
    """The encoder's graph, part by part; every method takes and returns names of values."""

    def __init__(self, model: Supernet, subnet: SubnetConfig, token_types: bool) -> None:
        self.model = model
        self.subnet = subnet
        self.token_types = token_types
        self.n = subnet.hidden_size
        self.eps = model.facts.layer_norm_eps
        self.graph = GraphBuilder(f"bert-{subnet.renumbered().key}")

    def const(self, *values: int) -> str:
        name = "const." + "_".join(map(str, values))
        return self.graph.weight(name, np.array(values, dtype=np.int64))

    def embed(self) -> str:
        g, w = self.graph, self.model.embedding_weights(self.n)
        ids = g.input("input_ids", ("batch", "sequence"))
        positions = _array(w.position)
        words = g.node("Gather", [g.weight("words", _array(w.word)), ids], "words.of_text")
        if self.token_types:
            types = g.input("token_type_ids", ("batch", "sequence"))
            table = g.weight("token_types", _array(w.token_type))
            words = g.node("Add", [words, g.node("Gather", [table, types], "token_types.of_text")], "words.typed")
        else:
            positions = positions + _array(w.token_type)[0]
        length = g.node("Shape", [ids], "length", start=1, end=2)
        table = g.weight("positions", positions)
        used = g.node("Slice", [table, self.const(0), length, self.const(0)], "positions.of_text")
        summed = g.node("Add", [words, used], "embeddings.sum")
        return g.layer_norm(summed, "embeddings", _array(w.norm[0]), _array(w.norm[1]), self.eps)

    def mask(self) -> str:
        """attention_mask [B, S] of 0 and 1 to the additive [B, 1, 1, S]."""
        g = self.graph
        given = g.input("attention_mask", ("batch", "sequence"))
        wide = g.node("Unsqueeze", [given, self.const(1, 2)], "mask.wide")
        kept = g.node("Cast", [wide], "mask.float", to=onnx.TensorProto.FLOAT)
        hidden = g.node("Sub", [kept, g.weight("one", np.ones(1, dtype=np.float32))], "mask.hidden")
        return g.node("Mul", [hidden, g.weight("masked", np.full(1, -_MASKED, dtype=np.float32))], "mask")

    def heads(self, x: str, cut: LayerConfig, *, perm: tuple[int, ...]) -> str:
        """[B, S, H*D] to the order of axes that `perm` makes of [B, S, H, D]."""
        split = self.graph.node("Reshape", [x, self.const(0, 0, cut.heads, cut.head_size)], f"{x}.split")
        return self.graph.node("Transpose", [split], f"{x}.heads", perm=list(perm))

    def attend(self, scores: str, mask: str, name: str) -> str:
        masked = self.graph.node("Add", [scores, mask], f"{name}.masked")
        return self.graph.node("Softmax", [masked], f"{name}.probabilities", axis=-1)

    def full_attention(self, x: str, mask: str, name: str, cut: LayerConfig, w: Any) -> str:
        g = self.graph
        (wq, bq), (wk, bk), (wv, bv) = _pair(w.query), _pair(w.key), _pair(w.value)
        scale = np.float32(1 / math.sqrt(cut.head_size))
        qkv = g.linear(x, f"{name}.qkv", np.concatenate([wq * scale, wk, wv], 1), np.concatenate([bq * scale, bk, bv]))
        q, k, v = g.split(qkv, [f"{name}.query", f"{name}.key", f"{name}.value"], [cut.qkv_size] * 3)
        scores = g.node(
            "MatMul",
            [self.heads(q, cut, perm=(0, 2, 1, 3)), self.heads(k, cut, perm=(0, 2, 3, 1))],
            f"{name}.scores",
        )
        context = g.node(
            "MatMul",
            [self.attend(scores, mask, name), self.heads(v, cut, perm=(0, 2, 1, 3))],
            f"{name}.context",
        )
        merged = g.node("Transpose", [context], f"{name}.context.rows", perm=[0, 2, 1, 3])
        return g.node("Reshape", [merged, self.const(0, 0, cut.qkv_size)], f"{name}.context.merged")

    def first_token_attention(self, x: str, first: str, mask: str, name: str, cut: LayerConfig, w: Any) -> str:
        """The first token's context [B, 1, H*D]; see the module's note for why no key or value is formed."""
        g, (h, d) = self.graph, (cut.heads, cut.head_size)
        (wq, bq), (wk, _), (wv, bv) = _pair(w.query), _pair(w.key), _pair(w.value)
        scale = np.float32(1 / math.sqrt(d))
        query = self.heads(g.linear(first, f"{name}.query", wq * scale, bq * scale), cut, perm=(0, 2, 1, 3))
        to_input = g.weight(f"{name}.key.weight", wk.reshape(self.n, h, d).transpose(1, 2, 0)[None])  # [1,H,D,N]
        probe = g.node("MatMul", [query, to_input], f"{name}.probe")  # [B, H, 1, N]
        probe = g.node("Reshape", [probe, self.const(0, 0, self.n)], f"{name}.probe.rows")  # [B, H, N]
        rows = g.node("Transpose", [x], f"{name}.columns", perm=[0, 2, 1])  # [B, N, S]
        scores = g.node("MatMul", [probe, rows], f"{name}.scores")  # [B, H, S]
        flat = g.node("Squeeze", [mask, self.const(1)], f"{name}.mask")  # [B, 1, S]
        mixed = g.node("MatMul", [self.attend(scores, flat, name), x], f"{name}.mixed")  # [B, H, N]
        mixed = g.node("Unsqueeze", [mixed, self.const(2)], f"{name}.mixed.wide")  # [B, H, 1, N]
        values = g.weight(f"{name}.value.weight", wv.reshape(self.n, h, d).transpose(1, 0, 2)[None])  # [1,H,N,D]
        context = g.node("MatMul", [mixed, values], f"{name}.context")  # [B, H, 1, D]
        merged = g.node("Transpose", [context], f"{name}.context.rows", perm=[0, 2, 1, 3])
        merged = g.node("Reshape", [merged, self.const(0, 0, cut.qkv_size)], f"{name}.context.merged")
        return g.node("Add", [merged, g.weight(f"{name}.value.bias", bv)], f"{name}.context.biased")

    def layer(self, x: str, mask: str, index: int, cut: LayerConfig, *, last: bool) -> str:
        g, name = self.graph, f"layer{index}"
        w = self.model.encoder[cut.source].weights(self.n, cut)
        if last:
            first = g.node("Slice", [x, self.const(0), self.const(1), self.const(1)], f"{name}.first")
            context = self.first_token_attention(x, first, mask, name, cut, w)
            x = first
        else:
            context = self.full_attention(x, mask, name, cut, w)
        back = g.linear(context, f"{name}.attention_output", *_pair(w.attention_output))
        x = g.node("Add", [x, back], f"{name}.attention_sum")
        x = g.layer_norm(x, f"{name}.attention", _array(w.attention_norm[0]), _array(w.attention_norm[1]), self.eps)
        grown = g.node("Gelu", [g.linear(x, f"{name}.intermediate", *_pair(w.intermediate))], f"{name}.gelu")
        x = g.node("Add", [x, g.linear(grown, f"{name}.output", *_pair(w.output))], f"{name}.output_sum")
        return g.layer_norm(x, name, _array(w.output_norm[0]), _array(w.output_norm[1]), self.eps)

    def head(self, first: str) -> None:
        g, w = self.graph, self.model.head_weights(self.n)
        token = g.node("Reshape", [first, self.const(0, self.n)], "first_token")
        pooled = g.node("Tanh", [g.linear(token, "pooler", *_pair(w.pooler))], "pooled")
        g.linear(pooled, "logits", *_pair(w.classifier))
        g.output("logits", ("batch", self.model.facts.num_labels))


def graph_from_supernet(
    model: Supernet, subnet: SubnetConfig | None = None, *, token_types: bool = False
) -> onnx.ModelProto:
    """The ONNX classifier of one subnet: int64 [batch, sequence] inputs, float32 `logits` [batch, labels].

    Without `subnet` it is the model's own largest shape, which is how a dense model is exported. With
    `token_types` the graph has the input `token_type_ids`, else all tokens are of the first segment.
    """
    subnet = model.shape if subnet is None else subnet
    if not subnet.fits(model.shape):
        raise ValueError(f"subnet {subnet} does not fit in the supernet {model.shape}")
    encoder = _Encoder(model, subnet, token_types)
    x = encoder.embed()
    mask = encoder.mask()
    for i, cut in enumerate(subnet.layers):
        x = encoder.layer(x, mask, i, cut, last=i == subnet.depth - 1)
    encoder.head(x)
    return encoder.graph.build()
