from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from search.phases import GENES, narrowed
from supernet.cells import PLAIN, Cell
from supernet.space import LayerConfig, SearchSpace, SubnetConfig

SPACE = SearchSpace.of_depths(
    source_layers=4,
    depths=[2, 3],
    hidden_sizes=(24, 32),
    heads=(2, 4),
    head_sizes=(4, 8),
    ffn_sizes=(16, 32, 64),
    ffn_stacks=(1, 2),
    cells=(PLAIN, Cell("relu")),
)
BASE = SubnetConfig(
    hidden_size=24,
    layers=(
        LayerConfig(source=0, heads=2, head_size=4, ffn_size=16, ffn_stack=2, cell=Cell("relu")),
        LayerConfig(source=2, heads=4, head_size=8, ffn_size=64),
        LayerConfig(source=3, heads=2, head_size=8, ffn_size=32),
    ),
)


def drawn(space: SearchSpace, seed: int) -> list[SubnetConfig]:
    rng = Random(seed)
    found = [space.sample(rng) for _ in range(20)]
    found += [space.mutate(x, rng, rate=0.5) for x in found]
    return [*found, *(space.crossover(a, b, rng) for a, b in pairwise(found)), space.smallest(), space.largest()]


@pytest.mark.parametrize(
    "free", [("cells",), ("ffn_stacks", "ffn_sizes"), ("heads", "hidden_sizes"), ("layers", "cells")]
)
def test_what_is_not_free_stays_as_the_base_has_it(free: tuple[str, ...]) -> None:
    space = narrowed(SPACE, BASE, free)
    found = drawn(space, seed=len(free))
    assert len(set(found)) > 1
    by_source = {x.source: x for x in BASE.layers}
    for subnet in found:
        assert space.contains(subnet)
        assert SPACE.contains(subnet)
        assert "layers" in free or subnet.sources == BASE.sources
        assert "hidden_sizes" in free or subnet.hidden_size == BASE.hidden_size
        for layer in (x for x in subnet.layers if x.source in by_source):
            theirs = by_source[layer.source]
            assert "heads" in free or layer.heads == theirs.heads
            assert layer.head_size == theirs.head_size
            assert "ffn_sizes" in free or layer.ffn_size == theirs.ffn_size
            assert "ffn_stacks" in free or layer.ffn_stack == theirs.ffn_stack
            assert "cells" in free or layer.cell == theirs.cell
    assert space.contains(BASE)


def test_a_narrowed_space_knows_its_size_and_draws_all_of_it() -> None:
    assert narrowed(SPACE, BASE, ["cells"]).size() == 2**3
    space = narrowed(SPACE, BASE, ["ffn_stacks", "hidden_sizes"])
    assert space.size() == 2 * 2**3
    rng = Random(0)
    assert len({space.sample(rng) for _ in range(400)}) == space.size()
    assert narrowed(SPACE, BASE, GENES).size() == SPACE.size()


def test_spaces_held_at_other_bases_are_other_spaces() -> None:
    other = SPACE.largest()
    prints = {narrowed(SPACE, base, ["cells", "layers"]).fingerprint for base in (BASE, other)}
    assert len(prints | {SPACE.fingerprint}) == 3


def test_what_cannot_be_narrowed_is_told() -> None:
    with pytest.raises(ValueError, match=r"genes are layers, .*; got depth"):
        narrowed(SPACE, BASE, ["depth"])
    with pytest.raises(ValueError, match="lies in the space"):
        narrowed(SPACE, SubnetConfig.uniform(hidden_size=24, depth=1, heads=2, head_size=4, ffn_size=16), ["cells"])
    one = SearchSpace.of_depths(
        source_layers=2, depths=[1], hidden_sizes=(8,), heads=(2,), head_sizes=(4,), ffn_sizes=(8, 16)
    )
    with pytest.raises(ValueError, match="cells, ffn_stacks have one choice only"):
        narrowed(one, one.largest(), ["cells", "ffn_stacks"])
