from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from supernet.space import LayerConfig, SearchSpace, Slicing, SubnetConfig


def make(*, per_layer: bool = True, **changes: object) -> SearchSpace:
    choices: dict[str, object] = {
        "hidden_sizes": (128, 256, 384),
        "heads": (4, 8, 12),
        "head_sizes": (16, 32),
        "ffn_sizes": (256, 1024, 512),  # in no order
        "ffn_stacks": (1, 2),
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
        ffn_sizes=(256,),
        ffn_stacks=(1, 3),
        per_layer=per_layer,
    )


def enumerate_all(space: SearchSpace) -> set[SubnetConfig]:
    choices = list(itertools.product(space.heads, space.head_sizes, space.ffn_sizes, space.ffn_stacks))
    found = set()
    for kept, hidden in itertools.product(space.layer_sets, space.hidden_sizes):
        for sizes in itertools.product(choices, repeat=len(kept)):
            if space.per_layer or len(set(sizes)) == 1:
                layers = (
                    LayerConfig(source=i, heads=h, head_size=d, ffn_size=f, ffn_stack=k)
                    for i, (h, d, f, k) in zip(kept, sizes, strict=True)
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
    assert {(x.heads, x.head_size, x.ffn_stack) for x in large.layers} == {(12, 32, 2)}


def test_contains_refuses_each_stranger() -> None:
    space = make()
    inside = space.smallest()
    first, *rest = inside.layers
    assert space.contains(inside)
    assert not space.contains(dataclasses.replace(inside, hidden_size=64))
    assert not space.contains(dataclasses.replace(inside, layers=inside.layers[:1]))
    for change in ({"heads": 5}, {"head_size": 64}, {"ffn_size": 300}, {"ffn_stack": 3}):
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
    space = make(hidden_sizes=(384,), heads=(4,), head_sizes=(16,), ffn_stacks=(1,))
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
    space = make(ffn_sizes=sizes, heads=(4,), head_sizes=(16,), hidden_sizes=(384,), ffn_stacks=(1,), per_layer=False)
    subnet, rng = space.smallest(), Random(0)
    drawn = Counter(space.mutate(subnet, rng).layers[0].ffn_size for _ in range(4000))
    assert drawn[512] > drawn[768] > drawn[1024] > 0


@pytest.mark.parametrize("start", [128, 1600, 3072, 1601])  # the ends, the middle, and a size that is no choice
def test_a_long_list_is_crossed_in_as_many_steps_as_a_short_one(start: int) -> None:
    sizes, rng = tuple(range(128, 3073, 4)), Random(0)
    space = SearchSpace.first_layers(
        source_layers=1, depths=[1], hidden_sizes=(8,), heads=(2,), head_sizes=(4,), ffn_sizes=sizes
    )
    subnet = SubnetConfig.uniform(hidden_size=8, depth=1, heads=2, head_size=4, ffn_size=start)
    drawn = [space.mutate(subnet, rng).layers[0].ffn_size for _ in range(4000)]
    assert start not in drawn
    assert set(drawn) <= set(sizes)
    moved = sorted(abs(x - start) for x in drawn)
    assert 0.04 < moved[2000] / (3072 - 128) < 0.2  # the half of all steps: neither one rank nor anywhere
    assert moved[0] == min(abs(x - start) for x in sizes if x != start)
    if start == 1600:
        assert sum(x > start for x in drawn) == pytest.approx(2000, abs=150)


@pytest.mark.parametrize("count", [2, 3, 8, 50])
def test_every_choice_can_be_stepped_to(count: int) -> None:
    """From each to each, the next ones and the ends included."""
    sizes, rng = tuple(range(1, count + 1)), Random(0)
    space = make(ffn_sizes=sizes, heads=(4,), head_sizes=(16,), hidden_sizes=(384,), ffn_stacks=(1,), per_layer=False)
    space = dataclasses.replace(space, layer_sets=((0, 1),))
    for start in (1, count // 2 + 1, count):
        subnet = SubnetConfig.uniform(hidden_size=384, depth=2, heads=4, head_size=16, ffn_size=start)
        drawn = {space.mutate(subnet, rng).layers[0].ffn_size for _ in range(200 * count)}
        assert drawn == set(sizes) - {start}


def test_genes_without_a_choice_waste_no_mutation() -> None:
    space = make(hidden_sizes=(384,), heads=(4,), head_sizes=(16,), ffn_stacks=(1,))
    space, rng = dataclasses.replace(space, layer_sets=((0, 2, 5),)), Random(0)
    subnet = space.sample(rng)
    assert all(space.mutate(subnet, rng) != subnet for _ in range(300))


def test_alike_layers_take_each_size_from_either_parent() -> None:
    space, rng = make(per_layer=False), Random(0)
    a, b = space.smallest(), space.largest()
    children = {space.crossover(a, b, rng) for _ in range(600)}
    assert len(children) == 2**6  # the set of layers, the hidden size, and four sizes of a layer
    assert all(space.contains(child) for child in children)


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
        ({"ffn_sizes": (0, 256)}, "ffn_sizes must be positive"),
        ({"ffn_sizes": [256]}, "ffn_sizes is a tuple, got list"),
        ({"ffn_stacks": (1, 5)}, "ffn_stacks are 1 to 4, got 5"),
        ({"layer_sets": ((1, 0),)}, "must ascend within"),
        ({"layer_sets": ((0, 6),)}, "must ascend within"),
        ({"layer_sets": ((),)}, "must ascend within"),
        ({"layer_sets": ()}, "layer_sets needs at least one choice"),
    ],
)
def test_the_space_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make(), **changes)


