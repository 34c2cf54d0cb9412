"""Teaching subnets: many at once in a supernet, or one dense model on its own; both through the one loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from supernet.batches import BatchOrder, TokenizedTexts
from supernet.model import Supernet, SupernetOutput
from supernet.objective import LossWeights, distillation_loss
from supernet.sampler import sandwich
from supernet.space import SearchSpace, SubnetConfig
from supernet.training import Progress, TrainPlan, autocast_type, train


@dataclass(frozen=True, kw_only=True, eq=False)
class Lessons:
    """Texts to learn from and their labels [rows]: int64 with `UNLABELLED`, or float32 with NaN, where unknown."""

    texts: TokenizedTexts
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels):
            raise ValueError(
                f"every text has a place for its label: {len(self.texts)} texts, {len(self.labels)} labels"
            )


class _Lesson:
    """What a teacher says about the texts of each step."""

    def __init__(self, teacher: Supernet, texts: Lessons, weights: LossWeights, *, batch_size: int, seed: int) -> None:
        self.teacher = teacher.eval()
        self.texts, self.labels = texts.texts, texts.labels
        self.weights = weights
        self.order = BatchOrder([len(ids) for ids in self.texts.input_ids], batch_size=batch_size, seed=seed)

    def losses(self, step: int, student: Supernet, subnets: Sequence[SubnetConfig], *, dense: bool) -> Tensor:
        """Mean loss of the subnets on the step's batch; a `dense` student is the subnet already and is not cut."""
        rows = self.order[step]
        batch = self.texts.batch(rows)
        with torch.no_grad():
            answer: SupernetOutput = self.teacher(**batch, **self.weights.asks)
        terms = [
            distillation_loss(
                student(**batch, subnet=None if dense else subnet, **self.weights.asks),
                answer,
                subnet=subnet,
                teacher_depth=self.teacher.shape.depth,
                mask=batch["attention_mask"],
                weights=self.weights,
                labels=self.labels[rows],
            )
            for subnet in subnets
        ]
        return torch.stack(terms).mean()


def _train_frozen_words(
    student: Supernet,
    loss: Callable[[int], Tensor],
    plan: TrainPlan,
    checkpoint: Path | None,
    progress: Progress | None,
) -> None:
    """Word embeddings stay the teacher's: they are most of the weights, and hardly any of the loss."""
    student.word_embeddings.weight.requires_grad_(False)
    try:
        train(student, loss, plan, checkpoint=checkpoint, progress=progress)
    finally:
        student.word_embeddings.weight.requires_grad_(True)


def train_supernet(
    supernet: Supernet,
    teacher: Supernet,
    texts: Lessons,
    space: SearchSpace,
    plan: TrainPlan,
    *,
    weights: LossWeights,
    batch_size: int,
    random_subnets: int,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Sandwich training in place: each step teaches the largest, the smallest and `random_subnets` subnets.

    `teacher` has the supernet's shape and its order of dims: a copy from before the training.
    """
    lesson = _Lesson(teacher, texts, weights, batch_size=batch_size, seed=seed)

    def loss(step: int) -> Tensor:
        subnets = sandwich(space, random_subnets=random_subnets, rng=Random(f"{seed}-sandwich-{step}"))
        return lesson.losses(step, supernet, subnets, dense=False)

    _train_frozen_words(supernet, loss, plan, checkpoint, progress)


def distill(
    student: Supernet,
    teacher: Supernet,
    texts: Lessons,
    plan: TrainPlan,
    *,
    subnet: SubnetConfig,
    weights: LossWeights,
    batch_size: int,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Further distillation in place of a dense model that was sliced as `subnet` from the teacher's supernet."""
    lesson = _Lesson(teacher, texts, weights, batch_size=batch_size, seed=seed)

    def loss(step: int) -> Tensor:
        return lesson.losses(step, student, [subnet], dense=True)

    _train_frozen_words(student, loss, plan, checkpoint, progress)


@torch.no_grad()
def predict(
    model: Supernet, texts: TokenizedTexts, *, subnet: SubnetConfig | None = None, batch_size: int = 64
) -> Tensor:
    """Float32 logits [rows, labels] in the order of `texts`; in bf16 where the CPU has it."""
    dtype = autocast_type()
    logits = torch.zeros(len(texts), model.facts.num_labels)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        for rows, batch in texts.in_order(batch_size):
            logits[rows] = model(**batch, subnet=subnet).logits.float()
    return logits
