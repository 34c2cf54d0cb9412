"""The supernet: one BERT whose every dimension can be cut, with the subnet as an argument of `forward`.

A dense model is the same class whose largest subnet is the only one in use (`Supernet.slice`), so that the
architecture is written once. Conventions of the cut: first hidden dims, first whole heads, first dims of every
head, first cells of a layer's stack, first neurons; LayerNorm runs over the active dims; scores are scaled by
1/sqrt(the subnet's head size).

Shapes in the comments: B batch, S sequence, N hidden size, H heads, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from supernet.facts import ModelFacts, PoolerActivation
from supernet.space import LayerConfig, SubnetConfig

_POOLER_ACTIVATIONS: dict[PoolerActivation, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": functional.gelu,
}


class Projections(NamedTuple):
    """What a layer's attention is made of, [B, S, H*D] each."""

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True, kw_only=True)
class SupernetOutput:
    """`logits` [B, labels]; the rest only where asked for.

    `hidden_states` holds the embedding output and then each kept layer's output, [B, S, N];
    `attention_scores` each kept layer's scaled scores before mask and softmax, [B, H, S, S]; `projections` each kept
    layer's queries, keys and values, [B, S, H*D].
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...] = ()
    attention_scores: tuple[Tensor, ...] = ()
    projections: tuple[Projections, ...] = ()


class CellWeights(NamedTuple):
    """The tensors of one feed-forward cell, cut for one subnet; matrices are [out, in] as in `nn.Linear`."""

    intermediate: tuple[Tensor, Tensor]
    output: tuple[Tensor, Tensor]
    output_norm: tuple[Tensor, Tensor]


class LayerWeights(NamedTuple):
    """The tensors of one layer, cut for one subnet; `cells` are those it keeps, in their order."""

    query: tuple[Tensor, Tensor]
    key: tuple[Tensor, Tensor]
    value: tuple[Tensor, Tensor]
    attention_output: tuple[Tensor, Tensor]
    attention_norm: tuple[Tensor, Tensor]
    cells: tuple[CellWeights, ...]


class EmbeddingWeights(NamedTuple):
    """Embedding tables and LayerNorm, cut to the subnet's hidden size."""

    word: Tensor
    position: Tensor
    token_type: Tensor
    norm: tuple[Tensor, Tensor]


class HeadWeights(NamedTuple):
    """Pooler and classifier, cut to the subnet's hidden size."""

    pooler: tuple[Tensor, Tensor]
    classifier: tuple[Tensor, Tensor]


