"""Losses: pure functions whose means leave padding out.

Shapes: B batch, S sequence, N hidden size, H heads; masks are [B, S] with 1 for tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

UNLABELLED = -100


def _mean(values: Tensor, kept: Tensor) -> Tensor:
    kept = kept.to(values.dtype)
    return (values * kept).sum() / kept.sum()


# --- answers ----------------------------------------------------------------------------------------------------------


def soft_label(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Soft cross-entropy of logits [B, labels], mean over the batch (Hinton et al. 2015; TinyBERT eq. 10).

    It is a sum over the labels, never divided by their number. A regression head (one label) gets the squared error
    instead.
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


def soft_tokens(student: Tensor, teacher: Tensor, mask: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Soft cross-entropy of each kept token's logits [B, S, labels], mean over those tokens."""
    chosen = mask.bool()
    if not chosen.any():
        return student.sum() * 0.0
    return soft_label(student[chosen], teacher[chosen], temperature=temperature)


def hard_tokens(student: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [B, S, labels] with classes [B, S], mean over the tokens that have one.

    With the words that were masked as classes and `UNLABELLED` everywhere else it is BERT's masked language model.
    """
    chosen = labels != UNLABELLED
    if not chosen.any():
        return student.sum() * 0.0
    return hard_label(student[chosen], labels[chosen])


def soft_span(student: Tensor, teacher: Tensor, mask: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Soft cross-entropy over the kept positions of logits [B, S, 2], of a span's start and its end; their mean."""
    got, wanted = (_over_positions(x / temperature, mask) for x in (student, teacher))
    each = -(wanted.exp() * got.masked_fill(mask[:, None] == 0, 0.0)).sum(-1)
    return each.mean() * temperature**2


def hard_span(student: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy over the kept positions of logits [B, S, 2] with [B, 2] positions of start and end; their mean."""
    each = -_over_positions(student, mask).gather(-1, labels[:, :, None])[..., 0]
    return each.mean()


def _over_positions(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities [B, 2, S] over the kept positions."""
    by_end = logits.transpose(1, 2)
    return functional.log_softmax(by_end.masked_fill(mask[:, None] == 0, torch.finfo(by_end.dtype).min), dim=-1)


def labelled(labels: Tensor) -> Tensor:
    """Which rows [B] have a label: transfer text has `UNLABELLED` (classes) or NaN (regression).

    Of labels with more dims ([B, S] of tokens, [B, 2] of spans) a row has one where any of its own is known.
    """
    known = ~torch.isnan(labels) if labels.is_floating_point() else labels != UNLABELLED
    return known.flatten(1).any(1) if known.dim() > 1 else known


# --- inner values -----------------------------------------------------------------------------------------------------


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of hidden states [B, S, N] over the tokens that `mask` [B, S] keeps.

    A narrower student is held to the teacher's first dims: subnets of a supernet share its order of dims.
    """
    error = (student.float() - teacher[..., : student.shape[-1]].float()).square().mean(-1)
    return _mean(error, mask)


def attention_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of unnormalised scores [B, H, S, S] between kept tokens (TinyBERT eq. 7).

    A student with fewer heads is held to the teacher's first heads.
    """
    error = (student.float() - teacher[:, : student.shape[1]].float()).square().mean(1)
    return _mean(error, mask[:, :, None] * mask[:, None, :])


def attention_kl(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL divergence of attention probabilities from scores [B, H, S, S], mean over heads and kept queries.

    The teacher is the reference (MiniLM, Wang et al. 2020, eq. 4). A student with fewer heads is held to the teacher's
    first heads.
    """
    return _mean_kl(student.float(), teacher[:, : student.shape[1]].float(), mask)


def relation_kl(student: Tensor, teacher: Tensor, mask: Tensor, *, heads: int) -> Tensor:
    """KL divergence of the relations among a layer's queries, keys or values [B, S, N], of any two widths.

    Vectors are cut into `heads` parts, a relation is the softmax of their scaled products (MiniLM v2, Wang et al. 2021,
    eq. 5 and 6). Raises `ValueError` where a width is no multiple of `heads`.
    """
    return _mean_kl(_products(student, heads), _products(teacher, heads), mask)


def _products(x: Tensor, heads: int) -> Tensor:
    if x.shape[-1] % heads:
        raise ValueError(f"{heads} relation heads do not divide vectors of {x.shape[-1]}")
    parts = x.float().view(*x.shape[:-1], heads, -1).transpose(1, 2)
    return parts @ parts.transpose(-1, -2) / math.sqrt(parts.shape[-1])


def _mean_kl(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Of softmaxes over kept keys, from scores [B, H, S, S]; mean over heads and kept queries."""
    padding = mask[:, None, None, :] == 0
    least = torch.finfo(student.dtype).min  # not -inf: a row of padding alone must not become NaN
    got, wanted = (functional.log_softmax(x.masked_fill(padding, least), dim=-1) for x in (student, teacher))
    divergence = functional.kl_div(got, wanted, reduction="none", log_target=True).masked_fill(padding, 0.0)
    return _mean(divergence.sum(-1).mean(1), mask)
