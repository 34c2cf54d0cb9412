"""A few compiled lengths instead of one: chosen from the lengths of the user's own texts and what each length costs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from math import isfinite
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

CostMs: TypeAlias = Callable[[int], float] | Mapping[int, float]
"""Length -> milliseconds of one inference padded to it."""

MULTIPLE = 8
"""Engines work in tiles. Measured with OpenVINO on a CPU with bf16 (4 layers of 384 dims, f32 and bf16, lengths to 64),
cost is nearly straight in length, but other lengths are no gain: multiples of 4 lie 3 % below to 6 % above the line
through the multiples of 8 beside them, odd ones up to 7 % above it, and 31 costs more than 32.
"""


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Compiled lengths, ascending, and what they are worth for the texts they were chosen for.

    A text goes to the shortest bucket that holds it; the longest holds all, since longer texts are cut to it.
    `shares` (of the texts) and `cost_ms` are per bucket; `change_ms` is what an inference takes more where the one
    before was of another bucket. `best_ms` is the expected latency with the best 1, 2, ...
    buckets, as many as were allowed. Padding shares are of the tokens that are computed: with these buckets, and with
    the longest alone.
    """

    lengths: tuple[int, ...]
    shares: tuple[float, ...]
    cost_ms: tuple[float, ...]
    best_ms: tuple[float, ...]
    padding_share: float
    single_padding_share: float
    change_ms: float = 0.0

    def __post_init__(self) -> None:
        if not self.lengths or any(type(x) is not int or x < 1 for x in self.lengths):
            raise ValueError(f"lengths are whole numbers of tokens, got {self.lengths}")
        if list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"lengths ascend and differ, got {self.lengths}")
        for name in ("shares", "cost_ms"):
            if len(values := getattr(self, name)) != len(self.lengths):
                raise ValueError(f"{name} has one value per length, got {len(values)} for {len(self.lengths)}")

    @property
    def expected_ms(self) -> float:
        """The mean over the texts of what their bucket costs, in an order that says nothing of their lengths."""
        alone = sum(share * cost for share, cost in zip(self.shares, self.cost_ms, strict=True))
        return alone + self.change_ms * (1 - sum(share * share for share in self.shares))

    @property
    def single_ms(self) -> float:
        """The same with the longest bucket alone."""
        return self.cost_ms[-1]

    def shortest(self, length: int) -> int:
        """The bucket of a text of `length` tokens."""
        return self.lengths[min(bisect_left(self.lengths, length), len(self.lengths) - 1)]

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the derived numbers for readers; `from_json` reads it back."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
        return {**plain, "expected_ms": self.expected_ms, "single_ms": self.single_ms}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Buckets:
        """Raises `ValueError` where a field is missing; derived numbers are not read."""
        names = [entry.name for entry in fields(cls) if entry.name in data or entry.default is MISSING]
        if missing := [name for name in names if name not in data]:
            raise ValueError(f"buckets have {', '.join(names)}; missing: {', '.join(missing)}")
        values: dict[str, Any] = {x: tuple(data[x]) if isinstance(data[x], list) else data[x] for x in names}
        return cls(**values)


