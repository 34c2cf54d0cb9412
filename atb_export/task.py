"""The task of a recipe as rows with a label: what students learn from, and what they are scored by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from atb_export.recipe import BaseRecipe
from supernet.batches import TokenizedTexts, tokenize
from supernet.data.glue import glue_task, read_glue
from supernet.data.rows import Row, labels_of
from supernet.data.source import read_rows
from supernet.data.split import Splits, join_splits, split_rows
from supernet.data.stream import TransferText
from supernet.distillation import Lessons, predict
from supernet.errors import DataError
from supernet.facts import Head
from supernet.losses import UNLABELLED
from supernet.metrics import Metrics, metrics_of
from supernet.model import Supernet
from supernet.stage import Stage
from supernet.teacher import Teacher
from supernet.watch import Judge, loss_and_accuracy


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Disjoint labelled rows and unlabelled text; `labels` in a stable order.

    `more_tests` are further test sets by name (MNLI's mismatched). `metric_names` are what the task is scored by, the
    one to compare by first; `positive` the label that F1 asks for.
    """

    splits: Splits
    labels: tuple[str, ...]
    text: TransferText | None = None
    more_tests: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
    metric_names: tuple[str, ...] = ()
    positive: str | None = None

    @property
    def head(self) -> Head:
        """One answer a text."""
        return "sequence"

    @property
    def primary(self) -> str:
        """The metric to compare models by."""
        return self.metrics(self.labels).primary

    @property
    def pairs(self) -> bool:
        """Whether the task has two texts a row."""
        return len(self.splits.train[0].texts) == 2

    @property
    def held_out(self) -> tuple[Row, ...]:
        """All rows that something is reported or chosen on: nothing of them is learnt."""
        more = (row for rows in self.more_tests.values() for row in rows)
        return (*self.splits.search_dev, *self.splits.test, *more)

    @property
    def train_texts(self) -> Iterator[tuple[str, ...]]:
        """The texts to train on."""
        return (row.texts for row in self.splits.train)

    def counts(self) -> dict[str, int]:
        """Rows per split."""
        return {name: len(getattr(self.splits, name)) for name in ("train", "search_dev", "test")}

    def metrics(self, labels: Sequence[str]) -> Metrics:
        """What logits in the order of `labels` (the teacher's) are scored by."""
        if not self.metric_names:
            return metrics_of(len(labels))
        return Metrics(names=self.metric_names, positive=list(labels).index(self.positive) if self.positive else 1)

    def rows(self, split: str) -> tuple[Row, ...]:
        """Of a split, or of a further test set."""
        found: tuple[Row, ...] = self.more_tests[split] if split in self.more_tests else getattr(self.splits, split)
        return found

    def of_split(self, teacher: Teacher, split: str, *, max_length: int) -> Lessons:
        """The tokens and labels of a split, or of a further test set."""
        rows = self.rows(split)
        labels = label_tensor(rows, teacher.labels)
        return Lessons(texts=token_ids(teacher, rows, max_length=max_length), labels=labels)

    def unlabelled(self, count: int) -> Tensor:
        """Labels of so many texts that have none: int64, or float32 of a regression."""
        return torch.full((count,), math.nan) if len(self.labels) == 1 else torch.full((count,), UNLABELLED)

    def scores(self, teacher: Teacher, net: Supernet, split: str, *, max_length: int) -> dict[str, float]:
        """Every metric on a split; with those of test, on further test sets by `METRIC of NAME`."""
        metrics = self.metrics(teacher.labels)

        def on(part: str) -> dict[str, float]:
            lesson = self.of_split(teacher, part, max_length=max_length)
            return metrics(predict(net, lesson.texts), lesson.labels)

        found = on(split)
        for name in self.more_tests if split == "test" else ():
            found |= {f"{metric} of {name}": value for metric, value in on(name).items()}
        return found

    def judge(self, _: Lessons) -> Judge:
        """What is told of some rows while a network is taught."""
        return loss_and_accuracy


