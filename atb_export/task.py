"""The task of a recipe as rows, labels and token ids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atb_export.recipe import Recipe
from supernet.batches import TokenizedTexts, tokenize
from supernet.data.rows import Row, labels_of
from supernet.data.source import read_rows
from supernet.data.split import Splits, join_splits, split_rows
from supernet.data.text import sentences
from supernet.distillation import Lessons
from supernet.errors import DataError
from supernet.losses import UNLABELLED
from supernet.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Disjoint labelled rows and unlabelled transfer sentences; `labels` in a stable order."""

    splits: Splits
    labels: tuple[str, ...]
    transfer: tuple[str, ...]

    @property
    def pairs(self) -> bool:
        """Whether the task has two texts a row."""
        return len(self.splits.train[0].texts) == 2

    def counts(self) -> dict[str, int]:
        """Rows per split."""
        return {name: len(getattr(self.splits, name)) for name in ("train", "search_dev", "test")}


def load_task(recipe: Recipe) -> TaskData:
    """Reads and splits what `[task]` and `[transfer]` name; the same recipe always gives the same rows."""
    task, seed = recipe.task, recipe.seed
    sources = task.sources()
    if "all" in sources:
        splits = split_rows(
            read_rows(sources["all"]),
            seed=seed,
            test_rows=task.test_rows or 0,
            search_dev_rows=task.search_dev_rows or 0,
        )
    else:
        dev = sources.get("search_dev")
        splits = join_splits(
            train=read_rows(sources["train"]),
            test=read_rows(sources["test"]),
            search_dev=read_rows(dev) if dev is not None else None,
            search_dev_rows=task.search_dev_rows or 0,
            seed=seed,
        )
    transfer: Sequence[str] = ()
    if recipe.transfer is not None:
        if len(splits.train[0].texts) == 2:
            raise DataError("transfer text is single sentences, but this task has pairs of texts; drop [transfer]")
        part = recipe.transfer
        transfer = sentences(
            read_rows(part.source()),
            min_words=part.min_words,
            max_words=part.max_words,
            limit=part.limit,
            seed=seed,
            exclude=[*splits.search_dev, *splits.test],
        )
    return TaskData(splits=splits, labels=labels_of(splits.train), transfer=tuple(transfer))


def label_tensor(rows: Sequence[Row], labels: Sequence[str]) -> Tensor:
    """int64 class indices, or float32 targets for a regression (one label)."""
    if len(labels) == 1:
        return torch.tensor([float(row.label or 0) for row in rows], dtype=torch.float32)
    index = {label: i for i, label in enumerate(labels)}
    return torch.tensor([index[str(row.label)] for row in rows])


def token_ids(teacher: Teacher, rows: Sequence[Row], *, max_length: int) -> TokenizedTexts:
    """The rows' texts through the teacher's tokenizer."""
    return tokenize(teacher.tokenizer, [row.texts for row in rows], max_length=max_length)


def lessons(teacher: Teacher, data: TaskData, *, max_length: int, task_repeats: int = 2) -> Lessons:
    """What students learn from: the task's training texts (repeated, for they matter most) and transfer text."""
    task = token_ids(teacher, data.splits.train, max_length=max_length)
    own = label_tensor(data.splits.train, teacher.labels)
    texts, labels = task, [own]
    for _ in range(task_repeats - 1):
        texts, labels = texts + task, [*labels, own]
    if data.transfer:
        texts = texts + tokenize(teacher.tokenizer, [(text,) for text in data.transfer], max_length=max_length)
        unknown = math.nan if own.is_floating_point() else UNLABELLED
        labels.append(torch.full((len(data.transfer),), unknown, dtype=own.dtype))
    return Lessons(texts=texts, labels=torch.cat(labels))
