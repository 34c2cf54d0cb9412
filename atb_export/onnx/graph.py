"""The lean graph of this model family, written straight from a supernet's weights for one subnet.

What it leaves out, and why the answer stays the same:

- query, key and value are one product, and 1/sqrt(head size) is folded into the query's weights;
- one-segment models have no token types: their row is added to the position table;
- a classifier of texts reads the first token only, so the last layer computes everything else for that token alone
  (a head that answers for every token needs them all).
  With one query per head, keys and values of the other positions need not be formed either:
  q.(W_k x + b_k) = (W_k^T q).x + const, where the constant is the same for all positions and drops out of
  softmax; and the weighted sum of W_v x + b_v is W_v (weighted sum of x) + b_v, as the weights sum to one.

What it writes in an unusual way, because OpenVINO's plugin for x86 CPUs makes more of it (in bf16 7 % off KD-S4 and
TinyBERT4, 2 to 3 % off MiniLM-L6 and KD-S1; nothing in f32):

- keys are cut into heads by Split, put below each other by Concat, which for one text costs nothing, and turned where
  they are multiplied; contexts are put beside each other in the same way. In bf16 it fuses no transposition of four
  axes, and that takes three times as long. Compilers for GPUs know attention by its transposed heads
  (`GraphBuilder.sliced_heads`);
- positions are added along an axis of their own: adding [S, N] to [B, S, N] costs it two changes of layout.

Writing it takes milliseconds, so a search measures the very graph that is shipped. Whatever is computed with weights
is computed by torch, so that the graph of a network without any (on torch's meta device) has the same structure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from atb_export.errors import ExportError
from atb_export.onnx.builder import GraphBuilder
from supernet.cells import Cell, Node
from supernet.facts import ModelFacts, PoolerActivation
from supernet.model import CellWeights, LayerWeights, Supernet
from supernet.space import LayerConfig, SubnetConfig

WORDS = "words"
"""The name of the word table in every graph."""

Linear = tuple[torch.Tensor, torch.Tensor]

# exp(-10000) is 0 in every float type in use, and the value itself is finite in all of them, fp16 included.
_MASKED = -10000.0
_POOLER_OPS: dict[PoolerActivation, str] = {"tanh": "Tanh", "relu": "Relu", "gelu": "Gelu"}
# Swish is written as x times its sigmoid: opset 20 has no operator for it, and compilers know the pattern.
_CELL_OPS: Mapping[str, str] = {
    "gelu": "Gelu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",  # whose alpha is 0.01, as torch has it
    "elu": "Elu",
    "add": "Add",
    "mul": "Mul",
    "max": "Max",
}
_TO_THE_END = 2**31 - 1


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    """The tensor's values, shared where they are float32 on the CPU; zeros that take no memory where it has none."""
    if tensor.is_meta:
        return np.broadcast_to(np.float32(0), tuple(tensor.shape))
    values: NDArray[np.float32] = tensor.detach().to("cpu", torch.float32).numpy()
    return values


def _turned(pair: Linear) -> Linear:
    """`nn.Linear`'s [out, in] becomes the [in, out] that MatMul wants."""
    return pair[0].float().T, pair[1].float()