def choose_buckets(
    lengths: Sequence[int],
    cost_ms: CostMs,
    *,
    max_length: int,
    most: int = 4,
    within: float = 0.02,
    change_ms: float = 0.0,
    candidates: Sequence[int] | None = None,
) -> Buckets:
    """The buckets of least expected latency for texts of these lengths (in tokens, special ones included).

    The longest is `max_length`, to which longer texts are cut. Of `most` buckets only as many are taken as bring the
    expected latency within the share `within` of what all of them reach. `change_ms` is added wherever the text before
    went to another bucket (of one engine's weights and code, little is left in the caches when another has run): with
    shares p it is so with the chance 1 - sum(p^2), so that it is each bucket's own and the choice stays exact.
    `candidates` are the lengths to choose among;
    without them those of a mapping, or for a callable the multiples of `MULTIPLE`. Candidates beyond `max_length`
    are left out, and `max_length` is always one. Exact for any cost, rising or not: a dynamic programme over
    candidates (Bellman 1957) in O(candidates^2 most). Raises `ValueError` for no texts, impossible numbers, or a
    mapping without a needed length.
    """
    if not (isfinite(change_ms) and change_ms >= 0):
        raise ValueError(f"change_ms is 0 or more milliseconds, got {change_ms!r}")
    for name, value in (("max_length", max_length), ("most", most)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} is a whole number of 1 or more, got {value!r}")
    if not within >= 0:
        raise ValueError(f"within is a share of 0 or more, such as 0.02, got {within!r}")
    texts = np.asarray(lengths)
    if texts.size == 0:
        raise ValueError("there are no lengths to choose buckets for: give at least one text")
    if texts.ndim != 1 or texts.dtype.kind not in "iu" or texts.min() < 1:
        raise ValueError("lengths are whole numbers of 1 or more tokens, one per text")
    counts = np.bincount(np.minimum(texts, max_length), minlength=max_length + 1)
    allowed = _candidates(cost_ms, max_length, candidates)
    costs = np.array([_cost(cost_ms, length) for length in allowed])
    below = np.concatenate(([0], np.cumsum(counts)[allowed] / texts.size))  # share of texts up to each candidate
    totals, previous = _programme(below, costs, min(most, len(allowed)), change_ms)
    best = np.minimum.accumulate(totals)
    enough = int(np.argmax(totals <= best[-1] * (1 + within + 1e-12)))
    picks = _trace(previous, enough)
    chosen = [allowed[j] for j in picks]
    shares = np.diff(below[[0] + [j + 1 for j in picks]])
    mean = float((counts * np.arange(max_length + 1)).sum() / texts.size)
    return Buckets(
        lengths=tuple(chosen),
        shares=tuple(shares.tolist()),
        cost_ms=tuple(costs[picks].tolist()),
        best_ms=tuple(best.tolist()),
        padding_share=max(0.0, 1 - mean / float(shares @ chosen)),
        single_padding_share=1 - mean / max_length,
        change_ms=change_ms,
    )


def _candidates(cost_ms: CostMs, max_length: int, given: Sequence[int] | None) -> list[int]:
    """Ascending; the last is `max_length`."""
    if given is None:
        given = list(cost_ms) if isinstance(cost_ms, Mapping) else range(MULTIPLE, max_length, MULTIPLE)
    if wrong := [x for x in given if type(x) is not int or x < 1]:
        raise ValueError(f"candidate lengths are whole numbers of 1 or more, got {wrong[0]!r}")
    return sorted({x for x in given if x < max_length} | {max_length})


def _cost(cost_ms: CostMs, length: int) -> float:
    if isinstance(cost_ms, Mapping):
        if length not in cost_ms:
            have = ", ".join(map(str, sorted(cost_ms))) or "none"
            raise ValueError(f"there is no cost of length {length}; there are those of {have}")
        found = cost_ms[length]
    else:
        found = cost_ms(length)
    if not (isfinite(found) and found > 0):
        raise ValueError(f"the cost of length {length} is positive milliseconds, got {found!r}")
    return float(found)


def _programme(
    below: NDArray[np.float64], costs: NDArray[np.float64], most: int, change: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Least expected cost with exactly 1..`most` buckets, the last candidate among them, and the way to it.

    `previous[k, j]` is the bucket before `j` where `j` is the longest of k + 1; the first has none (-1).
    """
    count = len(costs)
    previous = np.full((most, count), -1, dtype=np.int64)
    reach = below[1:] * (
        costs - change * below[1:]
    )  # of texts up to candidate j, with the buckets so far, j the longest
    totals = [reach[-1]]
    for k in range(1, most):
        longer = np.full(count, np.inf)
        for j in range(k, count):
            share = below[j + 1] - below[1 : j + 1]
            ways = reach[:j] + share * (costs[j] - change * share)
            previous[k, j] = i = int(np.argmin(ways))
            longer[j] = ways[i]
        reach = longer
        totals.append(reach[-1])
    return np.array(totals) + change, previous


def _trace(previous: NDArray[np.int64], k: int) -> list[int]:
    """Indices of the k + 1 candidates that end with the last, ascending."""
    picks = [previous.shape[1] - 1]
    for level in range(k, 0, -1):
        picks.append(int(previous[level, picks[-1]]))
    return picks[::-1]
