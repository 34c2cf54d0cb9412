"""What a student is asked for: a weighted sum of losses against its teacher, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from supernet.losses import attention_kl, attention_mse, hard_label, hidden_mse, labelled, relation_kl, soft_label
from supernet.model import SupernetOutput
from supernet.space import SubnetConfig


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How much each term counts; a term of weight 0 is not computed.

    `soft_label` and `hard_label` are of the answers; `hidden` and `attention` (scores) or `attention_kl` (their
    softmax) of every kept layer; `embedding` of the input; `relations` (MiniLM v2) of the last layer's queries, keys
    and values, cut into `relation_heads` parts, or the most of them that divide both widths.
    """

    soft_label: float = 1.0
    hidden: float = 1.0
    attention: float = 0.1
    hard_label: float = 0.0
    attention_kl: float = 0.0
    relations: float = 0.0
    embedding: float = 0.0
    temperature: float = 1.0
    relation_heads: int = 12

    def __post_init__(self) -> None:
        terms = (
            self.soft_label,
            self.hidden,
            self.attention,
            self.hard_label,
            self.attention_kl,
            self.relations,
            self.embedding,
        )
        if min(terms) < 0 or max(terms) == 0:
            raise ValueError(f"loss weights must be 0 or more and one of them positive, got {self}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.relation_heads < 1:
            raise ValueError(f"relation_heads must be 1 or more, got {self.relation_heads}")

    @property
    def asks(self) -> dict[str, bool]:
        """Which inner values of a network the terms need: the flags of `Supernet.forward`."""
        return {
            "hidden_states": self.hidden > 0 or self.embedding > 0,
            "attention_scores": self.attention > 0 or self.attention_kl > 0,
            "projections": self.relations > 0,
        }


def stands_in_for(subnet: SubnetConfig, teacher_depth: int) -> list[int]:
    """For each kept layer the teacher's layer whose output it must reach.

    A kept layer stands in for itself and for the dropped ones up to the next kept layer, whose input it has to
    provide; the last one for all the rest.
    """
    sources = [layer.source for layer in subnet.layers]
    return [source - 1 for source in sources[1:]] + [teacher_depth - 1]


def distillation_loss(
    student: SupernetOutput,
    teacher: SupernetOutput,
    *,
    subnet: SubnetConfig,
    teacher_depth: int,
    mask: Tensor,
    weights: LossWeights,
    labels: Tensor | None = None,
) -> Tensor:
    """The weighted sum for one subnet of a supernet whose teacher is its own full network in its first state.

    `labels` [B] are needed for the hard-label term only; rows without one take no part in it.
    """
    total = torch.zeros((), dtype=torch.float32, device=student.logits.device)
    if weights.soft_label:
        total = total + weights.soft_label * soft_label(
            student.logits.float(), teacher.logits.float(), temperature=weights.temperature
        )
    if weights.hard_label:
        if labels is None:
            raise ValueError("a hard-label term needs the labels of the rows")
        known = labelled(labels)
        if known.any():
            total = total + weights.hard_label * hard_label(student.logits.float()[known], labels[known])
    if weights.hidden:
        targets = stands_in_for(subnet, teacher_depth)
        terms = [
            hidden_mse(state, teacher.hidden_states[target + 1], mask)
            for state, target in zip(student.hidden_states[1:], targets, strict=True)
        ]
        total = total + weights.hidden * torch.stack(terms).mean()
    if weights.embedding:
        total = total + weights.embedding * hidden_mse(student.hidden_states[0], teacher.hidden_states[0], mask)
    if weights.attention:
        terms = [
            attention_mse(scores, teacher.attention_scores[layer.source], mask)
            for scores, layer in zip(student.attention_scores, subnet.layers, strict=True)
        ]
        total = total + weights.attention * torch.stack(terms).mean()
    if weights.attention_kl:
        terms = [
            attention_kl(scores, teacher.attention_scores[layer.source], mask)
            for scores, layer in zip(student.attention_scores, subnet.layers, strict=True)
        ]
        total = total + weights.attention_kl * torch.stack(terms).mean()
    if weights.relations:
        pairs = zip(student.projections[-1], teacher.projections[-1], strict=True)
        terms = [
            relation_kl(x, y, mask, heads=math.gcd(weights.relation_heads, x.shape[-1], y.shape[-1])) for x, y in pairs
        ]
        total = total + weights.relations * torch.stack(terms).mean()
    return total
