"""A guess at the accuracy of subnets that were not asked for yet. It only steers what is asked next."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from search.regression import Array, GaussianProcess
from supernet.space import SearchSpace, SubnetConfig

LEAST_SUBNETS = 8
"""Fewer scores than this and there is nothing to fit."""


def features(space: SearchSpace, subnet: SubnetConfig) -> list[float]:
    """The depth, the hidden size, and per layer of the supernet: kept or not, attention and feed-forward width; 0..1.

    Widths are logarithms: from 100 neurons to 200 is as far as from 500 to 1,000.
    """

    def share(size: int, most: int) -> float:
        return math.log1p(size) / math.log1p(most)

    qkv, ffn = max(space.heads) * max(space.head_sizes), max(space.ffn_sizes) * max(space.ffn_stacks)
    row = [subnet.depth / space.source_layers, share(subnet.hidden_size, max(space.hidden_sizes))]
    row += [0.0] * (3 * space.source_layers)
    for x in subnet.layers:
        at = 2 + 3 * x.source
        row[at : at + 3] = (1.0, share(x.qkv_size, qkv), share(x.ffn_size * x.ffn_stack, ffn))
    return row


class AccuracyModel:
    """Accuracy of subnets of `space` fitted to `scores` [n]. Raises `ValueError` for fewer than `LEAST_SUBNETS`."""

    def __init__(self, space: SearchSpace, subnets: Sequence[SubnetConfig], scores: Sequence[float]) -> None:
        if len(subnets) != len(scores) or len(scores) < LEAST_SUBNETS:
            raise ValueError(
                f"an accuracy model is fitted to {LEAST_SUBNETS} scores or more, one each; "
                f"got {len(subnets)} and {len(scores)}"
            )
        self._space = space
        self._process = GaussianProcess.fit(self._table(subnets), np.asarray(scores, dtype=np.float64))

    def _table(self, subnets: Sequence[SubnetConfig]) -> Array:
        return np.array([features(self._space, x) for x in subnets], dtype=np.float64)

    def __call__(self, subnets: Sequence[SubnetConfig]) -> tuple[Array, Array]:
        """Predicted accuracies [m] and their standard deviations [m]."""
        return self._process(self._table(subnets))
