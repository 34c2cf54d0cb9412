"""Model folders these benchmarks export: a stock BERT classifier, random or trained on the quick start's reviews."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from atb_export.dense import DenseModel, save_dense
from atb_export.recipe import load_recipe
from atb_export.task import TaskData, label_tensor, load_task, token_ids
from supernet.batches import BatchOrder
from supernet.teacher import Teacher, fine_tune, load_teacher, save_teacher, supernet_from_bert
from supernet.training import TrainPlan

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "quickstart.toml"


def _teacher(labels: Sequence[str]) -> Teacher:
    return load_teacher(load_recipe(RECIPE).teacher.model, labels=labels, seed=0)


def stock_classifier(folder: Path) -> Path:
    """The quick start's teacher as a classifier of two labels whose head was never trained."""
    found = _teacher(("negative", "positive"))
    save_dense(DenseModel(net=supernet_from_bert(found.model), tokenizer=found.tokenizer, labels=found.labels), folder)
    return folder


def reviews() -> TaskData:
    """The quick start's rows, split as it splits them."""
    return load_task(load_recipe(RECIPE))


def trained_classifier(folder: Path, data: TaskData, *, rows: int) -> Path:
    """The quick start's teacher, fine-tuned for one epoch of so many rows."""
    part = load_recipe(RECIPE).teacher
    teacher = _teacher(data.labels)
    train = data.splits.train[:rows]
    texts = token_ids(teacher, train, max_length=part.max_length)
    order = BatchOrder([len(ids) for ids in texts.input_ids], batch_size=part.batch_size, seed=0)
    plan = TrainPlan(steps=order.per_epoch, learning_rate=part.learning_rate)
    torch.manual_seed(0)
    labels: Any = label_tensor(train, teacher.labels)
    fine_tune(teacher, texts, labels, plan, batch_size=part.batch_size, seed=0)
    save_teacher(teacher, folder)
    return folder
