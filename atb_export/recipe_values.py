"""The kinds of values that the tables of a recipe hold. It may come from a stranger: every size is bounded."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Text = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]+$")]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
BatchSize = Annotated[int, Field(ge=1, le=65_536)]
Length = Annotated[int, Field(ge=1, le=32_768)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1_000_000)]
Columns = Annotated[
    tuple[Text, ...],
    Field(strict=False, min_length=1, max_length=2, description='one or two column names, such as ["text"]'),
]
Where = Annotated[
    dict[Text, Annotated[str, Field(max_length=4096)]],
    Field(max_length=16, description='columns and the text they must hold, such as { source = "imdb" }'),
]
