"""Designs and their space: whatever is drawn lies in it, and a design has one form only."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from search.design import Design, DesignSpace
from supernet.presets import PRESETS, preset
from supernet.space import SearchSpace, SubnetConfig

SUBNET = SubnetConfig.uniform(hidden_size=384, depth=2, heads=4, head_size=32, ffn_size=512, sources=(1, 5))
DESIGN = Design(subnet=SUBNET, precisions=("bf16", "int8"))


def test_json_and_back() -> None:
    assert Design.from_json(json.loads(json.dumps(DESIGN.to_json()))) == DESIGN
    assert str(DESIGN) == f"{SUBNET} in bf16, int8"


def test_the_key_names_the_design_and_nothing_else() -> None:
    assert len(DESIGN.key) == 12
    assert int(DESIGN.key, 16) >= 0
    assert Design.from_json(DESIGN.to_json()).key == DESIGN.key
    others = [replace(DESIGN, precisions=x) for x in (("int8", "bf16"), ("bf16", "f32"), ("bf16",))]
    others.append(replace(DESIGN, subnet=SUBNET.renumbered()))
    assert len({x.key for x in [DESIGN, *others]}) == 5


@pytest.mark.parametrize("precisions", [(), ("",), ("bf16", 3)])
def test_refuses_what_names_no_precision(precisions: Any) -> None:
    with pytest.raises(ValueError, match="one precision per target"):
        Design(subnet=SUBNET, precisions=precisions)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {},
        {**DESIGN.to_json(), "key": DESIGN.key},
        {**DESIGN.to_json(), "precisions": "bf16"},
        {**DESIGN.to_json(), "precisions": []},
        {**DESIGN.to_json(), "precisions": [1]},
        {**DESIGN.to_json(), "subnet": {"hidden_size": 384}},
    ],
)
def test_from_json_refuses(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"a design|precision|a subnet"):
        Design.from_json(wrong)


@pytest.mark.parametrize("precisions", [(), (("bf16",), ()), (("bf16", "bf16"),)])
def test_a_space_offers_each_target_something_once(precisions: Any) -> None:
    with pytest.raises(ValueError, match=r"a target offers|every target offers"):
        DesignSpace(subnets=preset("efficientbert"), precisions=precisions)


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_drawn_lies_in_the_space(random_space: Any, seed: int) -> None:
    rng = Random(seed)
    space = random_space(rng)
    parents = [space.smallest(), space.largest()]
    for _ in range(40):
        mother, father = rng.sample(parents, 2)
        born = (
            space.sample(rng),
            space.mutate(mother, rng, rate=rng.choice((0.01, 0.2, 1.0))),
            space.crossover(mother, father, rng),
        )
        for design in born:
            assert space.contains(design)
            assert Design.from_json(json.loads(json.dumps(design.to_json()))) == design
        parents += born
    assert all(space.contains(space.of(x.subnet)) for x in parents)


@pytest.mark.parametrize("seed", range(12))
def test_its_size_is_what_it_holds(random_space: Any, all_designs: Any, seed: int) -> None:
    rng = Random(seed)
    space = random_space(rng)
    while space.size() > 3000:
        space = random_space(rng)
    designs = all_designs(space)
    assert space.size() == len(designs)
    assert all(map(space.contains, designs))
    assert len({x.key for x in designs}) == len(designs)
    assert {space.sample(rng) for _ in range(5)} <= designs


def test_what_lies_outside_is_not_contained(random_space: Any) -> None:
    space = random_space(Random(3), 2)
    inside = space.sample(Random(0))
    assert space.contains(inside)
    assert not space.contains(replace(inside, precisions=inside.precisions[:1]))
    assert not space.contains(replace(inside, precisions=("f8", inside.precisions[1])))
    assert not space.contains(replace(inside, subnet=replace(inside.subnet, hidden_size=33)))


def test_children_take_every_gene_from_either_parent(make_problem: Any) -> None:
    space, rng = make_problem(targets=2, per_layer=False).space, Random(1)
    a, b = space.smallest(), replace(space.largest(), precisions=("f32", "f32"))
    pairs = Counter(space.crossover(a, b, rng).precisions for _ in range(200))
    assert set(pairs) == {("bf16", "fp16"), ("bf16", "f32"), ("f32", "fp16"), ("f32", "f32")}
    assert space.crossover(a, a, rng) == a


def test_precisions_mutate_at_the_rate_asked_for() -> None:
    space = DesignSpace(subnets=preset("efficientbert"), precisions=(("bf16", "f32"),))
    rng, design = Random(0), space.smallest()
    changed = sum(space.mutate(design, rng, rate=0.5).precisions != design.precisions for _ in range(2000))
    assert 400 < changed < 600  # redrawn half the time, and half of those to the other one


def test_the_fingerprint_covers_all_choices(make_problem: Any) -> None:
    space = make_problem(targets=2).space
    again = make_problem(targets=2).space
    assert space.fingerprint == again.fingerprint
    fewer = replace(space.subnets, heads=(2, 3))
    others = [
        replace(space, precisions=(("bf16",), ("fp16", "f32"))),
        replace(space, precisions=(("f32", "bf16"), ("fp16", "f32"))),
        replace(space, subnets=fewer),
    ]
    assert len({x.fingerprint for x in [space, *others]}) == 4


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_named_spaces_can_be_searched(name: str) -> None:
    space = DesignSpace(subnets=preset(name), precisions=(("bf16", "f32"), ("int8",)))
    rng = Random(7)
    some = [space.sample(rng) for _ in range(20)]
    some += [space.mutate(x, rng) for x in some] + [
        space.crossover(rng.choice(some), rng.choice(some), rng) for _ in range(20)
    ]
    assert all(map(space.contains, [*some, space.smallest(), space.largest()]))
    assert space.size() == 2 * space.subnets.size()


def test_a_space_of_one_design_draws_it_again_and_again() -> None:
    subnets = SearchSpace.first_layers(
        source_layers=1, depths=[1], hidden_sizes=(32,), heads=(2,), head_sizes=(16,), ffn_sizes=(64,)
    )
    space = DesignSpace(subnets=subnets, precisions=(("f32",),))
    only, rng = space.smallest(), Random(0)
    assert space.size() == 1
    assert {space.sample(rng), space.mutate(only, rng), space.crossover(only, only, rng), space.largest()} == {only}
