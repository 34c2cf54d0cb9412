from __future__ import annotations

from random import Random

import pytest

from supernet.sampler import sandwich
from supernet.space import SearchSpace


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
