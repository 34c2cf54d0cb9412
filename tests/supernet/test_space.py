from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from random import Random

import pytest

from supernet.space import LayerConfig, SearchSpace, SubnetConfig


def make(*, per_layer: bool = True, **changes: object) -> SearchSpace:
    choices: dict[str, object] = {
        "hidden_sizes": (128, 256, 384),
        "heads": (4, 8, 12),
        "head_sizes": (16, 32),
        "ffn_sizes": (256, 1024, 512),  # in no order
        "per_layer": per_layer,
    }
    return SearchSpace.of_depths(source_layers=6, depths=[3, 2], **(choices | changes))


def tiny(per_layer: bool) -> SearchSpace:
    return SearchSpace.of_depths(
        source_layers=3,
        depths=[1, 2],
        hidden_sizes=(256, 384),
        heads=(4, 8),
        head_sizes=(32,),
        ffn_sizes=(256, 512),
        per_layer=per_layer,
    )


def enumerate_all(space: SearchSpace) -> set[SubnetConfig]:
    triples = list(itertools.product(space.heads, space.head_sizes, space.ffn_sizes))
    found = set()
    for kept, hidden in itertools.product(space.layer_sets, space.hidden_sizes):
        for sizes in itertools.product(triples, repeat=len(kept)):
            if space.per_layer or len(set(sizes)) == 1:
                layers = (
                    LayerConfig(source=i, heads=h, head_size=d, ffn_size=f)
                    for i, (h, d, f) in zip(kept, sizes, strict=True)
                )
                found.add(SubnetConfig(hidden_size=hidden, layers=tuple(layers)))
    return found


BOTH = pytest.mark.parametrize("per_layer", [True, False])


@BOTH
def test_size_is_what_counting_gives(per_layer: bool) -> None:
    space = tiny(per_layer)
    everything = enumerate_all(space)
    assert space.size() == len(everything) == (120 if per_layer else 48)
    assert all(space.contains(x) for x in everything)


@BOTH
def test_sample_reaches_the_whole_space_and_nothing_else(per_layer: bool) -> None:
    space, rng = tiny(per_layer), Random(0)
    assert {space.sample(rng) for _ in range(3000)} == enumerate_all(space)


@BOTH
def test_mutations_connect_the_whole_space(per_layer: bool) -> None:
    space, rng = tiny(per_layer), Random(0)
    subnet, found = space.smallest(), set()
    for _ in range(6000):
        subnet = space.mutate(subnet, rng)
        found.add(subnet)
    assert found == enumerate_all(space)


def test_no_depth_crowds_out_another() -> None:
    rng = Random(0)
    depths = Counter(make().sample(rng).depth for _ in range(2000))
    assert depths[2] == pytest.approx(1000, abs=100)


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_everything_drawn_is_in_the_space(per_layer: bool, seed: int) -> None:
    space, rng = make(per_layer=per_layer), Random(seed)
    for _ in range(200):
        a, b = space.sample(rng), space.sample(rng)
        child = space.crossover(a, b, rng)
        mutant = space.mutate(child, rng, rate=rng.random())
        for subnet in (a, b, child, mutant):
            assert space.contains(subnet)
            assert subnet.fits(space.largest()) or subnet.depth < 6


def test_the_rng_decides_everything() -> None:
    space = make()

    def walk(seed: int) -> list[SubnetConfig]:
        rng = Random(seed)
        a, b = space.sample(rng), space.sample(rng)
        return [a, b, space.crossover(a, b, rng), space.mutate(a, rng)]

    assert walk(5) == walk(5)
    assert walk(5) != walk(6)


@BOTH
def test_extremes(per_layer: bool) -> None:
    space = make(per_layer=per_layer)
    small, large = space.smallest(), space.largest()
    assert space.contains(small)
    assert space.contains(large)
    assert (small.hidden_size, small.depth, {x.ffn_size for x in small.layers}) == (128, 2, {256})
    assert (large.hidden_size, large.depth, {x.ffn_size for x in large.layers}) == (384, 3, {1024})
    assert {(x.heads, x.head_size) for x in large.layers} == {(12, 32)}