class _Encoder:
    """The encoder's graph, part by part; every method takes and returns names of values."""

    def __init__(self, model: Supernet, subnet: SubnetConfig, token_types: bool, graph: GraphBuilder) -> None:
        self.model = model
        self.subnet = subnet
        self.token_types = token_types
        self.n = subnet.hidden_size
        self.eps = model.facts.layer_norm_eps
        self.graph = graph
        self._given: str | None = None

    def write(self) -> None:
        """The whole graph."""
        head = self.model.facts.head
        if head == "mlm":
            raise ExportError(
                "a masked language model is not served yet: give its encoder another head (Supernet.with_head)"
            )
        x, mask = self.embed(), self.mask()
        for i, cut in enumerate(self.subnet.layers):
            x = self.layer(x, mask, i, cut, last=head == "sequence" and i == self.subnet.depth - 1)
        self.head(x)

    def linear(self, x: str, name: str, weight: torch.Tensor, bias: torch.Tensor) -> str:
        return self.graph.linear(x, name, _array(weight), _array(bias))

    def norm(self, x: str, name: str, weights: Linear) -> str:
        return self.graph.layer_norm(x, name, _array(weights[0]), _array(weights[1]), self.eps)

    def const(self, *values: int) -> str:
        name = "const." + "_".join(map(str, values))
        return self.graph.weight(name, np.array(values, dtype=np.int64))

    def embed(self) -> str:
        g, w = self.graph, self.model.embedding_weights(self.n)
        ids = g.input("input_ids", ("batch", "sequence"))
        positions = w.position.float()
        words = g.node("Gather", [g.weight(WORDS, _array(w.word)), ids], "words.of_text")
        if w.projection is not None:
            if self.model.facts.embedding == "trigram":
                words = self.trigrams(words)
            words = self.linear(words, "embedding_projection", *_turned(w.projection))
        if self.token_types:
            types = g.input("token_type_ids", ("batch", "sequence"))
            table = g.weight("token_types", _array(w.token_type))
            words = g.node("Add", [words, g.node("Gather", [table, types], "token_types.of_text")], "words.typed")
        else:
            positions = positions + w.token_type[0].float()
        length = g.node("Shape", [ids], "length", start=1, end=2)
        table = g.weight("positions", _array(positions))
        used = g.node("Slice", [table, self.const(0), length, self.const(0)], "positions.of_text")
        wide = g.node("Unsqueeze", [words, self.const(1)], "words.wide")  # [B, 1, S, N]
        placed = g.node("Add", [wide, used], "embeddings.wide")
        summed = g.node("Squeeze", [placed, self.const(1)], "embeddings.sum")
        return self.norm(summed, "embeddings", w.norm)

    def given_mask(self) -> str:
        """The input attention_mask, int64 [B, S] of 0 and 1, declared where it is first needed."""
        if self._given is None:
            self._given = self.graph.input("attention_mask", ("batch", "sequence"))
        return self._given

    def trigrams(self, words: str) -> str:
        """[B, S, E] to [B, S, 3E]: the previous, this and the next token's, zeros for padding and beyond the ends."""
        g = self.graph
        wide = g.node("Unsqueeze", [self.given_mask(), self.const(2)], "words.mask")
        kept = g.node("Cast", [wide], "words.mask.float", to=onnx.TensorProto.FLOAT)
        kept = g.node("Mul", [words, kept], "words.kept")
        padded = g.node("Pad", [kept, self.const(0, 1, 0, 0, 1, 0)], "words.padded")  # [B, S + 2, E]
        ends = (("previous", 0, -2), ("next", 2, _TO_THE_END))
        before, after = (
            g.node("Slice", [padded, self.const(a), self.const(b), self.const(1)], f"words.{name}")
            for name, a, b in ends
        )
        return g.node("Concat", [before, kept, after], "words.trigrams", axis=2)

    def mask(self) -> str:
        """attention_mask [B, S] of 0 and 1 to the additive [B, 1, 1, S]."""
        g = self.graph
        given = self.given_mask()
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
        return self.graph.softmax(masked, f"{name}.probabilities")

    def full_attention(self, x: str, mask: str, name: str, cut: LayerConfig, w: LayerWeights) -> str:
        g = self.graph
        (wq, bq), (wk, bk), (wv, bv) = _turned(w.query), _turned(w.key), _turned(w.value)
        scale = 1 / math.sqrt(cut.head_size)
        qkv = self.linear(x, f"{name}.qkv", torch.cat([wq * scale, wk, wv], 1), torch.cat([bq * scale, bk, bv]))
        parts = [f"{name}.query", f"{name}.key", f"{name}.value"]
        query, key, value = g.split(qkv, parts, [cut.qkv_size] * 3)
        sliced = g.sliced_heads
        keys = self.turned_keys(key, cut) if sliced else self.heads(key, cut, perm=(0, 2, 3, 1))
        scores = g.node("MatMul", [self.heads(query, cut, perm=(0, 2, 1, 3)), keys], f"{name}.scores")
        values = self.heads(value, cut, perm=(0, 2, 1, 3))
        context = g.node("MatMul", [self.attend(scores, mask, name), values], f"{name}.context")
        return self.joined(context, name, cut) if sliced else self.merged(context, name, cut)

    def turned_keys(self, keys: str, cut: LayerConfig) -> str:
        """[B, S, H*D] to [B, H, D, S] by slices.

        They are cut from the keys, not from the product that holds queries and values too: there TensorRT for RTX 1.7
        fails over slices of several sizes.
        """
        parts = [f"{keys}.head{i}" for i in range(cut.heads)]
        stacked = self.graph.node(
            "Concat", self.graph.split(keys, parts, [cut.head_size] * cut.heads), f"{keys}.stacked", axis=1
        )  # [B, H*S, D]
        heads = self.graph.node("Reshape", [stacked, self.const(0, cut.heads, -1, cut.head_size)], f"{keys}.heads")
        return self.graph.node("Transpose", [heads], f"{keys}.turned", perm=[0, 1, 3, 2])

    def joined(self, context: str, name: str, cut: LayerConfig) -> str:
        """[B, H, S, D] to [B, S, H*D] by slices."""
        parts = [f"{name}.context.head{i}" for i in range(cut.heads)]
        self.graph.split(context, parts, [1] * cut.heads, axis=1)
        rows = self.graph.node("Concat", parts, f"{name}.context.rows", axis=3)
        return self.graph.node("Squeeze", [rows, self.const(1)], f"{name}.context.merged")

    def merged(self, context: str, name: str, cut: LayerConfig) -> str:
        """[B, H, S, D] to [B, S, H*D] by transposition."""
        rows = self.graph.node("Transpose", [context], f"{name}.context.rows", perm=[0, 2, 1, 3])
        return self.graph.node("Reshape", [rows, self.const(0, 0, cut.qkv_size)], f"{name}.context.merged")

    def first_token_attention(self, x: str, first: str, mask: str, name: str, cut: LayerConfig, w: LayerWeights) -> str:
        """The first token's context [B, 1, H*D]; see the module's note for why no key or value is formed."""
        g, (h, d) = self.graph, (cut.heads, cut.head_size)
        (wq, bq), (wk, _), (wv, bv) = _turned(w.query), w.key, w.value
        scale = 1 / math.sqrt(d)
        query = self.heads(self.linear(first, f"{name}.query", wq * scale, bq * scale), cut, perm=(0, 2, 1, 3))
        to_input = g.weight(f"{name}.key.weight", _array(wk.reshape(1, h, d, self.n)))
        probe = g.node("MatMul", [query, to_input], f"{name}.probe")  # [B, H, 1, N]
        probe = g.node("Reshape", [probe, self.const(0, 0, self.n)], f"{name}.probe.rows")  # [B, H, N]
        rows = g.node("Transpose", [x], f"{name}.columns", perm=[0, 2, 1])  # [B, N, S]
        scores = g.node("MatMul", [probe, rows], f"{name}.scores")  # [B, H, S]
        flat = g.node("Squeeze", [mask, self.const(1)], f"{name}.mask")  # [B, 1, S]
        mixed = g.node("MatMul", [self.attend(scores, flat, name), x], f"{name}.mixed")  # [B, H, N]
        mixed = g.node("Unsqueeze", [mixed, self.const(2)], f"{name}.mixed.wide")  # [B, H, 1, N]
        values = g.weight(f"{name}.value.weight", _array(wv.reshape(1, h, d, self.n).transpose(2, 3)))  # [1,H,N,D]
        context = g.node("MatMul", [mixed, values], f"{name}.context")  # [B, H, 1, D]
        merged = self.merged(context, name, cut)
        return g.node("Add", [merged, g.weight(f"{name}.value.bias", _array(bv))], f"{name}.context.biased")

    def cell(self, x: str, name: str, cell: Cell, w: CellWeights) -> str:
        """What a feed-forward cell makes of x [B, S, N]; an expression that occurs twice is computed once."""
        g = self.graph
        done = {"x": x}
        used: dict[str, int] = {}

        def value(node: Node) -> str:
            text = str(node)
            if text not in done:
                done[text] = written(node.op, [value(each) for each in node.inputs])
            return done[text]

        def written(op: str, inputs: list[str]) -> str:
            if op in ("linear1", "linear2"):
                ours, pair = ("intermediate", w.intermediate) if op == "linear1" else ("output", w.output)
                return self.linear(inputs[0], f"{name}.{ours}", *_turned(pair))
            used[op] = used.get(op, 0) + 1
            made = f"{name}.{op}" + (str(used[op]) if used[op] > 1 else "")
            if op == "cut":
                return self.cut_to(inputs[0], made, len(w.intermediate[1]))
            if op == "swish":
                return g.node("Mul", [inputs[0], g.node("Sigmoid", inputs, f"{made}.sigmoid")], made)
            return g.node(_CELL_OPS[op], inputs, made)

        return value(cell.root)

    def cut_to(self, x: str, name: str, size: int) -> str:
        """The first dims of [B, S, N], or zeros behind them."""
        if size == self.n:
            return x
        if size < self.n:
            return self.graph.node("Slice", [x, self.const(0), self.const(size), self.const(2)], name)
        return self.graph.node("Pad", [x, self.const(0, 0, 0, 0, 0, size - self.n)], name)

    def feed_forward(self, x: str, name: str, cell: Cell, w: CellWeights) -> str:
        x = self.graph.node("Add", [x, self.cell(x, name, cell, w)], f"{name}.output_sum")
        return self.norm(x, name, w.output_norm)

    def layer(self, x: str, mask: str, index: int, cut: LayerConfig, *, last: bool) -> str:
        g, name = self.graph, f"layer{index}"
        w = self.model.encoder[cut.source].weights(self.n, cut)
        if last:
            first = g.node("Slice", [x, self.const(0), self.const(1), self.const(1)], f"{name}.first")
            context = self.first_token_attention(x, first, mask, name, cut, w)
            x = first
        else:
            context = self.full_attention(x, mask, name, cut, w)
        back = self.linear(context, f"{name}.attention_output", *_turned(w.attention_output))
        x = g.node("Add", [x, back], f"{name}.attention_sum")
        x = self.norm(x, f"{name}.attention", w.attention_norm)
        for i, cell in enumerate(w.cells):
            x = self.feed_forward(x, name if i == 0 else f"{name}.cell{i}", cut.cell, cell)
        return x

    def head(self, x: str) -> None:
        """Logits [B, labels] of the first token [B, 1, N], or [B, S, labels] of all of them."""
        g, w, facts = self.graph, self.model.head_weights(self.n), self.model.facts
        shape: tuple[int | str, ...] = ("batch", "sequence", facts.num_labels)
        if w.pooler is not None:
            token = g.node("Reshape", [x, self.const(0, self.n)], "first_token")
            activation = _POOLER_OPS[facts.pooler_activation]
            x = g.node(activation, [self.linear(token, "pooler", *_turned(w.pooler))], "pooled")
            shape = ("batch", facts.num_labels)
        self.linear(x, "logits", *_turned(w.classifier))
        g.output("logits", shape)


