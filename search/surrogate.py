"""A cheap guess at a subnet's numbers from those already measured. It only steers what is measured next."""

from __future__ import annotations

import math
from collections.abc import Sequence

from supernet.space import SearchSpace, SubnetConfig

_RIDGE = 0.1


def features(space: SearchSpace, subnet: SubnetConfig) -> list[float]:
    """A constant, the hidden size, and per layer of the supernet: kept or not, attention and FFN width; 0..1.

    Layer features are scaled by the hidden size, for that is what a layer's matrices share.
    """
    hidden = subnet.hidden_size / max(space.hidden_sizes)
    qkv, ffn = max(space.heads) * max(space.head_sizes), max(space.ffn_sizes)
    row = [1.0, hidden] + [0.0] * (3 * space.source_layers)
    for x in subnet.layers:
        row[2 + 3 * x.source : 5 + 3 * x.source] = (
            hidden,
            hidden * x.qkv_size / qkv,
            hidden * x.ffn_size / ffn,
        )
    return row


class Ridge:
    """Least squares with a small penalty on everything but the mean (Hoerl and Kennard 1970)."""

    def __init__(self, rows: Sequence[Sequence[float]], values: Sequence[float]) -> None:
        self._mean = math.fsum(values) / len(values)
        gram = [
            [math.fsum(r[i] * r[j] for r in rows) + (_RIDGE if i == j else 0.0) for j in range(len(rows[0]))]
            for i in range(len(rows[0]))
        ]
        target = [
            math.fsum(r[i] * (v - self._mean) for r, v in zip(rows, values, strict=True)) for i in range(len(rows[0]))
        ]
        self._weights = _solve(gram, target)

    def __call__(self, row: Sequence[float]) -> float:
        """The guess for one row of features."""
        return self._mean + math.fsum(w * x for w, x in zip(self._weights, row, strict=True))


def _solve(matrix: list[list[float]], target: list[float]) -> list[float]:
    """Cholesky's decomposition; the penalty makes the matrix positive definite."""
    n = len(target)
    lower = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(i + 1):
            rest = matrix[i][j] - math.fsum(lower[i][k] * lower[j][k] for k in range(j))
            lower[i][j] = math.sqrt(rest) if i == j else rest / lower[j][j]
    half = [0.0] * n
    for i in range(n):
        half[i] = (target[i] - math.fsum(lower[i][k] * half[k] for k in range(i))) / lower[i][i]
    answer = [0.0] * n
    for i in reversed(range(n)):
        answer[i] = (half[i] - math.fsum(lower[k][i] * answer[k] for k in range(i + 1, n))) / lower[i][i]
    return answer
