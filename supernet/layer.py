"""One Transformer layer whose every dimension can be cut: attention, then a stack of feed-forward cells.

Conventions of the cut: first hidden dims, first whole heads, first dims of every head, first cells of a layer's stack,
first neurons; LayerNorm runs over the active dims; scores are scaled by 1/sqrt(the subnet's head size).

Shapes in the comments: B batch, S sequence, N hidden size, F feed-forward size, H heads, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from supernet.cells import Cell, Node
from supernet.space import LayerConfig

Linear = tuple[Tensor, Tensor]
"""A matrix [out, in] as in `nn.Linear` and its bias [out]; or a LayerNorm's weight and bias."""

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "swish": functional.silu,
}
_BINARIES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "mul": torch.mul,
    "max": torch.maximum,
}


class Projections(NamedTuple):
    """What a layer's attention is made of, [B, S, H*D] each."""

    query: Tensor
    key: Tensor
    value: Tensor


class CellWeights(NamedTuple):
    """The tensors of one feed-forward cell, cut for one subnet."""

    intermediate: Linear
    output: Linear
    output_norm: Linear


class LayerWeights(NamedTuple):
    """The tensors of one layer, cut for one subnet; `cells` are those it keeps, in their order."""

    query: Linear
    key: Linear
    value: Linear
    attention_output: Linear
    attention_norm: Linear
    cells: tuple[CellWeights, ...]


def cut_linear(module: nn.Linear, rows: int, columns: int) -> Linear:
    """The first rows and columns of a linear: views."""
    return module.weight[:rows, :columns], module.bias[:rows]


def cut_norm(module: nn.LayerNorm, n: int) -> Linear:
    """The first dims of a LayerNorm: views."""
    return module.weight[:n], module.bias[:n]


def compute(cell: Cell, x: Tensor, w: CellWeights) -> Tensor:
    """What a cell makes of x [..., N], without the residual and the LayerNorm around it: [..., N]."""

    def value(node: Node) -> Tensor:
        inputs = [value(each) for each in node.inputs]
        if not inputs:
            return x
        if node.op in ("linear1", "linear2"):
            return functional.linear(inputs[0], *(w.intermediate if node.op == "linear1" else w.output))
        if node.op == "cut":  # a negative pad crops
            return functional.pad(inputs[0], (0, len(w.intermediate[1]) - x.shape[-1]))
        if node.op in _BINARIES:
            return _BINARIES[node.op](*inputs)
        return _ACTIVATIONS[node.op](inputs[0])

    return value(cell.root)


class FeedForward(nn.Module):
    """One feed-forward cell with its largest sizes; LayerNorm comes after the residual."""

    def __init__(self, hidden_size: int, ffn_size: int, eps: float) -> None:
        super().__init__()
        self.intermediate = nn.Linear(hidden_size, ffn_size)
        self.output = nn.Linear(ffn_size, hidden_size)
        self.output_norm = nn.LayerNorm(hidden_size, eps=eps)

    def weights(self, n: int, ffn_size: int) -> CellWeights:
        """The cell's tensors for hidden size `n` and its first neurons: views."""
        return CellWeights(
            intermediate=cut_linear(self.intermediate, ffn_size, n),
            output=cut_linear(self.output, n, ffn_size),
            output_norm=cut_norm(self.output_norm, n),
        )


class SupernetLayer(nn.Module):
    """One post-LayerNorm Transformer layer with its largest sizes: attention, then a stack of feed-forward cells."""

    def __init__(self, hidden_size: int, whole: LayerConfig, eps: float) -> None:
        super().__init__()
        self.whole = whole
        self.eps = eps
        self.query = nn.Linear(hidden_size, whole.qkv_size)
        self.key = nn.Linear(hidden_size, whole.qkv_size)
        self.value = nn.Linear(hidden_size, whole.qkv_size)
        self.attention_output = nn.Linear(whole.qkv_size, hidden_size)
        self.attention_norm = nn.LayerNorm(hidden_size, eps=eps)
        self.cells = nn.ModuleList(FeedForward(hidden_size, whole.ffn_size, eps) for _ in range(whole.ffn_stack))

    @property
    def stack(self) -> tuple[FeedForward, ...]:
        """The feed-forward cells, typed."""
        return tuple(cast(FeedForward, cell) for cell in self.cells)

    def _cut_heads(self, module: nn.Linear, n: int, cut: LayerConfig) -> Linear:
        heads, size = self.whole.heads, self.whole.head_size
        weight = module.weight.view(heads, size, -1)[: cut.heads, : cut.head_size, :n]
        bias = module.bias.view(heads, size)[: cut.heads, : cut.head_size]
        return weight.reshape(cut.qkv_size, n), bias.reshape(cut.qkv_size)

    def weights(self, n: int, cut: LayerConfig) -> LayerWeights:
        """The layer's tensors for hidden size `n`: views where the cut allows it, differentiable always."""
        back = self.attention_output.weight.view(-1, self.whole.heads, self.whole.head_size)
        back = back[:n, : cut.heads, : cut.head_size].reshape(n, cut.qkv_size)
        return LayerWeights(
            query=self._cut_heads(self.query, n, cut),
            key=self._cut_heads(self.key, n, cut),
            value=self._cut_heads(self.value, n, cut),
            attention_output=(back, self.attention_output.bias[:n]),
            attention_norm=cut_norm(self.attention_norm, n),
            cells=tuple(cell.weights(n, cut.ffn_size) for cell in self.stack[: cut.ffn_stack]),
        )

    def forward(
        self, hidden: Tensor, mask: Tensor, *, cut: LayerConfig, need_scores: bool
    ) -> tuple[Tensor, Tensor | None, Projections]:
        """`hidden` [B, S, N] and additive `mask` [B, 1, 1, S] to the layer's output, its scores if asked for, and its
        queries, keys and values."""
        n = hidden.shape[-1]
        w = self.weights(n, cut)

        def heads(x: Tensor) -> Tensor:
            return x.view(*x.shape[:-1], cut.heads, cut.head_size).transpose(1, 2)

        projections = Projections(*(functional.linear(hidden, *x) for x in (w.query, w.key, w.value)))
        query, key, value = map(heads, projections)
        scores = None
        if need_scores:
            scores = query @ key.transpose(-1, -2) / math.sqrt(cut.head_size)
            context = functional.softmax(scores + mask, dim=-1).to(value.dtype) @ value
        else:
            context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask.to(query.dtype))
        context = context.transpose(1, 2).flatten(2)
        hidden = hidden + functional.linear(context, *w.attention_output)
        hidden = functional.layer_norm(hidden, (n,), *w.attention_norm, eps=self.eps)
        for cell in w.cells:
            hidden = hidden + compute(cut.cell, hidden, cell)
            hidden = functional.layer_norm(hidden, (n,), *cell.output_norm, eps=self.eps)
        return hidden, scores, projections
