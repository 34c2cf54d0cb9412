from __future__ import annotations

import math
from collections import Counter
from random import Random
from typing import Any

import pytest

from supernet.cells import Cell
from supernet.cost import parameters
from supernet.facts import ModelFacts
from supernet.sampler import Front, opened, sandwich, subnets_of
from supernet.space import SearchSpace, SubnetConfig
from supernet.stage import Sampler


def make(**changes: object) -> SearchSpace:
    choices: dict[str, object] = {
        "hidden_sizes": (48, 24),
        "heads": (2, 4, 1),
        "head_sizes": (6, 12),
        "ffn_sizes": (40, 16),
    }
    return SearchSpace.of_depths(source_layers=4, depths=[3, 2], **(choices | changes))


@pytest.mark.parametrize("per_layer", [True, False])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_largest_smallest_and_so_many_drawn_ones(per_layer: bool, count: int) -> None:
    space, rng = make(per_layer=per_layer), Random(3)
    for _ in range(20):
        largest, smallest, *drawn = sandwich(space, random_subnets=count, rng=rng)
        assert (largest.hidden_size, largest.depth) == (48, 3)
        assert {(x.heads, x.head_size, x.ffn_size) for x in largest.layers} == {(4, 12, 40)}
        assert (smallest.hidden_size, smallest.depth) == (24, 2)
        assert {(x.heads, x.head_size, x.ffn_size) for x in smallest.layers} == {(1, 6, 16)}
        assert len(drawn) == count
        assert all(space.contains(x) for x in (largest, smallest, *drawn))


def test_every_layer_set_of_an_extreme_depth_has_its_turn() -> None:
    space, rng = make(), Random(0)
    pairs = [sandwich(space, random_subnets=0, rng=rng) for _ in range(200)]
    for i, depth in ((0, 3), (1, 2)):
        seen = {tuple(x.source for x in pair[i].layers) for pair in pairs}
        assert seen == {kept for kept in space.layer_sets if len(kept) == depth}