ONE = {"hidden_sizes": (8,), "heads": (2,), "head_sizes": (4,), "ffn_sizes": (16,)}


@pytest.mark.parametrize("make_space", [SearchSpace.of_depths, SearchSpace.first_layers])
@pytest.mark.parametrize("depths", [[0], [7], [2, 9]])
def test_depths_lie_within_the_supernet(depths: list[int], make_space: Callable[..., SearchSpace]) -> None:
    with pytest.raises(ValueError, match=r"depths must lie within 1\.\.6"):
        make_space(source_layers=6, depths=depths, **ONE)


def test_first_layers_keeps_the_first() -> None:
    space = SearchSpace.first_layers(source_layers=6, depths=[4, 1, 4], **ONE)
    assert space.layer_sets == ((0,), (0, 1, 2, 3))
    assert (space.depths, space.layer_sets_of(4), space.layer_sets_of(2)) == ((1, 4), ((0, 1, 2, 3),), ())
    assert space.ffn_stacks == (1,)


def test_within_keeps_exactly_what_can_be_cut() -> None:
    layers = (
        LayerConfig(source=0, heads=8, head_size=32, ffn_size=600, ffn_stack=2),
        LayerConfig(source=1, heads=12, head_size=16, ffn_size=1024, ffn_stack=1),
        LayerConfig(source=2, heads=12, head_size=32, ffn_size=1024, ffn_stack=4),
    )
    whole, space = SubnetConfig(hidden_size=300, layers=layers), make()
    part = space.within(whole)
    assert part.source_layers == 3
    assert set(part.layer_sets) == {kept for kept in space.layer_sets if max(kept) < 3}
    assert (part.hidden_sizes, part.heads, part.head_sizes) == ((128, 256), (4, 8), (16,))
    assert (part.ffn_sizes, part.ffn_stacks, part.per_layer) == ((256, 512), (1,), True)
    assert part.largest().fits(whole)
    rng = Random(0)
    assert all(space.contains(x) and x.fits(whole) for x in (part.sample(rng) for _ in range(100)))
    roomy = SubnetConfig.uniform(hidden_size=999, depth=6, heads=99, head_size=99, ffn_size=9999, ffn_stack=4)
    assert space.within(roomy) == space


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 127}, "hidden_sizes start at 128, but no more than 127 can be cut from"),
        ({"heads": 3}, "heads start at 4, but no more than 3"),
        ({"head_size": 15}, "head_sizes start at 16, but no more than 15"),
        ({"ffn_size": 255}, "ffn_sizes start at 256, but no more than 255"),
        ({"depth": 1}, r"layer_sets: none of them \(2 layers or more\) is among the 1 layers"),
    ],
)
def test_within_names_the_dimension_without_a_choice(change: dict[str, int], message: str) -> None:
    sizes = {"hidden_size": 128, "depth": 2, "heads": 4, "head_size": 16, "ffn_size": 256}
    assert make().within(SubnetConfig.uniform(**sizes)).size() == 1
    with pytest.raises(ValueError, match=message):
        make().within(SubnetConfig.uniform(**(sizes | change)))
    with pytest.raises(ValueError, match="ffn_stacks start at 2, but no more than 1"):
        make(ffn_stacks=(2, 3)).within(SubnetConfig.uniform(**sizes))


