"""One example of a task, and what a set of them says about the task."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from supernet.errors import DataError

REGRESSION_LABEL = "score"
_INTEGER = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One text or two, and its label: a class name, a number (regression), or none (unlabelled)."""

    texts: tuple[str, ...]
    label: str | float | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for rows whose texts differ in letter case or white space only."""
        return tuple(" ".join(text.split()).casefold() for text in self.texts)


def is_regression(rows: Iterable[Row]) -> bool:
    """Whether the labels are numbers; raises `DataError` where labels are missing or of two kinds."""
    kinds = {type(row.label) for row in rows}
    if type(None) in kinds:
        raise DataError("every row needs a label here, but some have none; name the label column of the source")
    if len(kinds) > 1:
        raise DataError("labels are all class names or all numbers, got both in one set of rows")
    return kinds == {float}


def labels_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """The class names in a stable order, numbers by value, all else as strings; a regression has one name."""
    if not rows:
        raise DataError("labels need rows, got none")
    if is_regression(rows):
        return (REGRESSION_LABEL,)
    names = {str(row.label) for row in rows}
    if all(_INTEGER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