def test_contains_refuses_each_stranger() -> None:
    space = make()
    inside = space.smallest()
    first, *rest = inside.layers
    assert space.contains(inside)
    assert not space.contains(dataclasses.replace(inside, hidden_size=64))
    assert not space.contains(dataclasses.replace(inside, layers=inside.layers[:1]))
    for change in ({"heads": 5}, {"head_size": 64}, {"ffn_size": 300}):
        layers = (dataclasses.replace(first, **change), *rest)
        assert not space.contains(dataclasses.replace(inside, layers=layers))
    uneven = dataclasses.replace(inside, layers=(dataclasses.replace(first, heads=8), *rest))
    assert space.contains(uneven)
    assert not make(per_layer=False).contains(uneven)


def test_crossover_takes_layers_from_one_parent_and_sizes_from_both() -> None:
    space, rng = make(), Random(0)
    a = SubnetConfig.uniform(hidden_size=128, depth=2, heads=4, head_size=16, ffn_size=256, sources=(1, 4))
    b = SubnetConfig.uniform(hidden_size=384, depth=2, heads=12, head_size=32, ffn_size=512, sources=(1, 5))
    children = {space.crossover(a, b, rng) for _ in range(200)}
    assert {tuple(x.source for x in child.layers) for child in children} == {(1, 4), (1, 5)}
    assert {child.hidden_size for child in children} == {128, 384}
    for child in children:
        parent = a if child.layers[1].source == 4 else b
        assert child.layers[1] == parent.layers[1]
        assert child.layers[0] in {a.layers[0], b.layers[0]}
    assert {a.layers[0], b.layers[0]} == {child.layers[0] for child in children}


def test_mutation_keeps_the_sizes_of_layers_that_stay() -> None:
    space = make(hidden_sizes=(384,), heads=(4,), head_sizes=(16,))
    layers = tuple(LayerConfig(source=i, heads=4, head_size=16, ffn_size=f) for i, f in ((0, 256), (2, 512), (5, 1024)))
    subnet, rng, moved = SubnetConfig(hidden_size=384, layers=layers), Random(0), 0
    sizes = {x.source: x.ffn_size for x in layers}
    for _ in range(300):
        mutant = space.mutate(subnet, rng, rate=1e-9)  # exactly one gene
        if tuple(x.source for x in mutant.layers) != (0, 2, 5):
            moved += 1
            for x in mutant.layers:
                nearest = min(sizes, key=lambda i, x=x: abs(i - x.source))
                assert x.ffn_size == sizes[nearest]
        else:
            assert sum(x != y for x, y in zip(mutant.layers, layers, strict=True)) <= 1
    assert moved > 10


def test_mutation_prefers_near_sizes() -> None:
    sizes = (256, 512, 768, 1024)
    space = make(ffn_sizes=sizes, heads=(4,), head_sizes=(16,), hidden_sizes=(384,), per_layer=False)
    subnet, rng = space.smallest(), Random(0)
    drawn = Counter(space.mutate(subnet, rng).layers[0].ffn_size for _ in range(4000))
    assert drawn[512] > drawn[768] > drawn[1024] > 0


def test_one_choice_everywhere_is_no_trouble() -> None:
    space = SearchSpace.of_depths(
        source_layers=2, depths=[2], hidden_sizes=(8,), heads=(2,), head_sizes=(4,), ffn_sizes=(16,)
    )
    only, rng = space.smallest(), Random(0)
    assert space.size() == 1
    assert space.largest() == space.sample(rng) == space.mutate(only, rng) == space.crossover(only, only, rng) == only


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": ()}, "heads needs at least one choice"),
        ({"ffn_sizes": (256, 256)}, "ffn_sizes repeats a choice"),
        ({"layer_sets": ((1, 0),)}, "must ascend within"),
        ({"layer_sets": ((0, 6),)}, "must ascend within"),
        ({"layer_sets": ((),)}, "must ascend within"),
        ({"layer_sets": ()}, "layer_sets needs at least one choice"),
    ],
)
def test_the_space_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make(), **changes)


@pytest.mark.parametrize("depths", [[0], [7], [2, 9]])
def test_depths_lie_within_the_supernet(depths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"depths must lie within 1\.\.6"):
        SearchSpace.of_depths(
            source_layers=6, depths=depths, hidden_sizes=(8,), heads=(2,), head_sizes=(4,), ffn_sizes=(16,)
        )