@torch.no_grad()
def graph_from_supernet(
    model: Supernet,
    subnet: SubnetConfig | None = None,
    *,
    token_types: bool = False,
    builder: Callable[[str], GraphBuilder] = GraphBuilder,
) -> onnx.ModelProto:
    """The ONNX classifier of one subnet: int64 [batch, sequence] inputs, float32 `logits` [batch, labels].

    A head that answers for tokens has `logits` [batch, sequence, labels]; `ExportError` for a masked language model.
    Without `subnet` it is the model's own largest shape, which is how a dense model is exported. With
    `token_types` the graph has the input `token_type_ids`, else all tokens are of the first segment.
    `builder` is made with the graph's name; every product with a matrix of `nn.Linear` goes through its `linear`.
    """
    return _written(model, subnet, token_types, builder).build()


def graph_bytes(
    model: Supernet,
    subnet: SubnetConfig | None = None,
    *,
    token_types: bool = False,
    builder: Callable[[str], GraphBuilder] = GraphBuilder,
) -> bytes:
    """`graph_from_supernet` as a file's content, to the byte; what is measured and what is shipped come from here."""
    return b"".join(graph_parts(model, subnet, token_types=token_types, builder=builder))


@torch.no_grad()
def graph_parts(
    model: Supernet,
    subnet: SubnetConfig | None = None,
    *,
    token_types: bool = False,
    builder: Callable[[str], GraphBuilder] = GraphBuilder,
    words_file: str | None = None,
) -> list[bytes | memoryview]:
    """`graph_bytes` in the pieces it is joined of, which a file takes without joining tens of megabytes first.

    With `words_file` the word table, most of a small net, is not in it but in that file beside it.
    """
    outside = None if words_file is None else {WORDS: words_file}
    return _written(model, subnet, token_types, builder).to_parts(outside=outside)


def _written(
    model: Supernet, subnet: SubnetConfig | None, token_types: bool, builder: Callable[[str], GraphBuilder]
) -> GraphBuilder:
    subnet = model.shape if subnet is None else subnet
    if not subnet.fits(model.shape):
        raise ValueError(f"subnet {subnet} does not fit in the supernet {model.shape}")
    graph = builder(f"bert-{subnet.renumbered().key}")
    _Encoder(model, subnet, token_types, graph).write()
    return graph


@lru_cache(maxsize=256)
@torch.no_grad()
def graph_hash(subnet: SubnetConfig, facts: ModelFacts, *, token_types: bool) -> str:
    """`GraphBuilder.structure` of a subnet's graph, without any weights: what its latency can depend on.

    Subnets that differ only in which of the supernet's layers they keep have one graph.
    """
    with torch.device("meta"):
        model = Supernet(shape=subnet.renumbered(), facts=facts)
    return _written(model, None, token_types, GraphBuilder).structure()
