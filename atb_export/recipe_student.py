"""The table [student] of a recipe: the shape of a hand-written student, by name or by numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from atb_export.recipe_errors import Section, broken_rule
from atb_export.recipe_values import Text
from supernet.cells import PLAIN, Cell
from supernet.facts import Embedding, ModelFacts
from supernet.published import PUBLISHED, Published
from supernet.subnet import MAX_FFN_STACK, SubnetConfig

Size = Annotated[int, Field(ge=1, le=65_536)]
Layers = Annotated[tuple[Annotated[int, Field(ge=1, le=256)], ...], Field(strict=False, min_length=1, max_length=256)]
_NEEDED = ("depth", "hidden_size", "heads", "ffn_size")


# Literal takes no values that are computed; a test holds it to PUBLISHED.
StudentName = Literal[
    "tinybert4", "tinybert6", "minilm-l6", "minilm-l12", "bert-tiny", "bert-mini", "bert-small", "bert-medium",
    "bert-base", "autotinybert-s1", "autotinybert-s2", "autotinybert-s3", "autotinybert-s4", "autotinybert-kd-s1",
    "autotinybert-kd-s2", "autotinybert-kd-s3", "autotinybert-kd-s4", "efficientbert", "efficientbert-tiny",
]  # fmt: skip


def _cell(value: object) -> str:
    """The canonical text of a feed-forward cell."""
    try:
        return Cell(value).text  # type: ignore[arg-type]
    except ValueError as error:
        raise broken_rule(str(error)) from error


class Student(Section):
    """A student's shape: a published one, or numbers of one's own."""

    preset: StudentName | None = Field(default=None, description="a published shape")
    depth: Annotated[int, Field(ge=1, le=256)] | None = Field(default=None, description="layers")
    hidden_size: Size | None = None
    heads: Size | None = None
    head_size: Size | None = Field(default=None, description="hidden_size / heads if not named")
    ffn_size: Size | None = None
    ffn_stack: int = Field(default=1, ge=1, le=MAX_FFN_STACK, description="feed-forward cells of a layer")
    cell: Annotated[str, BeforeValidator(_cell)] = Field(default=PLAIN.text, description="what a cell computes")
    embedding: Embedding = Field(default="table", description="how words become vectors; others than table are learnt")
    embedding_size: Size | None = Field(default=None, description="width of a word table that is projected")
    layers: Literal["even", "important"] | Layers = Field(
        default="even", description='the teacher\'s layers it starts from: "even", "important" or numbers from 1'
    )
    initial: Text = Field(default="teacher", description='"teacher" (a cut of it), "random", or a file of a supernet')

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """A name or numbers; all that are needed; heads that divide."""
        own = (*_NEEDED, "head_size", "ffn_stack", "cell", "embedding", "embedding_size")
        numbers = [key for key in own if key in data]
        if "preset" in data:
            if numbers:
                yield "preset", f"has its own {', '.join(numbers)}; drop it, or them"
            return
        for key in _NEEDED:
            if key not in data:
                yield key, f"is missing; a shape is {', '.join(_NEEDED)}, or preset = one of {', '.join(PUBLISHED)}"

    def late_rules(self) -> Iterator[tuple[str, str]]:
        """Heads share the hidden size evenly, and layers are as many as the depth."""
        if (self.embedding == "table") != (self.embedding_size is None):
            yield "embedding_size", 'is the width of a table that is projected: it goes with "factorised" and "trigram"'
        if self.head_size is None and self.hidden_size and self.heads and self.hidden_size % self.heads:
            yield "heads", f"do not divide the hidden size {self.hidden_size}; name a head_size"
        depth = PUBLISHED[self.preset].shape.depth if self.preset is not None else self.depth
        if not isinstance(self.layers, str):
            ascending = list(self.layers) == sorted(set(self.layers))
            if len(self.layers) != depth or not ascending:
                yield "layers", f"names the {depth} layers of the teacher to start from, ascending"
        elif self.layers == "important" and self.initial != "teacher":
            yield "layers", 'are important to the teacher\'s task: "important" goes with initial = "teacher"'

    @property
    def published(self) -> Published:
        """The shape as a network of its own, with how it embeds words."""
        if self.preset is not None:
            return PUBLISHED[self.preset]
        # By the rules the sizes are there.
        shape = SubnetConfig.uniform(
            hidden_size=self.hidden_size or 0,
            depth=self.depth or 0,
            heads=self.heads or 0,
            head_size=self.head_size,
            ffn_size=self.ffn_size or 0,
            ffn_stack=self.ffn_stack,
            cell=Cell(self.cell),
        )
        return Published(shape=shape, embedding=self.embedding, embedding_size=self.embedding_size)

    @property
    def shape(self) -> SubnetConfig:
        """As a network of its own."""
        return self.published.shape

    def facts(self, teacher: ModelFacts) -> ModelFacts:
        """The teacher's words and labels with the student's embedding."""
        return self.published.facts(teacher)
