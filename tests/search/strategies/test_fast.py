"""AutoTinyBERT's fast development: only candidates of good proportions."""

from __future__ import annotations

from random import Random

import pytest

from search.design import DesignSpace
from search.plan import SearchPlan
from search.strategies.fast import Fast
from supernet.presets import preset
from supernet.space import SearchSpace

PLAN = SearchPlan(engines=10)


def designs(space: SearchSpace) -> DesignSpace:
    return DesignSpace(subnets=space, precisions=(("f32", "int8"),))


@pytest.mark.parametrize("name", ["autotinybert-kd", "autotinybert-mlm", "per-layer"])
def test_every_candidate_keeps_the_rule_and_lies_in_the_space(name: str) -> None:
    space = designs(preset(name))
    strategy = Fast(space, PLAN, Random(1))
    asked = [x.design for _ in range(5) for x in strategy.ask(8)]
    assert len(set(asked)) == len(asked) == 40
    for design in asked:
        assert space.contains(design)
        hidden = design.subnet.hidden_size
        for layer in design.subnet.layers:
            assert 1.6 * hidden <= layer.ffn_size <= 1.9 * hidden
            assert 0.7 * hidden <= layer.qkv_size <= hidden
    assert len({x.subnet.depth for x in asked}) > 3
    assert len({x.precisions for x in asked}) == 2


def test_the_same_seed_asks_for_the_same() -> None:
    asked = [[x.design for x in Fast(designs(preset("autotinybert-kd")), PLAN, Random(3)).ask(6)] for _ in range(2)]
    assert asked[0] == asked[1]


def test_a_small_space_is_exhausted_and_one_without_such_subnets_refused() -> None:
    one = SearchSpace.of_depths(
        source_layers=1, depths=[1], hidden_sizes=(10, 100), heads=(1,), head_sizes=(8,), ffn_sizes=(18,)
    )
    strategy = Fast(DesignSpace(subnets=one, precisions=(("f32",),)), PLAN, Random(0))
    assert [x.design.subnet.hidden_size for x in strategy.ask(5)] == [10]
    assert strategy.ask(5) == []
    none = SearchSpace.of_depths(
        source_layers=1, depths=[1], hidden_sizes=(100,), heads=(1,), head_sizes=(8,), ffn_sizes=(18,)
    )
    with pytest.raises(ValueError, match=r"1.6 to 1.9 and queries of 0.7 to 1.0 times .* widen them"):
        Fast(designs(none), PLAN, Random(0))
