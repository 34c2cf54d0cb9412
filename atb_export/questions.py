"""The task of a recipe as questions about contexts, whose answers are spans of them: SQuAD 1.1 and 2.0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from atb_export.recipe import BaseRecipe
from atb_export.task import transfer_text
from supernet.data.rows import Row
from supernet.data.squad import Question, read_squad, split_questions, squad_scores
from supernet.data.stream import TransferText
from supernet.distillation import Lessons
from supernet.errors import DataError
from supernet.facts import Head
from supernet.losses import UNLABELLED
from supernet.model import Supernet
from supernet.spans import LABELS, SpanFeatures, decode_spans, loss_and_exact, span_features, span_logits
from supernet.subnet import SubnetConfig
from supernet.teacher import Teacher
from supernet.watch import Judge

_STRIDE = 128  # tokens that neighbouring windows share, at most, and the longest question: those of BERT's own script
_QUESTION = 64


@dataclass(frozen=True, kw_only=True)
class SpanData:
    """Questions about contexts, no context in two splits; answers are spans of the context, or none (SQuAD 2.0).

    What is learnt and scored on are windows of tokens, as many a question as its context needs. Those of search-dev
    and test are kept once they were asked for: every student is scored on them.
    """

    train: tuple[Question, ...]
    search_dev: tuple[Question, ...]
    test: tuple[Question, ...]
    text: TransferText | None = None
    _kept: dict[tuple[int, str, int], tuple[Any, SpanFeatures]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def head(self) -> Head:
        """Where an answer starts and ends."""
        return "span"

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the two logits."""
        return LABELS

    @property
    def primary(self) -> str:
        """The metric to compare models by."""
        return "f1"

    @cached_property
    def has_nulls(self) -> bool:
        """Whether some question has no answer."""
        return any(x.is_impossible for x in (*self.train, *self.test))

    @property
    def held_out(self) -> tuple[Row, ...]:
        """The contexts and questions that something is reported or chosen on: nothing of them is learnt."""
        texts = dict.fromkeys(text for x in (*self.search_dev, *self.test) for text in (x.context, x.question))
        return tuple(Row(texts=(text,)) for text in texts)

    @property
    def train_texts(self) -> Iterator[tuple[str, ...]]:
        """Question and context."""
        return ((x.question, x.context) for x in self.train)

    def counts(self) -> dict[str, int]:
        """Questions per split."""
        return {name: len(getattr(self, name)) for name in ("train", "search_dev", "test")}

    def of_split(self, teacher: Teacher, split: str, *, max_length: int) -> Lessons:
        """A split's windows; labels are int64 [windows, 2], the first and the last token of the answer."""
        features = self.features(teacher.tokenizer, split, max_length=max_length)
        return Lessons(texts=features.texts, labels=features.spans)

    def features(self, tokenizer: Any, split: str, *, max_length: int) -> SpanFeatures:
        """A split's questions as windows of tokens; those of train without places of characters, which only answers
        need."""
        key = (id(tokenizer), split, max_length)
        if key in self._kept:
            return self._kept[key][1]
        found = span_features(
            tokenizer,
            getattr(self, split),
            max_length=max_length,
            doc_stride=min(_STRIDE, max_length // 3),
            max_question=min(_QUESTION, max_length // 3),
            offsets=split != "train",
        )
        if split != "train":
            self._kept[key] = (tokenizer, found)  # which keeps the id its own
        return found

    def unlabelled(self, count: int) -> Tensor:
        """Labels of so many texts that ask nothing."""
        return torch.full((count, 2), UNLABELLED)

    def scores(self, teacher: Teacher, net: Supernet, split: str, *, max_length: int) -> dict[str, float]:
        """Official F1 and exact match of a network with a span head on a split's questions."""
        return self.score(net, self.features(teacher.tokenizer, split, max_length=max_length), split)

    def score(
        self, net: Supernet, features: SpanFeatures, split: str, *, subnet: SubnetConfig | None = None
    ) -> dict[str, float]:
        """The same of one subnet, from windows that are made already."""
        questions: Sequence[Question] = getattr(self, split)
        answers = decode_spans(
            features, span_logits(net, features.texts, subnet=subnet), questions, allow_null=self.has_nulls
        )
        return squad_scores(questions, {name: answer.text for name, answer in answers.items()})

    def judge(self, lessons: Lessons) -> Judge:
        """What is told of these windows while a network is taught."""
        return loss_and_exact(lessons.texts.lengths)


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
    return SpanData(train=train, search_dev=search_dev, test=test, text=transfer_text(recipe))


def _without_contexts(questions: tuple[Question, ...], others: tuple[Question, ...]) -> tuple[Question, ...]:
    contexts = {" ".join(x.context.split()).casefold() for x in others}
    return tuple(x for x in questions if " ".join(x.context.split()).casefold() not in contexts)