def test_drawn_subnets_differ_and_follow_from_the_generator() -> None:
    first, again, other = (sandwich(make(), random_subnets=5, rng=Random(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first[2:])) > 1


def test_the_extremes_of_a_stack_have_its_turn_too() -> None:
    space = make(ffn_stacks=(2, 1, 3))
    largest, smallest = sandwich(space, random_subnets=0, rng=Random(0))
    assert {x.ffn_stack for x in largest.layers} == {3}
    assert {x.ffn_stack for x in smallest.layers} == {1}


def test_the_extremes_have_their_cell() -> None:
    cells = (Cell.parse("relu"), Cell.parse("gelu"))
    largest, smallest = sandwich(make(cells=cells), random_subnets=0, rng=Random(0))
    assert {x.cell for x in (*largest.layers, *smallest.layers)} == {cells[0]}


def drawn(
    sampler: Sampler, step: int, *, steps: int = 40, seed: int = 1, space: SearchSpace | None = None, **more: Any
) -> list[SubnetConfig]:
    return subnets_of(sampler, space or make(), step=step, steps=steps, seed=seed, **more)


FACTS = ModelFacts(vocab_size=50, max_position_embeddings=10)
FRONT = Front(cost=lambda subnet: parameters(subnet, FACTS), bounds=(20_000.0,))


@pytest.mark.parametrize("kind", ["uniform", "sandwich", "attentive", "progressive", "whole"])
def test_subnets_follow_from_seed_and_step_alone(kind: Any) -> None:
    sampler = Sampler(kind, random_subnets=2)
    front = FRONT if kind == "attentive" else None
    late = [drawn(sampler, step, front=front) for step in range(30, 40)]
    assert late == [drawn(sampler, step, front=front) for step in range(30, 40)]
    assert all(make().contains(x) for each in late for x in each)
    if kind != "whole":
        assert late != [drawn(sampler, step, seed=2, front=front) for step in range(30, 40)]
        assert len({tuple(x) for x in late}) > 5


def test_uniform_is_one_subnet_a_step_and_all_have_their_turn() -> None:
    space = SearchSpace.of_depths(
        source_layers=2,
        depths=[1, 2],
        hidden_sizes=(8, 16),
        heads=(1, 2),
        head_sizes=(4,),
        ffn_sizes=(8,),
        per_layer=False,
    )
    seen = Counter(drawn(Sampler("uniform"), step, space=space)[0] for step in range(1200))
    assert len(seen) == space.size() == 12
    assert len(drawn(Sampler("uniform"), 0)) == 1
    by_depth = Counter(subnet.depth for subnet in seen.elements())
    assert abs(by_depth[1] - 600) < 80


def test_a_sandwich_draws_what_it_always_drew() -> None:
    sampler = Sampler(random_subnets=3)
    for step in range(5):
        assert drawn(sampler, step, seed=7) == sandwich(make(), random_subnets=3, rng=Random(f"7-sandwich-{step}"))


def test_whole_is_the_largest() -> None:
    assert drawn(Sampler("whole"), 3) == [make().largest()]


def test_attentive_subnets_lie_nearer_to_what_is_asked_for() -> None:
    def distance(sampler: Sampler, **more: Any) -> float:
        found = [FRONT.distance(x) for step in range(40) for x in drawn(sampler, step, **more)[2:]]
        return sum(found) / len(found)

    plain = distance(Sampler(random_subnets=2))
    near = distance(Sampler("attentive", random_subnets=2, draws=8), front=FRONT)
    assert near < 0.4 * plain
    assert distance(Sampler("attentive", random_subnets=2, draws=1), front=FRONT) > 0.7 * plain
    extremes = drawn(Sampler("attentive", random_subnets=2), 0, front=FRONT)[:2]
    assert extremes == sandwich(make(), random_subnets=0, rng=Random("1-sandwich-0"))
    with pytest.raises(ValueError, match="needs a front"):
        drawn(Sampler("attentive"), 0)


def test_a_front_of_several_costs() -> None:
    front = Front(cost=lambda subnet: float(subnet.hidden_size), bounds=(12.0, 48.0))
    small, large = (SubnetConfig.uniform(hidden_size=n, depth=1, heads=1, ffn_size=4) for n in (24, 48))
    assert front.distance(large) == 0
    assert front.distance(small) == pytest.approx(math.log(2))
    for bounds in ((), (0.0,), (math.inf,)):
        with pytest.raises(ValueError, match="at least one bound"):
            Front(cost=front.cost, bounds=bounds)


def test_progressive_shrinking_opens_depth_then_width_then_hidden_size() -> None:
    space = make()
    first = opened(space, step=0, steps=40)
    assert first.size() == len(space.layer_sets_of(3))
    assert drawn(Sampler("progressive", random_subnets=2), 0)[0].depth == 3

    def choices(step: int) -> tuple[int, ...]:
        now = opened(space, step=step, steps=40)
        return (len(now.depths), len(now.heads), len(now.head_sizes), len(now.ffn_sizes), len(now.hidden_sizes))

    at = [choices(step) for step in range(40)]
    assert at == sorted(at)
    assert at[10] == (2, 1, 1, 1, 1)
    assert at[20] == (2, 3, 2, 2, 1)
    assert at[30] == (2, 3, 2, 2, 2)
    assert opened(space, step=30, steps=40).size() == space.size()
    for step in (0, 5, 15, 25, 39):  # what is open is the greatest, and the largest subnet is always the first
        now = opened(space, step=step, steps=40)
        assert now.largest() == space.largest()
        subnets = drawn(Sampler("progressive", random_subnets=3), step)
        assert all(now.contains(x) for x in subnets)
        assert len(set(subnets)) == len(subnets)
        assert subnets[0].hidden_size == 48


def test_cells_open_with_the_feed_forward() -> None:
    space = make(cells=(Cell.parse("gelu"), Cell.parse("relu"), Cell.parse("tanh")))
    assert opened(space, step=10, steps=40).cells == space.cells[:1]
    assert opened(space, step=20, steps=40).cells == space.cells