@BOTH
def test_a_space_as_json_and_back(per_layer: bool) -> None:
    space = make(per_layer=per_layer)
    again = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert again.fingerprint == space.fingerprint
    assert len(space.fingerprint) == 64


def test_fingerprints_tell_spaces_apart() -> None:
    spaces = [make(), make(per_layer=False), make(heads=(4, 8)), make(ffn_stacks=(1,)), make(heads=(8, 4))]
    spaces.append(dataclasses.replace(make(), layer_sets=make().layer_sets[:-1]))
    assert len({x.fingerprint for x in spaces}) == len(spaces)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": None}, "heads is a list of integers, got None"),
        ({"heads": [4, True]}, "heads is a list of integers"),
        ({"heads": [4.0]}, "heads is a list of integers"),
        ({"layer_sets": 3}, "layer_sets is a list of lists"),
        ({"layer_sets": [[0], "1"]}, r"layer_sets\[1\] is a list of integers"),
        ({"layer_sets": [[9]]}, "must ascend within"),
        ({"source_layers": "6"}, "source_layers is an integer"),
        ({"per_layer": 1}, "per_layer is true or false"),
        ({"more": 1}, "a space has"),
    ],
)
def test_a_space_from_json_refuses(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchSpace.from_json(make().to_json() | change)
    with pytest.raises(ValueError, match="a space is an object"):
        SearchSpace.from_json([])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a space has"):
        SearchSpace.from_json({k: v for k, v in make().to_json().items() if k != "ffn_stacks"})


WHOLE = SubnetConfig.uniform(hidden_size=384, depth=6, heads=12, head_size=32, ffn_size=1024)


@pytest.mark.parametrize(
    ("slicing", "changes", "told"),
    [
        ("heads", {"head_sizes": (32,)}, None),
        ("dims", {"heads": (12,)}, None),
        ("both", {}, None),
        ("heads", {}, r"keeps first whole heads: head_sizes has one choice, the supernet's \[32\], got \(16, 32\)"),
        ("heads", {"head_sizes": (16,)}, r"head_sizes has one choice, the supernet's \[32\], got \(16,\)"),
        ("dims", {}, r"keeps the first dims of every head: heads has one choice, the supernet's \[12\]"),
        ("dims", {"heads": (8,)}, r"heads has one choice, the supernet's \[12\], got \(8,\)"),
    ],
)
def test_attention_is_cut_one_published_way_or_both(
    slicing: Slicing, changes: dict[str, object], told: str | None
) -> None:
    space = make(**changes)
    if told is None:
        space.check_slicing(slicing, WHOLE)
        return
    with pytest.raises(ValueError, match=told):
        space.check_slicing(slicing, WHOLE)


def test_one_slicing_needs_layers_alike() -> None:
    layers = (WHOLE.layers[0], dataclasses.replace(WHOLE.layers[1], head_size=16))
    with pytest.raises(ValueError, match=r"the supernet's layers differ in head_sizes: \[16, 32\]"):
        make(head_sizes=(16,)).check_slicing("heads", dataclasses.replace(WHOLE, layers=layers))
