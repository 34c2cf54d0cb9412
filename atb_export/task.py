"""The task of a recipe as rows, labels and token ids: what students learn from, and what they are scored by."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atb_export.recipe import BaseRecipe
from supernet.augmentation import AugmentPlan, augmented_tokens, candidates_of
from supernet.batches import TokenizedTexts, tokenize
from supernet.data.glue import glue_task, read_glue
from supernet.data.rows import Row, labels_of
from supernet.data.source import read_rows
from supernet.data.split import Splits, join_splits, split_rows
from supernet.data.squad import Question, read_squad, split_questions, squad_scores
from supernet.data.stream import TransferText
from supernet.data.text import sentences
from supernet.distillation import Lessons
from supernet.errors import DataError
from supernet.losses import UNLABELLED
from supernet.masking import Masking
from supernet.metrics import Metrics, metrics_of
from supernet.model import Supernet
from supernet.spans import SpanFeatures, decode_spans, span_features, span_logits
from supernet.stage import DataKind, Stage
from supernet.subnet import SubnetConfig
from supernet.teacher import Teacher, find_teacher, load_mlm
from supernet.token_cache import transfer_tokens


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
    def pairs(self) -> bool:
        """Whether the task has two texts a row."""
        return len(self.splits.train[0].texts) == 2

    @property
    def held_out(self) -> tuple[Row, ...]:
        """All rows that something is reported or chosen on: nothing of them is learnt."""
        more = (row for rows in self.more_tests.values() for row in rows)
        return (*self.splits.search_dev, *self.splits.test, *more)

    @cached_property
    def transfer(self) -> tuple[str, ...]:
        """The transfer sentences, in memory; of a large text `lessons` with a folder is the way."""
        text = self.text
        if text is None:
            return ()
        limit = text.limit if text.limit is not None else 2**62
        words = {"min_words": text.min_words, "max_words": text.max_words}
        return tuple(sentences(text.rows(), **words, limit=limit, seed=text.seed, exclude=self.held_out))

    def counts(self) -> dict[str, int]:
        """Rows per split."""
        return {name: len(getattr(self.splits, name)) for name in ("train", "search_dev", "test")}

    def metrics(self, labels: Sequence[str]) -> Metrics:
        """What logits in the order of `labels` (the teacher's) are scored by."""
        if not self.metric_names:
            return metrics_of(len(labels))
        return Metrics(names=self.metric_names, positive=list(labels).index(self.positive) if self.positive else 1)


def load_task(recipe: BaseRecipe) -> TaskData:
    """Reads and splits what `[task]` and `[transfer]` name; the same recipe always gives the same rows.

    Raises `DataError`, also where stages learn answers about single sentences for a task of pairs.
    """
    task = recipe.task
    if task.kind == "squad":
        raise DataError("questions about contexts are no rows of one label: a task of kind squad is load_questions'")
    text = _transfer_text(recipe)
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


def _transfer_text(recipe: BaseRecipe) -> TransferText | None:
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


def lessons(
    teacher: Teacher,
    data: TaskData,
    *,
    max_length: int,
    task_repeats: int = 2,
    kind: DataKind = "all",
    folder: Path | None = None,
    augmented: TokenizedTexts | None = None,
) -> Lessons:
    """What a stage of that `kind` of data learns from.

    `all`: the task's training texts (repeated, for they matter most) and transfer text; `task`: its training texts;
    `transfer`: the transfer text; `augmented`: the training texts and the new rows made from them (`augment_task`).
    With a `folder` the tokens of transfer text are kept in a file there, and the text may be larger than the memory.
    Raises `DataError` where there is no transfer text, or no augmented rows, and the kind is that.
    """
    own = label_tensor(data.splits.train, teacher.labels)
    parts: list[Lessons] = []
    if kind != "transfer":
        task = Lessons(texts=token_ids(teacher, data.splits.train, max_length=max_length), labels=own)
        parts += [task] * (task_repeats if kind == "all" else 1)
    if kind == "transfer" or (kind == "all" and data.text is not None):
        parts.append(_unlabelled(_transfer(teacher, data, max_length=max_length, folder=folder), own))
    if kind == "augmented":
        if augmented is None:
            raise DataError("a stage learns from augmented rows, but none were made: the recipe needs [augmentation]")
        parts.append(_unlabelled(augmented, own))
    return replace(_joined(parts), masking=masking_of(teacher))


def masking_of(teacher: Teacher) -> Masking | None:
    """How words are hidden from a masked language model; None where the tokenizer has no mask."""
    tokenizer = teacher.tokenizer
    if tokenizer.mask_token_id is None:
        return None
    return Masking(
        mask_token_id=tokenizer.mask_token_id,
        special_token_ids=tuple(sorted(tokenizer.all_special_ids)),
        vocab_size=teacher.model.config.vocab_size,
    )


def _transfer(teacher: Teacher, data: TaskData, *, max_length: int, folder: Path | None) -> TokenizedTexts:
    if data.text is None:
        raise DataError("a stage learns from transfer text, but the recipe names none: it needs a table [transfer]")
    if folder is None:
        return tokenize(teacher.tokenizer, [(text,) for text in data.transfer], max_length=max_length)
    return transfer_tokens(folder, teacher.tokenizer, data.text, max_length=max_length, exclude=data.held_out)


def transfer_count(teacher: Teacher, data: TaskData, *, max_length: int, folder: Path | None = None) -> int:
    """Sentences of transfer text; with the `folder` of the lessons, without reading the text again."""
    return 0 if data.text is None else len(_transfer(teacher, data, max_length=max_length, folder=folder))


def _unlabelled(texts: TokenizedTexts, like: Tensor) -> Lessons:
    """With a label of the same kind that says that there is none."""
    unknown = math.nan if like.is_floating_point() else UNLABELLED
    return Lessons(texts=texts, labels=torch.full((len(texts), *like.shape[1:]), unknown, dtype=like.dtype))


def _joined(parts: Sequence[Lessons]) -> Lessons:
    texts = parts[0].texts
    for part in parts[1:]:
        texts = texts + part.texts
    return Lessons(texts=texts, labels=torch.cat([part.labels for part in parts]))


def augment_task(
    teacher: Teacher, data: TaskData, plan: AugmentPlan, *, checkpoint: str, max_length: int, folder: Path
) -> TokenizedTexts:
    """New rows from the task's training rows, kept in `folder`; see `supernet.augmentation`.

    `checkpoint` is what the teacher was made from (`[teacher] model`): its masked language model is asked where it was
    saved with one, for fine-tuning loses it.
    """
    rows = [row.texts for row in data.splits.train]
    return augmented_tokens(
        folder,
        teacher.tokenizer,
        rows,
        lambda: candidates_of(teacher.model, teacher.tokenizer, plan, mlm=load_mlm(checkpoint)),
        plan,
        teacher=_checkpoint_hash(checkpoint),
        max_length=max_length,
    )


def _checkpoint_hash(name: str) -> str:
    """Of the weights in a folder; of the name of what the hub has."""
    folder = Path(find_teacher(name))
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest() if folder.is_dir() else name


# --- questions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SpanData:
    """Questions about contexts, no context in two splits; answers are spans of the context, or none (SQuAD 2.0)."""

    train: tuple[Question, ...]
    search_dev: tuple[Question, ...]
    test: tuple[Question, ...]
    max_length: int
    doc_stride: int

    def counts(self) -> dict[str, int]:
        """Questions per split."""
        return {name: len(getattr(self, name)) for name in ("train", "search_dev", "test")}

    @property
    def has_nulls(self) -> bool:
        """Whether some question has no answer."""
        return any(x.is_impossible for x in (*self.train, *self.test))

    def features(self, tokenizer: Any, split: str) -> SpanFeatures:
        """A split's questions as windows of tokens; those of train without places of characters, which only answers
        need."""
        return span_features(
            tokenizer,
            getattr(self, split),
            max_length=self.max_length,
            doc_stride=self.doc_stride,
            max_question=min(64, self.max_length // 3),
            offsets=split != "train",
        )

    def score(
        self, net: Supernet, features: SpanFeatures, split: str, *, subnet: SubnetConfig | None = None
    ) -> dict[str, float]:
        """Official F1 and exact match of a network with a span head on a split's questions."""
        questions: Sequence[Question] = getattr(self, split)
        answers = decode_spans(
            features, span_logits(net, features.texts, subnet=subnet), questions, allow_null=self.has_nulls
        )
        return squad_scores(questions, {name: answer.text for name, answer in answers.items()})


def load_questions(recipe: BaseRecipe) -> SpanData:
    """Reads and splits the SQuAD json that `[task]` names; contexts of test and search-dev are left out of train."""
    task, seed = recipe.task, recipe.seed
    if task.kind != "squad":
        raise DataError(f"a task of kind {task.kind} has rows, not questions: it is load_task's")
    search_dev: tuple[Question, ...]
    if task.path is not None:
        train, test = split_questions(read_squad(task.path), task.test_rows or 0, seed=seed)
    else:
        train, test = (tuple(read_squad(str(path), split=split)) for path, split in
                       ((task.train, "train"), (task.test, "dev")))  # fmt: skip
        train = _without_contexts(train, test)
    if task.search_dev is not None:
        search_dev = _without_contexts(tuple(read_squad(task.search_dev, split="dev")), test)
        train = _without_contexts(train, search_dev)
    else:
        train, search_dev = split_questions(train, task.search_dev_rows or 0, seed=seed)
    for name, questions in (("train", train), ("search_dev", search_dev)):
        if not questions:
            raise DataError(f"every split needs questions, but the contexts of {name} are all in another split too")
    length = recipe.teacher.max_length
    return SpanData(train=train, search_dev=search_dev, test=test, max_length=length, doc_stride=min(128, length // 3))


def _without_contexts(questions: tuple[Question, ...], others: tuple[Question, ...]) -> tuple[Question, ...]:
    contexts = {" ".join(x.context.split()).casefold() for x in others}
    return tuple(x for x in questions if " ".join(x.context.split()).casefold() not in contexts)


def span_lessons(features: SpanFeatures) -> Lessons:
    """Windows to learn from; labels are int64 [windows, 2], the first and the last token of the answer."""
    return Lessons(texts=features.texts, labels=features.spans)
