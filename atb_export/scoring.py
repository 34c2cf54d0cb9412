"""The accuracy of inherited weights, asked no further where it is surely behind; a short training before, if wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supernet.distillation import Lessons, teach
from supernet.layer_map import LayerMap
from supernet.metrics import Metrics, score
from supernet.model import Supernet
from supernet.space import SubnetConfig
from supernet.stage import LossWeights, Projection, Sampler, Stage

Flags = NDArray[np.bool_]

CHUNK_ROWS = 256
# One-sided odds of about 1 in 200 for each look that a candidate as good as its rival is dropped.
_SURELY = 2.6


@dataclass(frozen=True, kw_only=True)
class Raced:
    """`accuracy` (or another metric) over the first `rows` rows; `correct` is a bitmap of them, None where the metric
    is no share of rows."""

    accuracy: float
    rows: int
    complete: bool
    correct: bytes | None


def race(
    answer: Callable[[range], Tensor], labels: Tensor, *, rival: bytes | None, metrics: Metrics | None = None
) -> Raced:
    """Scores rows in chunks, in order. `answer(rows)` gives their logits [rows, labels].

    Where the rival got surely more of the rows so far right (McNemar's statistic on the same rows), it ends: a
    candidate that is slower and less accurate stands on no front. What is no share of rows (the r of a regression, F1,
    Matthews) is scored whole; `metrics` are accuracy or r unless told.
    """
    total = len(labels)
    if labels.is_floating_point() or (metrics is not None and not metrics.by_row):
        value = (score if metrics is None else metrics.score)(answer(range(total)), labels)
        return Raced(accuracy=value, rows=total, complete=True, correct=None)
    theirs = None if rival is None else unpacked(rival, total)
    right = np.zeros(0, dtype=bool)
    while len(right) < total:
        rows = range(len(right), min(len(right) + CHUNK_ROWS, total))
        mine = (answer(rows).argmax(-1) == labels[rows.start : rows.stop]).numpy()
        right = np.concatenate([right, mine])
        if theirs is not None and len(right) < total and _surely_behind(right, theirs[: len(right)]):
            break
    return Raced(
        accuracy=float(right.mean()),
        rows=len(right),
        complete=len(right) == total,
        correct=np.packbits(right, bitorder="little").tobytes(),
    )


def unpacked(bitmap: bytes, rows: int) -> Flags:
    """Bits 0 to `rows` of a bitmap as [rows] bool."""
    bits = np.unpackbits(np.frombuffer(bitmap, dtype=np.uint8), bitorder="little")[:rows]
    return bits.astype(bool)


def _surely_behind(mine: Flags, theirs: Flags) -> bool:
    only_mine, only_theirs = int((mine & ~theirs).sum()), int((~mine & theirs).sum())
    return only_theirs - only_mine > _SURELY * math.sqrt(max(1, only_mine + only_theirs))


@dataclass(frozen=True, kw_only=True, eq=False)
class Tuning:
    """A short distillation of a sliced subnet before it is scored: AutoTinyBERT's fitness (Yin et al. 2021)."""

    teacher: Supernet
    lessons: Lessons
    weights: LossWeights
    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    layer_map: LayerMap = field(default_factory=LayerMap)
    projection: Projection = "none"

    def __call__(self, net: Supernet, subnet: SubnetConfig) -> Supernet:
        """The subnet as a dense net, trained."""
        dense = net.slice(subnet)
        stage = Stage(
            name="tuning",
            losses=self.weights,
            layer_map=self.layer_map,
            projection=self.projection,
            sampler=Sampler("whole"),
            steps=self.steps,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            checkpoint_every=self.steps,
        )
        cut = subnet if subnet.fits(self.teacher.shape) else None
        with torch.enable_grad():
            teach(dense, self.lessons, stage, teacher=self.teacher, subnet=cut, seed=self.seed)
        return dense.eval()
