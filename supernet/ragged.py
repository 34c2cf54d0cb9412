"""Rows of token ids that lie one after another in one array, which may be a file: a sequence of lists."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Rows = Sequence[list[int]]


class _Lazy(Sequence[list[int]]):
    """A sequence whose rows are made when they are asked for."""

    @abstractmethod
    def _row(self, i: int) -> list[int]:
        """One of them, `i` from 0."""

    @abstractmethod
    def lengths(self) -> list[int]:
        """Tokens per row."""

    @overload
    def __getitem__(self, i: int) -> list[int]: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[list[int]]: ...
    def __getitem__(self, i: int | slice) -> list[int] | Sequence[list[int]]:
        if isinstance(i, slice):
            return tuple(self._row(k) for k in range(*i.indices(len(self))))
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        return self._row(i % len(self))


@dataclass(frozen=True, eq=False)
class Ragged(_Lazy):
    """Row i is `values[starts[i] : starts[i] + counts[i]]`; only the rows that are asked for are read."""

    values: NDArray[Any]
    starts: NDArray[np.int64]
    counts: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.starts)

    def _row(self, i: int) -> list[int]:
        start = int(self.starts[i])
        found: list[int] = self.values[start : start + int(self.counts[i])].tolist()
        return found

    def lengths(self) -> list[int]:
        """Without reading the rows."""
        found: list[int] = self.counts.tolist()
        return found

    def take(self, rows: Sequence[int]) -> Ragged:
        """These rows, over the same array."""
        chosen = np.asarray(rows, dtype=np.int64)
        return Ragged(self.values, self.starts[chosen], self.counts[chosen])


@dataclass(frozen=True, eq=False)
class Zeros(_Lazy):
    """As many zeros per row as are in the rows of `like`."""

    like: Rows

    def __len__(self) -> int:
        return len(self.like)

    def _row(self, i: int) -> list[int]:
        return [0] * len(self.like[i])

    def lengths(self) -> list[int]:
        """As those of `like`."""
        return lengths_of(self.like)


@dataclass(frozen=True, eq=False)
class Chained(_Lazy):
    """The rows of the one, then those of the other."""

    first: Rows
    second: Rows

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def _row(self, i: int) -> list[int]:
        count = len(self.first)
        return self.first[i] if i < count else self.second[i - count]

    def lengths(self) -> list[int]:
        """Of both."""
        return lengths_of(self.first) + lengths_of(self.second)


def lengths_of(rows: Rows) -> list[int]:
    """Tokens per row."""
    return rows.lengths() if isinstance(rows, _Lazy) else [len(row) for row in rows]


def chained(first: Rows, second: Rows) -> Rows:
    """Both one after another: a tuple of two tuples, else over what they are."""
    if isinstance(first, tuple) and isinstance(second, tuple):
        return first + second
    return Chained(first, second)