@pytest.mark.parametrize("seed", range(10))
def test_json_and_back(seed: int) -> None:
    subnet = make().sample(Random(seed))
    again = SubnetConfig.from_json(json.loads(json.dumps(subnet.to_json())))
    assert again == subnet
    assert again.key == subnet.key
    assert hash(again) == hash(subnet)


def test_keys_tell_subnets_apart() -> None:
    rng = Random(0)
    some = {make().sample(rng) for _ in range(500)}
    assert len({x.key for x in some}) == len(some)
    assert all(len(x.key) == 12 for x in some)


LAYER = {"source": 0, "heads": 2, "head_size": 4, "ffn_size": 16}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "a subnet is an object"),
        ({"hidden_size": 8}, "a subnet has hidden_size and layers"),
        ({"hidden_size": 8, "layers": [], "x": 1}, "a subnet has hidden_size and layers"),
        ({"hidden_size": 8, "layers": []}, "at least one layer"),
        ({"hidden_size": 8.0, "layers": [LAYER]}, "hidden_size is an integer"),
        ({"hidden_size": True, "layers": [LAYER]}, "hidden_size is an integer"),
        ({"hidden_size": 8, "layers": [LAYER, LAYER]}, "ascend without repeats"),
        ({"hidden_size": 8, "layers": [{**LAYER, "ffn_size": "16"}]}, r"layers\[0\] holds integers only"),
        ({"hidden_size": 8, "layers": [{**LAYER, "extra": 1}]}, r"layers\[0\] has"),
        ({"hidden_size": 8, "layers": [{**LAYER, "heads": 0}]}, "heads must be positive"),
        ({"hidden_size": 8, "layers": [{**LAYER, "source": -1}]}, "source must be 0 or more"),
        ({"hidden_size": 0, "layers": [LAYER]}, "hidden_size must be positive"),
    ],
)
def test_from_json_refuses(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SubnetConfig.from_json(data)


def test_uniform() -> None:
    subnet = SubnetConfig.uniform(hidden_size=312, depth=4, heads=12, ffn_size=1200)
    assert [x.source for x in subnet.layers] == [0, 1, 2, 3]
    assert {(x.heads, x.head_size, x.ffn_size, x.qkv_size) for x in subnet.layers} == {(12, 26, 1200, 312)}
    assert subnet.is_stock_bert
    with pytest.raises(ValueError, match="depth is 2 but 1 sources"):
        SubnetConfig.uniform(hidden_size=8, depth=2, heads=2, ffn_size=16, sources=(1,))


def test_stock_bert_needs_equal_layers_and_full_attention() -> None:
    stock = SubnetConfig.uniform(hidden_size=384, depth=3, heads=12, ffn_size=512, sources=(0, 2, 5))
    assert stock.is_stock_bert
    assert not dataclasses.replace(stock, hidden_size=256).is_stock_bert
    changed = dataclasses.replace(stock.layers[2], ffn_size=256)
    assert not dataclasses.replace(stock, layers=(*stock.layers[:2], changed)).is_stock_bert


def test_renumbered_keeps_the_shape() -> None:
    subnet = make().sample(Random(1))
    alone = subnet.renumbered()
    assert [x.source for x in alone.layers] == list(range(subnet.depth))
    for mine, theirs in zip(alone.layers, subnet.layers, strict=True):
        assert dataclasses.replace(mine, source=theirs.source) == theirs
    assert alone.renumbered() == alone


def test_fits() -> None:
    whole = SubnetConfig.uniform(hidden_size=384, depth=6, heads=12, ffn_size=1536)
    part = SubnetConfig.uniform(hidden_size=256, depth=2, heads=8, head_size=32, ffn_size=512, sources=(1, 5))
    assert part.fits(whole)
    assert whole.fits(whole)
    assert not whole.fits(part)
    assert not dataclasses.replace(part, hidden_size=385).fits(whole)
    for change in ({"source": 6}, {"heads": 13}, {"head_size": 33}, {"ffn_size": 1537}):
        layers = (part.layers[0], dataclasses.replace(part.layers[1], **change))
        assert not dataclasses.replace(part, layers=layers).fits(whole)


def test_it_reads_well() -> None:
    subnet = SubnetConfig.uniform(hidden_size=384, depth=2, heads=8, head_size=32, ffn_size=512, sources=(1, 5))
    assert str(subnet) == "2L-384 [1:8x32/512 5:8x32/512]"
