"""What a task's examples are to those who teach and score, be they rows with a label or questions about contexts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor

from atb_export.questions import load_questions
from atb_export.recipe import BaseRecipe
from atb_export.task import load_task
from supernet.data.rows import Row
from supernet.data.stream import TransferText
from supernet.distillation import Lessons
from supernet.facts import Head
from supernet.model import Supernet
from supernet.teacher import Teacher
from supernet.watch import Judge


class Examples(Protocol):
    """Three disjoint splits (`train`, `search_dev`, `test`) of one kind of example, and unlabelled text."""

    @property
    def head(self) -> Head:
        """What a network needs to answer them."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its logits, in a stable order."""

    @property
    def primary(self) -> str:
        """The metric to compare networks by."""

    @property
    def text(self) -> TransferText | None:
        """The recipe's transfer text."""

    @property
    def held_out(self) -> tuple[Row, ...]:
        """All texts that something is reported or chosen on: nothing of them is learnt."""

    @property
    def train_texts(self) -> Iterable[tuple[str, ...]]:
        """The texts to train on as they are, one or two each: what new ones are made from."""

    def counts(self) -> dict[str, int]:
        """Examples per split."""

    def of_split(self, teacher: Teacher, split: str, *, max_length: int) -> Lessons:
        """The tokens of a split and their labels, in the order of the teacher's."""

    def unlabelled(self, count: int) -> Tensor:
        """Labels of the same kind, of so many texts that have none."""

    def scores(self, teacher: Teacher, net: Supernet, split: str, *, max_length: int) -> dict[str, float]:
        """Every metric of a network on a split."""

    def judge(self, lessons: Lessons) -> Judge:
        """What is told of a few of a split's lessons while a network is taught."""


def load_examples(recipe: BaseRecipe) -> Examples:
    """Reads and splits what `[task]` and `[transfer]` name; the same recipe always gives the same.

    Raises `DataError`, as `load_task` and `load_questions` do.
    """
    return load_questions(recipe) if recipe.task.kind == "squad" else load_task(recipe)