def load_task(recipe: BaseRecipe) -> TaskData:
    """Reads and splits what `[task]` and `[transfer]` name; the same recipe always gives the same rows.

    Raises `DataError`, also where stages learn answers about single sentences for a task of pairs.
    """
    task = recipe.task
    if task.kind == "squad":
        raise DataError("questions about contexts are no rows of one label: a task of kind squad is load_questions'")
    text = transfer_text(recipe)
    if task.kind == "glue":
        data = _load_glue(recipe, text)
    else:
        splits = _load_splits(recipe)
        data = TaskData(splits=splits, labels=labels_of(splits.train), text=text)
    if text is not None and data.pairs and any(_answers_sentences(stage) for stage in _stages_of(recipe)):
        raise DataError(
            "transfer text is single sentences, but this task has pairs of texts, and a teacher of pairs has no answer "
            'for one; drop [transfer], or let only stages without soft_label have data = "transfer" or "all"'
        )
    if recipe.transfer is not None and recipe.transfer.confidence_quantile and (data.pairs or len(data.labels) == 1):
        raise DataError("[transfer] confidence_quantile is of classes of single texts, and this task has none: drop it")
    return data


def _load_splits(recipe: BaseRecipe) -> Splits:
    task, seed = recipe.task, recipe.seed
    sources = task.sources()
    if "all" in sources:
        return split_rows(
            read_rows(sources["all"]),
            seed=seed,
            test_rows=task.test_rows or 0,
            search_dev_rows=task.search_dev_rows or 0,
        )
    dev = sources.get("search_dev")
    return join_splits(
        train=read_rows(sources["train"]),
        test=read_rows(sources["test"]),
        search_dev=read_rows(dev) if dev is not None else None,
        search_dev_rows=task.search_dev_rows or 0,
        seed=seed,
    )


def _load_glue(recipe: BaseRecipe, text: TransferText | None) -> TaskData:
    """The official dev set is what is reported on; the rows a search compares on are taken out of train."""
    part = recipe.task
    task = glue_task(part.name or "")
    first, *others = task.devs
    more = {name: tuple(read_glue(task.name, name, path=part.path)) for name in others}
    splits = join_splits(
        train=read_glue(task.name, "train", path=part.path),
        test=read_glue(task.name, first, path=part.path),
        search_dev_rows=part.search_dev_rows or 0,
        seed=recipe.seed,
        held_out=[row for rows in more.values() for row in rows],
    )
    return TaskData(
        splits=splits,
        labels=task.labels,
        text=text,
        more_tests=more,
        metric_names=task.metrics,
        positive=task.positive,
    )


def transfer_text(recipe: BaseRecipe) -> TransferText | None:
    """The unlabelled text that `[transfer]` names."""
    part = recipe.transfer
    if part is None:
        return None
    return TransferText(
        source=part.source(),
        min_words=part.min_words,
        max_words=part.max_words,
        limit=part.limit,
        seed=recipe.seed,
        wikitext=part.wikitext,
    )


def _stages_of(recipe: BaseRecipe) -> list[Stage]:
    parts = (recipe.distill, getattr(recipe, "supernet", None))
    return [stage for part in parts if part is not None for stage in part.stages()]


def _answers_sentences(stage: Stage) -> bool:
    return stage.data in ("transfer", "all") and stage.losses.soft_label > 0


def other_task(part: Any, *, held_out: Sequence[Row] = ()) -> tuple[list[Row], tuple[str, ...]]:
    """Training rows and labels of another task of `[[teacher.tasks]]`, without the texts of `held_out`."""
    if part.kind == "glue":
        labels, rows = glue_task(part.name).labels, read_glue(part.name, "train", path=part.path)
    else:
        rows = read_rows(part.source())
        labels = labels_of(rows)
    keys = {row.key for row in held_out}
    kept = [row for row in rows if row.key not in keys]
    if not kept:
        raise DataError(f"the task {part.name or part.path} has no row that is not held out elsewhere")
    return kept, labels


# --- tokens ---------------------------------------------------------------------------------------------------------


def label_tensor(rows: Sequence[Row], labels: Sequence[str]) -> Tensor:
    """int64 class indices, or float32 targets for a regression (one label)."""
    if len(labels) == 1:
        return torch.tensor([float(row.label or 0) for row in rows], dtype=torch.float32)
    index = {label: i for i, label in enumerate(labels)}
    return torch.tensor([index[str(row.label)] for row in rows])


def token_ids(teacher: Teacher, rows: Sequence[Row], *, max_length: int) -> TokenizedTexts:
    """The rows' texts through the teacher's tokenizer."""
    return tokenize(teacher.tokenizer, [row.texts for row in rows], max_length=max_length)
