"""What a student is asked for: a weighted sum of losses against its teacher, over the layers that a map pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from supernet.facts import Head
from supernet.layer_map import LayerMap, Pairs
from supernet.losses import (
    UNLABELLED,
    attention_kl,
    attention_mse,
    hard_label,
    hard_span,
    hard_tokens,
    hidden_mse,
    labelled,
    relation_kl,
    soft_label,
    soft_span,
    soft_tokens,
)
from supernet.model import SupernetOutput
from supernet.space import SubnetConfig
from supernet.stage import LossWeights

__all__ = [
    "LossWeights",
    "Paired",
    "Questions",
    "Shares",
    "distillation_loss",
    "paired",
    "paired_in_place",
    "weighted_sum",
]

Project = Callable[[Tensor, int], Tensor]
"""A hidden state [B, S, N] of the student's layer of that number, 0 for the embedding, to the teacher's width."""


class Paired(NamedTuple):
    """(student's layer, teacher's layer), both from 1."""

    hidden: Pairs
    attention: Pairs


def paired(layer_map: LayerMap, subnet: SubnetConfig, teacher_depth: int) -> Paired:
    """What a map pairs for a subnet."""
    return Paired(
        layer_map.pairs(subnet.sources, teacher_depth, of="hidden"),
        layer_map.pairs(subnet.sources, teacher_depth, of="attention"),
    )


def paired_in_place(layer_map: LayerMap, subnet: SubnetConfig, largest: SubnetConfig) -> Paired:
    """The same for a subnet whose teacher is the largest subnet of its own supernet.

    That one may lack layers too: where the map counts the supernet's layers, the largest's layer before it stands for a
    missing one, and attends for nobody.
    """
    if layer_map.names in ("last", "uniform"):
        return paired(layer_map, subnet, largest.depth)
    deepest = max(largest.sources[-1], subnet.sources[-1]) + 1
    if layer_map.names == "span":
        whole = paired(layer_map, subnet, deepest)
    else:  # layers of one source have the same teacher
        named = ((m, i + 1) for m, i in enumerate(subnet.sources, 1) if i < len(layer_map.names))
        same = tuple((m, layer) for m, layer in named if layer_map.names[layer - 1])
        whole = Paired(same, same)
    before = [sum(source < layer for source in largest.sources) for layer in range(deepest + 1)]
    return Paired(
        tuple((m, before[layer]) for m, layer in whole.hidden if before[layer]),
        tuple((m, before[layer]) for m, layer in whole.attention if layer - 1 in largest.sources),
    )


@dataclass(frozen=True, kw_only=True)
class Shares:
    """What to multiply the means of a batch with that is a part of a step's, by what they are over; see
    `supernet.engine.Part.weight`."""

    rows: float = 1.0
    labelled: float = 1.0
    tokens: float = 1.0
    token_pairs: float = 1.0
    words: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Questions:
    """What is asked about a batch.

    `mask` [B, S]; `labels` [B], of a token head [B, S], of a span head [B, 2]; `words` [B, S], the labels of masked
    words; what has no label has `UNLABELLED` or NaN. With `at`, bool [B, S], logits are of those tokens only, as
    `Supernet.forward` gives them.
    """

    mask: Tensor
    weights: LossWeights
    labels: Tensor | None = None
    words: Tensor | None = None
    head: Head = "sequence"
    at: Tensor | None = None
    shares: Shares = Shares()

    def of_tokens(self, values: Tensor) -> Tensor:
        """[B, S] as the logits of a head of tokens are."""
        return values if self.at is None else values[self.at]


def distillation_loss(
    student: SupernetOutput,
    teacher: SupernetOutput,
    *,
    subnet: SubnetConfig,
    teacher_depth: int,
    mask: Tensor,
    weights: LossWeights,
    labels: Tensor | None = None,
    layer_map: LayerMap | None = None,
    project: Project | None = None,
) -> Tensor:
    """The weighted sum for one subnet of a text classifier, over what `layer_map` pairs (`span` where not told).

    `labels` [B] are needed for the hard-label term only; rows without one take no part in it.
    """
    asked = Questions(mask=mask, weights=weights, labels=labels)
    pairs = paired(layer_map or LayerMap(), subnet, teacher_depth)
    return weighted_sum(asked, student, teacher, pairs=pairs, project=project)


def weighted_sum(
    asked: Questions,
    student: SupernetOutput,
    teacher: SupernetOutput | None,
    *,
    pairs: Paired,
    project: Project | None = None,
) -> Tensor:
    """What is asked of one subnet, whose layers `pairs` names; `teacher` may be None where no term compares with one.

    Without `project`, a student is held to the first dims of its teacher.
    """
    total = torch.zeros((), dtype=torch.float32, device=student.logits.device)
    for term in _answers(asked, student, teacher):
        total = total + term
    if teacher is not None:
        for term in _inner(asked, student, teacher, pairs, project):
            total = total + term
    return total


def _answers(asked: Questions, student: SupernetOutput, teacher: SupernetOutput | None) -> Iterator[Tensor]:
    """The terms of what the head answers."""
    weights, shares = asked.weights, asked.shares
    if weights.soft_label and teacher is not None:
        yield weights.soft_label * _soft_label(asked, student.logits.float(), teacher.logits.float())
    if weights.hard_label:
        if asked.labels is None:
            raise ValueError("a hard-label term needs the labels of the rows")
        if (known := labelled(asked.labels)).any():
            yield weights.hard_label * shares.labelled * _hard_label(asked, student.logits.float(), asked.labels, known)
    if weights.mlm:
        if asked.words is None:
            raise ValueError("a masked-language-model term needs the words that were masked")
        yield weights.mlm * shares.words * hard_tokens(student.logits.float(), asked.of_tokens(asked.words))


def _soft_label(asked: Questions, student: Tensor, teacher: Tensor) -> Tensor:
    temperature, shares = asked.weights.temperature, asked.shares
    if asked.head == "sequence":
        return shares.rows * soft_label(student, teacher, temperature=temperature)
    if asked.head == "span":
        return shares.rows * soft_span(student, teacher, asked.mask, temperature=temperature)
    share, chosen = (shares.tokens, asked.mask) if asked.words is None else (shares.words, asked.words != UNLABELLED)
    return share * soft_tokens(student, teacher, asked.of_tokens(chosen), temperature=temperature)


def _hard_label(asked: Questions, logits: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    if asked.head == "sequence":
        return hard_label(logits[known], labels[known])
    if asked.head == "span":
        return hard_span(logits[known], labels[known], asked.mask[known])
    return hard_tokens(logits, asked.of_tokens(labels))


def _inner(
    asked: Questions,
    student: SupernetOutput,
    teacher: SupernetOutput,
    pairs: Paired,
    project: Project | None,
) -> Iterator[Tensor]:
    """The terms of hidden states, attention and relations."""
    weights, shares, mask = asked.weights, asked.shares, asked.mask

    def projected(m: int) -> Tensor:
        state = student.hidden_states[m]
        return state if project is None else project(state, m)

    if weights.hidden and pairs.hidden:
        terms = [hidden_mse(projected(m), teacher.hidden_states[t], mask) for m, t in pairs.hidden]
        yield weights.hidden * shares.tokens * torch.stack(terms).mean()
    if weights.embedding:
        yield weights.embedding * shares.tokens * hidden_mse(projected(0), teacher.hidden_states[0], mask)
    both = pairs.attention if weights.asks["attention_scores"] else ()
    scores = [(student.attention_scores[m - 1], teacher.attention_scores[t - 1]) for m, t in both]
    if weights.attention and scores:
        terms = [attention_mse(x, y, mask) for x, y in scores]
        yield weights.attention * shares.token_pairs * torch.stack(terms).mean()
    if weights.attention_kl and scores:
        terms = [attention_kl(x, y, mask) for x, y in scores]
        yield weights.attention_kl * shares.tokens * torch.stack(terms).mean()
    if weights.relations and pairs.hidden:
        m, t = pairs.hidden[-1]
        parts = zip(student.projections[m - 1], teacher.projections[t - 1], strict=True)
        terms = [
            relation_kl(x, y, mask, heads=math.gcd(weights.relation_heads, x.shape[-1], y.shape[-1])) for x, y in parts
        ]
        yield weights.relations * shares.tokens * torch.stack(terms).mean()