def _cut(module: nn.Linear, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    return module.weight[:rows, :columns], module.bias[:rows]


def _cut_norm(module: nn.LayerNorm, n: int) -> tuple[Tensor, Tensor]:
    return module.weight[:n], module.bias[:n]


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
            intermediate=_cut(self.intermediate, ffn_size, n),
            output=_cut(self.output, n, ffn_size),
            output_norm=_cut_norm(self.output_norm, n),
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

    def _cut_heads(self, module: nn.Linear, n: int, cut: LayerConfig) -> tuple[Tensor, Tensor]:
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
            attention_norm=_cut_norm(self.attention_norm, n),
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
            grown = functional.gelu(functional.linear(hidden, *cell.intermediate))
            hidden = hidden + functional.linear(grown, *cell.output)
            hidden = functional.layer_norm(hidden, (n,), *cell.output_norm, eps=self.eps)
        return hidden, scores, projections


class Supernet(nn.Module):
    """A family of BERT classifiers in one set of weights.

    `shape` is its largest subnet (layer sources 0, 1, 2, ...); `facts` what all subnets share.
    """

    def __init__(self, *, shape: SubnetConfig, facts: ModelFacts) -> None:
        super().__init__()
        if shape != shape.renumbered():
            raise ValueError(
                f"a supernet's own layers are 0, 1, 2, ...; got sources {[x.source for x in shape.layers]}"
            )
        self.shape = shape
        self.facts = facts
        n = shape.hidden_size
        self.word_embeddings = nn.Embedding(facts.vocab_size, n, padding_idx=facts.pad_token_id)
        self.position_embeddings = nn.Embedding(facts.max_position_embeddings, n)
        self.token_type_embeddings = nn.Embedding(facts.type_vocab_size, n)
        self.embedding_norm = nn.LayerNorm(n, eps=facts.layer_norm_eps)
        self.layers = nn.ModuleList(SupernetLayer(n, layer, facts.layer_norm_eps) for layer in shape.layers)
        self.pooler = nn.Linear(n, n)
        self.classifier = nn.Linear(n, facts.num_labels)

    @property
    def encoder(self) -> tuple[SupernetLayer, ...]:
        """The layers, typed."""
        return tuple(cast(SupernetLayer, layer) for layer in self.layers)

    def embedding_weights(self, n: int) -> EmbeddingWeights:
        """The embedding tables' first `n` columns."""
        return EmbeddingWeights(
            word=self.word_embeddings.weight[:, :n],
            position=self.position_embeddings.weight[:, :n],
            token_type=self.token_type_embeddings.weight[:, :n],
            norm=_cut_norm(self.embedding_norm, n),
        )

    def head_weights(self, n: int) -> HeadWeights:
        """Pooler and classifier for hidden size `n`."""
        return HeadWeights(pooler=_cut(self.pooler, n, n), classifier=_cut(self.classifier, self.facts.num_labels, n))

    def _embed(self, input_ids: Tensor, token_type_ids: Tensor | None, n: int) -> Tensor:
        w = self.embedding_weights(n)
        # Whole rows are looked up and cut afterwards: cutting the table first would copy all of it.
        hidden = self.word_embeddings(input_ids)[..., :n] + w.position[: input_ids.shape[1]]
        if token_type_ids is None:
            hidden = hidden + w.token_type[0]
        else:
            hidden = hidden + self.token_type_embeddings(token_type_ids)[..., :n]
        return functional.layer_norm(hidden, (n,), *w.norm, eps=self.facts.layer_norm_eps)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        *,
        subnet: SubnetConfig | None = None,
        hidden_states: bool = False,
        attention_scores: bool = False,
        projections: bool = False,
    ) -> SupernetOutput:
        """`input_ids`, `attention_mask` (and `token_type_ids`) are int64 [B, S]; no `subnet` means the largest.

        Raises `ValueError` where the subnet cannot be cut from this supernet or the text is longer than the
        position table.
        """
        chosen = self.shape if subnet is None else subnet
        if not chosen.fits(self.shape):
            raise ValueError(f"subnet {chosen} does not fit in the supernet {self.shape}")
        if input_ids.shape[1] > self.facts.max_position_embeddings:
            raise ValueError(
                f"a text has {input_ids.shape[1]} tokens, the position table {self.facts.max_position_embeddings}"
            )
        n = chosen.hidden_size
        hidden = self._embed(input_ids, token_type_ids, n)
        mask = torch.zeros_like(attention_mask, dtype=hidden.dtype)
        mask = mask.masked_fill(attention_mask == 0, torch.finfo(hidden.dtype).min)[:, None, None, :]
        states, scores, projected = [hidden], [], []
        for cut in chosen.layers:
            hidden, layer_scores, parts = self.encoder[cut.source](hidden, mask, cut=cut, need_scores=attention_scores)
            states.append(hidden)
            projected.append(parts)
            if layer_scores is not None:
                scores.append(layer_scores)
        w = self.head_weights(n)
        pooled = _POOLER_ACTIVATIONS[self.facts.pooler_activation](functional.linear(hidden[:, 0], *w.pooler))
        return SupernetOutput(
            logits=functional.linear(pooled, *w.classifier),
            hidden_states=tuple(states) if hidden_states else (),
            attention_scores=tuple(scores),
            projections=tuple(projected) if projections else (),
        )

    @torch.no_grad()
    def slice(self, subnet: SubnetConfig) -> Supernet:
        """The subnet as a network of its own, with copies of exactly the tensors `forward` would use."""
        if not subnet.fits(self.shape):
            raise ValueError(f"subnet {subnet} does not fit in the supernet {self.shape}")
        n = subnet.hidden_size
        dense = Supernet(shape=subnet.renumbered(), facts=self.facts).to(self.pooler.weight.dtype)
        table = self.embedding_weights(n)
        head = self.head_weights(n)
        dense.word_embeddings.weight.copy_(table.word)
        dense.position_embeddings.weight.copy_(table.position)
        dense.token_type_embeddings.weight.copy_(table.token_type)
        pairs: list[tuple[nn.Linear | nn.LayerNorm, tuple[Tensor, Tensor]]] = [
            (dense.embedding_norm, table.norm),
            (dense.pooler, head.pooler),
            (dense.classifier, head.classifier),
        ]
        for layer, cut in zip(dense.encoder, subnet.layers, strict=True):
            weights = self.encoder[cut.source].weights(n, cut)._asdict()
            cells: tuple[CellWeights, ...] = weights.pop("cells")
            pairs += [(getattr(layer, name), pair) for name, pair in weights.items()]
            for cell, tensors in zip(layer.stack, cells, strict=True):
                pairs += [(getattr(cell, name), pair) for name, pair in tensors._asdict().items()]
        for module, (weight, bias) in pairs:
            module.weight.copy_(weight)
            module.bias.copy_(bias)
        return dense.train(self.training)
