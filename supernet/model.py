"""The supernet: one BERT whose every dimension can be cut, with the subnet as an argument of `forward`.

A dense model is the same class whose largest subnet is the only one in use (`Supernet.slice`), so that the
architecture is written once. Its parts and what a cut keeps of them: `supernet.layer`, `supernet.embeddings`,
`supernet.heads`.

Shapes in the comments: B batch, S sequence, N hidden size, H heads, D head size, V words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from supernet.embeddings import Embeddings, EmbeddingWeights, embedding_axes
from supernet.facts import Head, ModelFacts
from supernet.heads import AnswerHead, HeadWeights, head_axes
from supernet.layer import CellWeights, FeedForward, LayerWeights, Projections, SupernetLayer
from supernet.space import SubnetConfig

__all__ = [
    "CellWeights",
    "EmbeddingWeights",
    "FeedForward",
    "HeadWeights",
    "LayerWeights",
    "Projections",
    "Supernet",
    "SupernetLayer",
    "SupernetOutput",
]


@dataclass(frozen=True, kw_only=True)
class SupernetOutput:
    """`logits` [B, labels] of texts, [B, S, labels] of tokens, [B, S, V] of words; the rest only where asked for.

    `hidden_states` holds the embedding output and then each kept layer's output, [B, S, N];
    `attention_scores` each kept layer's scaled scores before mask and softmax, [B, H, S, S]; `projections` each kept
    layer's queries, keys and values, [B, S, H*D].
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...] = ()
    attention_scores: tuple[Tensor, ...] = ()
    projections: tuple[Projections, ...] = ()


class Supernet(Embeddings, AnswerHead):
    """A family of BERTs with one head in one set of weights.

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
        self.make_embeddings(n)
        self.layers = nn.ModuleList(SupernetLayer(n, layer, facts.layer_norm_eps) for layer in shape.layers)
        self.make_head(n)

    @property
    def encoder(self) -> tuple[SupernetLayer, ...]:
        """The layers, typed."""
        return tuple(cast(SupernetLayer, layer) for layer in self.layers)

    @property
    def hidden_axes(self) -> Mapping[str, tuple[int, ...]]:
        """Name of each parameter outside of the layers -> its axes that are hidden dims."""
        return {**embedding_axes(self.facts), **head_axes(self.facts)}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        *,
        subnet: SubnetConfig | None = None,
        at: Tensor | None = None,
        hidden_states: bool = False,
        attention_scores: bool = False,
        projections: bool = False,
    ) -> SupernetOutput:
        """`input_ids`, `attention_mask` (and `token_type_ids`) are int64 [B, S]; no `subnet` means the largest.

        With `at`, bool [B, S], a head of tokens answers for those only, [how many, labels or V], which for a masked
        language model is most of the work. Raises `ValueError` where the subnet cannot be cut from this supernet or
        the text is longer than the position table.
        """
        chosen = self.shape if subnet is None else subnet
        if not chosen.fits(self.shape):
            raise ValueError(f"subnet {chosen} does not fit in the supernet {self.shape}")
        if input_ids.shape[1] > self.facts.max_position_embeddings:
            raise ValueError(
                f"a text has {input_ids.shape[1]} tokens, the position table {self.facts.max_position_embeddings}"
            )
        hidden = self.embed(input_ids, attention_mask, token_type_ids, chosen.hidden_size)
        mask = torch.zeros_like(attention_mask, dtype=hidden.dtype)
        mask = mask.masked_fill(attention_mask == 0, torch.finfo(hidden.dtype).min)[:, None, None, :]
        states, scores, projected = [hidden], [], []
        for cut in chosen.layers:
            hidden, layer_scores, parts = self.encoder[cut.source](hidden, mask, cut=cut, need_scores=attention_scores)
            states.append(hidden)
            projected.append(parts)
            if layer_scores is not None:
                scores.append(layer_scores)
        return SupernetOutput(
            logits=self.answer(hidden, at),
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
        dense = Supernet(shape=subnet.renumbered(), facts=self.facts).to(self.embedding_norm.weight.dtype)
        for name, axes in self.hidden_axes.items():
            tensor: Tensor = self.get_parameter(name)
            for axis in axes:
                tensor = tensor.narrow(axis, 0, n)
            dense.get_parameter(name).copy_(tensor)
        pairs: list[tuple[nn.Linear | nn.LayerNorm, tuple[Tensor, Tensor]]] = []
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

    @torch.no_grad()
    def with_head(self, head: Head, *, num_labels: int | None = None, seed: int = 0) -> Supernet:
        """The same encoder, copied, under a new head, whose weights are drawn by `seed` as BERT's are.

        `num_labels` are as many as now unless told; a span has 2, and the masked language model answers with words.
        """
        labels = num_labels or (2 if head == "span" else self.facts.num_labels)
        facts = replace(self.facts, head=head, num_labels=labels)
        with torch.device("meta"):
            net = Supernet(shape=self.shape, facts=facts)
        own, fresh = self.state_dict(), head_axes(facts)
        like = self.embedding_norm.weight
        ready = {
            name: torch.empty(empty.shape, dtype=like.dtype, device=like.device) if name in fresh else own[name].clone()
            for name, empty in net.state_dict().items()
        }
        net.load_state_dict(ready, assign=True)
        net.requires_grad_(True)
        net.draw_head(seed)
        return net.train(self.training)
