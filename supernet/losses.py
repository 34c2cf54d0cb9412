"""Distillation losses: pure functions whose means leave padding out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from supernet.model import SupernetOutput
from supernet.space import SubnetConfig

UNLABELLED = -100


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How much each term counts; a term of weight 0 is not computed."""

    soft_label: float = 1.0
    hidden: float = 1.0
    attention: float = 0.1
    hard_label: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        terms = (self.soft_label, self.hidden, self.attention, self.hard_label)
        if min(terms) < 0 or max(terms) == 0:
            raise ValueError(f"loss weights must be 0 or more and one of them positive, got {self}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")


def soft_label(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Soft cross-entropy of logits [B, labels], mean over the batch (Hinton et al. 2015; TinyBERT eq. 10).

    A regression head (one label) gets the squared error instead.
    """
    if student.shape[-1] == 1:
        return functional.mse_loss(student, teacher)
    target = functional.softmax(teacher / temperature, dim=-1)
    return functional.cross_entropy(student / temperature, target) * temperature**2


def hard_label(student: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with class indices [B], or squared error with float targets [B] for a regression head."""
    if student.shape[-1] == 1:
        return functional.mse_loss(student[:, 0], labels.to(student.dtype))
    return functional.cross_entropy(student, labels)


def labelled(labels: Tensor) -> Tensor:
    """Which rows [B] have a label: transfer text has `UNLABELLED` (classes) or NaN (regression)."""
    return ~torch.isnan(labels) if labels.is_floating_point() else labels != UNLABELLED


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of hidden states [B, S, N] over the tokens that `mask` [B, S] keeps.

    A narrower student is held to the teacher's first dims: subnets of a supernet share its order of dims.
    """
    error = (student.float() - teacher[..., : student.shape[-1]].float()).square().mean(-1)
    kept = mask.to(error.dtype)
    return (error * kept).sum() / kept.sum()


def attention_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of unnormalised scores [B, H, S, S] between kept tokens (TinyBERT eq. 7).

    A student with fewer heads is held to the teacher's first heads.
    """
    error = (student.float() - teacher[:, : student.shape[1]].float()).square().mean(1)
    kept = (mask[:, :, None] * mask[:, None, :]).to(error.dtype)
    return (error * kept).sum() / kept.sum()


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
    if weights.attention:
        terms = [
            attention_mse(scores, teacher.attention_scores[layer.source], mask)
            for scores, layer in zip(student.attention_scores, subnet.layers, strict=True)
        ]
        total = total + weights.attention * torch.stack(terms).mean()
    return total
