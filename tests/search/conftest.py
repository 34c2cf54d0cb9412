"""A search problem made of arithmetic: no model and no engine, but the same ruggedness."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp

import pytest

from search.errors import CandidateFailed
from supernet.space import SearchSpace, SubnetConfig


@dataclass(frozen=True)
class Timed:
    ms: float
    ci_ms: tuple[float, float]


@dataclass
class Problem:
    """Latency grows with the sizes, in steps as kernels do; accuracy saturates and prefers late layers."""

    space: SearchSpace
    constraint_ms: float = 1.0
    failing: int = 0  # every n-th architecture fails; 0: none
    asked: list[SubnetConfig] = field(default_factory=list)

    def flops(self, subnet: SubnetConfig) -> int:
        width = subnet.hidden_size
        return sum(width * (4 * x.qkv_size + 2 * x.ffn_size) for x in subnet.layers)

    def milliseconds(self, subnet: SubnetConfig) -> float:
        ms = 0.1
        for x in subnet.layers:
            penalty = 1.3 if x.heads == 6 else 1.0  # more FLOPs are not always slower
            ms += penalty * 0.02 * x.heads + 0.00018 * x.ffn_size + (0.05 if x.ffn_size > 1024 else 0)
        return ms * subnet.hidden_size / 384

    def latency(self, subnet: SubnetConfig) -> Timed:
        self.asked.append(subnet)
        if self.failing and int(subnet.key, 16) % self.failing == 0:
            raise CandidateFailed("verification found a difference of 0.3")
        ms = self.milliseconds(subnet)
        return Timed(ms, (ms * 0.98, ms * 1.03))

    def accuracy(self, subnet: SubnetConfig) -> float:
        score = 0.0
        for x in subnet.layers:
            weight = 0.5 + x.source / self.space.source_layers
            score += weight * ((1 - exp(-x.heads / 4)) + 1.5 * (1 - exp(-x.ffn_size / 500)))
        return 0.9 - 0.4 * exp(-score / 3)


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace.of_depths(
        source_layers=6,
        depths=[2, 3],
        hidden_sizes=(384,),
        heads=(4, 6, 8, 12),
        head_sizes=(32,),
        ffn_sizes=(256, 512, 768, 1024, 1536),
    )


@pytest.fixture
def problem(space: SearchSpace) -> Problem:
    return Problem(space)
