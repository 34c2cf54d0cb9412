"""A search problem made of arithmetic: no model and no engine, but the same ruggedness, noise and failures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log
from random import Random
from typing import Any

import pytest

from search.candidate import Candidate, Timing
from search.design import Design, DesignSpace
from search.errors import StoreError
from search.goals import Goals
from search.loop import Result, search
from search.plan import SearchPlan
from search.strategies.evolution import Evolution
from search.strategy import Proposal, Strategy
from supernet.space import LayerConfig, SearchSpace, SubnetConfig

SPEED = {"f32": 1.0, "bf16": 0.6, "fp16": 0.5, "int8": 0.4}
LOSS = {"f32": 0.0, "bf16": 0.0, "fp16": 0.0, "int8": 0.01}
ROWS = 400


class Memory:
    """A history that is kept in memory; as strict about the path as the store's."""

    def __init__(self, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        self.rows = [dict(x) for x in rows]

    def replay(self, position: int, **asked: Any) -> dict[str, Any] | None:
        if position >= len(self.rows):
            return None
        if any(self.rows[position][name] != value for name, value in asked.items()):
            raise StoreError(f"evaluation {position + 1} took another path")
        return self.rows[position]

    def append(self, candidate: Mapping[str, Any]) -> None:
        self.rows.append(dict(candidate))


@dataclass(kw_only=True)
class Problem:
    """Latency grows with the sizes in steps, as kernels do; accuracy saturates, and layers are not worth the same.

    What is measured of a design depends on nothing else, save that a race may stop what a faster one of an earlier
    generation beats, and nobody builds what one beats whatever its latency (`spares`). Every `failing`-th design (by
    its key) fails.
    """

    space: DesignSpace
    goals: Goals
    plan: SearchPlan
    failing: int = 0
    races: bool = False
    spares: bool = False
    noise: float = 0.01
    asked: list[Design] = field(default_factory=list)

    def flops(self, subnet: SubnetConfig) -> int:
        return sum(subnet.hidden_size * (4 * x.qkv_size + 2 * x.ffn_size * x.ffn_stack) for x in subnet.layers)

    def ms(self, design: Design) -> tuple[float, ...]:
        """Without noise. The first target pays for work, the second mostly for depth."""
        subnet = design.subnet
        ruggedness = sum(0.04 for x in subnet.layers if x.heads % 4) + 0.05 * (subnet.hidden_size % 64 > 0)
        work = self.flops(subnet) / 0.5e6
        plain = (0.1 + work + 0.03 * subnet.depth + ruggedness, 0.1 + 0.1 * subnet.depth + 0.1 * work)
        return tuple(ms * SPEED[p] for ms, p in zip(plain, design.precisions, strict=False))

    def accuracy(self, design: Design) -> float:
        """Without noise."""
        layers = self.space.subnets.source_layers
        score = 0.0
        for x in design.subnet.layers:
            worth = 0.5 + (x.source * 5 % layers) / layers
            score += worth * (log(x.qkv_size) + log(x.ffn_size * x.ffn_stack) - 6)
        width: float = (design.subnet.hidden_size / max(self.space.subnets.hidden_sizes)) ** 0.3
        return 0.5 + 0.4 * (1 - exp(-max(score, 0.0) / 8)) * width - max(LOSS[p] for p in design.precisions)

    def candidate(self, proposal: Proposal, known: Sequence[Candidate] = ()) -> Candidate:
        design, subnet = proposal.design, proposal.design.subnet
        self.asked.append(design)
        if self.failing and int(design.key, 16) % self.failing == 0:
            return Candidate(
                design=design,
                flops=self.flops(subnet),
                status="failed",
                reason="verification found a difference of 0.3",
            )
        rng = Random(design.key)
        ms = tuple(x * exp(rng.gauss(0, self.noise)) for x in self.ms(design))
        score: float | None = round(self.accuracy(design) + rng.gauss(0, self.noise / 3), 4)
        rows, complete = ROWS, True
        faster = [x for x in known if x.is_scored and all(a <= b for a, b in zip(x.ms, ms, strict=True))]
        least = proposal.least_ms
        if self.spares and least is not None and self.goals.load(least) <= self.plan.slack:
            surely = [x for x in known if x.is_scored and all(a <= b for a, b in zip(x.ms, least, strict=True))]
            if any((x.accuracy or 0) >= score for x in surely):
                return Candidate(
                    design=design,
                    flops=self.flops(subnet),
                    accuracy=score,
                    rows=ROWS,
                    predicted_ms=proposal.predicted_ms,
                    status="spared",
                )
        if self.goals.load(ms) > self.plan.slack:
            score, rows = None, 0
        elif self.races and any((x.accuracy or 0) > (score or 0) + 0.02 for x in faster):
            rows, complete = ROWS // 4, False
        return Candidate(
            design=design,
            flops=self.flops(subnet),
            latencies=tuple(Timing(ms=x, ci_ms=(x * 0.98, x * 1.03)) for x in ms),
            accuracy=score,
            rows=rows,
            complete=complete,
            model_bytes=4 * self.flops(subnet),
            predicted_ms=proposal.predicted_ms,
            seconds={"measure": 0.5},
        )

    def evaluate(self, proposals: Sequence[Proposal], known: Sequence[Candidate]) -> Iterator[Candidate]:
        for proposal in proposals:
            yield self.candidate(proposal, known)

    def evolution(self, seed: int = 1, **changes: Any) -> Evolution:
        return Evolution(self.space, self.goals, self.plan, Random(seed), **changes)

    def search(self, strategy: Strategy | None = None, **changes: Any) -> Result:
        named: dict[str, Any] = {"goals": self.goals, "plan": self.plan, "history": Memory()}
        evaluate = changes.pop("evaluate", self.evaluate)
        return search(strategy or self.evolution(), evaluate, **(named | changes))


def make_problem(
    *,
    targets: int = 1,
    constraints_ms: tuple[float | None, ...] = (1.0, 0.5),
    precisions: tuple[str, ...] = ("bf16", "f32"),
    per_layer: bool = True,
    plan: SearchPlan | None = None,
    **changes: Any,
) -> Problem:
    subnets = SearchSpace.of_depths(
        source_layers=6,
        depths=[1, 2, 3, 4],
        hidden_sizes=(96, 112, 128, 192),
        heads=(2, 3, 4, 6, 8),
        head_sizes=(16, 32),
        ffn_sizes=(64, 96, 128, 192, 256, 384, 512, 768),
        per_layer=per_layer,
    )
    return Problem(
        space=DesignSpace(subnets=subnets, precisions=(precisions, ("fp16", "f32"))[:targets]),
        goals=Goals(constraints_ms=constraints_ms[:targets]),
        plan=plan or SearchPlan(engines=40, population=8),
        **changes,
    )


def random_space(rng: Random, targets: int | None = None) -> DesignSpace:
    """Any space: few or many choices, layers alike or not, one to three targets."""

    def some(*choices: int) -> tuple[int, ...]:
        return tuple(rng.sample(choices, rng.randint(1, len(choices))))

    layers = rng.randint(1, 5)
    make = rng.choice((SearchSpace.of_depths, SearchSpace.first_layers))
    subnets = make(
        source_layers=layers,
        depths=some(*range(1, layers + 1)),
        hidden_sizes=some(32, 64, 100),
        heads=some(1, 2, 3, 4),
        head_sizes=some(8, 16, 20),
        ffn_sizes=some(16, 40, 64, 128, 256),
        ffn_stacks=some(1, 2, 4),
        per_layer=rng.random() < 0.5,
    )
    offered = [tuple(rng.sample(sorted(SPEED), rng.randint(1, 3))) for _ in range(targets or rng.randint(1, 3))]
    return DesignSpace(subnets=subnets, precisions=tuple(offered))


def all_designs(space: DesignSpace) -> set[Design]:
    """Every design of a small space, counted out without its help."""
    subnets, found = space.subnets, set()
    choices = list(itertools.product(subnets.heads, subnets.head_sizes, subnets.ffn_sizes, subnets.ffn_stacks))
    for kept, hidden in itertools.product(subnets.layer_sets, subnets.hidden_sizes):
        alike = ([x] * len(kept) for x in choices)
        for sizes in itertools.product(choices, repeat=len(kept)) if subnets.per_layer else alike:
            layers = tuple(
                LayerConfig(source=i, heads=h, head_size=d, ffn_size=f, ffn_stack=k)
                for i, (h, d, f, k) in zip(kept, sizes, strict=True)
            )
            for precisions in itertools.product(*space.precisions):
                found.add(Design(subnet=SubnetConfig(hidden_size=hidden, layers=layers), precisions=precisions))
    return found


def measured(
    accuracy: float | None, *ms: float, number: int = 1, complete: bool = True, model_bytes: int | None = None
) -> Candidate:
    """A candidate of these numbers; `number` tells designs apart."""
    subnet = SubnetConfig.uniform(hidden_size=8, depth=1, heads=1, ffn_size=number)
    return Candidate(
        design=Design(subnet=subnet, precisions=("f32",) * len(ms)),
        flops=number,
        latencies=tuple(Timing(ms=x, ci_ms=(x, x)) for x in ms),
        accuracy=accuracy,
        complete=complete,
        model_bytes=model_bytes,
    )


@pytest.fixture(name="make_problem")
def _make_problem() -> Any:
    return make_problem


@pytest.fixture(name="random_space")
def _random_space() -> Any:
    return random_space


@pytest.fixture(name="all_designs")
def _all_designs() -> Any:
    return all_designs


@pytest.fixture(name="at")
def _at() -> Any:
    """`at(accuracy, *ms, number=, complete=)`: a measured candidate."""
    return measured


@pytest.fixture
def failed() -> Candidate:
    return Candidate(design=measured(0.0, 1.0).design, flops=1, status="failed", reason="no kernel for bf16")


@pytest.fixture
def problem() -> Problem:
    return make_problem()
