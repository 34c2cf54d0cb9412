"""How good predictions are, over a whole set of rows at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def metric_name(num_labels: int) -> str:
    """Accuracy for classes, Pearson correlation for a regression."""
    return "pearson" if num_labels == 1 else "accuracy"


def score(logits: Tensor, labels: Tensor) -> float:
    """Accuracy of float logits [rows, classes] against int64 classes, or Pearson's r of [rows, 1] against floats."""
    if logits.shape[-1] > 1:
        return (logits.argmax(-1) == labels).double().mean().item()
    pair = torch.stack([logits[:, 0].double(), labels.double()])
    value = torch.corrcoef(pair)[0, 1].item()
    return 0.0 if math.isnan(value) else value  # constant predictions correlate with nothing


def score_error(value: float, rows: int, num_labels: int) -> float:
    """Standard error of `score`: binomial, or (1 - r^2)/sqrt(rows - 1) (Fisher 1915)."""
    if num_labels > 1:
        return math.sqrt(value * (1 - value) / rows)
    return (1 - value**2) / math.sqrt(max(1, rows - 1))
