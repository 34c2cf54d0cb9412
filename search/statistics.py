"""Statistics that say what a number of rows or engines can show, and what it cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_LEVEL = 0.05


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for i in order[start : end + 1]:
            ranks[i] = (start + end) / 2 + 1
        start = end + 1
    return ranks


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties by mean rank; None for fewer than two points or a constant side."""
    if len(x) != len(y):
        raise ValueError(f"a correlation needs as many x as y, got {len(x)} and {len(y)}")
    if not all(map(math.isfinite, (*x, *y))):
        raise ValueError("a correlation needs finite numbers only")
    a, b = _ranks(x), _ranks(y)
    mean = (len(x) + 1) / 2
    aa = math.fsum((i - mean) ** 2 for i in a)
    bb = math.fsum((j - mean) ** 2 for j in b)
    if aa == 0 or bb == 0:
        return None
    product = math.fsum((i - mean) * (j - mean) for i, j in zip(a, b, strict=True))
    return max(-1.0, min(1.0, product / math.sqrt(aa * bb)))


@dataclass(frozen=True, kw_only=True)
class Band:
    """A rank correlation among the engines with latencies in `band_ms`; None for too few or constant ones."""

    correlation: float | None
    band_ms: tuple[float, float]
    engines: int


def band(
    x: Sequence[float],
    latency_ms: Sequence[float],
    *,
    constraint_ms: float,
    low: float = 0.8,
    high: float = 1.25,
) -> Band:
    """Spearman of `x` (say, FLOPs) and latency among engines of `low` to `high` times the constraint.

    Over a whole space nearly any proxy ranks well; near the constraint it has to tell alike engines apart.
    """
    if len(x) != len(latency_ms):
        raise ValueError(f"a correlation needs as many x as latencies, got {len(x)} and {len(latency_ms)}")
    edges = (low * constraint_ms, high * constraint_ms)
    inside = [(a, b) for a, b in zip(x, latency_ms, strict=True) if edges[0] <= b <= edges[1]]
    correlation = spearman([a for a, _ in inside], [b for _, b in inside])
    return Band(correlation=correlation, band_ms=edges, engines=len(inside))


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two models on the same rows: accuracy of `a` minus `b`'s, its standard error, McNemar's p."""

    a: str
    b: str
    difference: float
    se: float
    p_value: float
    only_a: int
    only_b: int
    rows: int

    @property
    def verdict(self) -> str:
        """In words, at the 5 % level."""
        if self.p_value >= _LEVEL:
            return "no difference that the test rows can show"
        better = self.a if self.difference > 0 else self.b
        return f"{better} is more accurate"

    def to_json(self) -> dict[str, Any]:
        """One entry of `paired` in result.json."""
        return {
            "a": self.a,
            "b": self.b,
            "difference": self.difference,
            "se": self.se,
            "p_value": self.p_value,
            "verdict": self.verdict,
        }


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value: rows that just one got right against a fair coin's tosses."""
    if only_a < 0 or only_b < 0:
        raise ValueError(f"McNemar's test takes two counts, got {only_a} and {only_b}")
    tosses = only_a + only_b
    ways, tail = 1, 0
    for i in range(min(only_a, only_b) + 1):
        tail += ways
        ways = ways * (tosses - i) // (i + 1)
    doubled: float = 2 * tail / 2**tosses
    return min(1.0, doubled)


def paired(correct_a: Sequence[bool], correct_b: Sequence[bool], *, a: str = "a", b: str = "b") -> Paired:
    """Compares two models by which of the same rows, in the same order, each got right."""
    if len(correct_a) != len(correct_b) or not correct_a:
        raise ValueError(
            f"a paired comparison needs the same rows of both, 1 or more, got {len(correct_a)} and {len(correct_b)}"
        )
    rows = len(correct_a)
    only_a = sum(bool(x) and not y for x, y in zip(correct_a, correct_b, strict=True))
    only_b = sum(bool(y) and not x for x, y in zip(correct_a, correct_b, strict=True))
    gap = only_a - only_b
    return Paired(
        a=a,
        b=b,
        difference=gap / rows,
        se=math.sqrt(only_a + only_b - gap * gap / rows) / rows,
        p_value=mcnemar(only_a, only_b),
        only_a=only_a,
        only_b=only_b,
        rows=rows,
    )
