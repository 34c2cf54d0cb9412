"""One architecture: its JSON, its names, and what can be cut from what."""

from __future__ import annotations

import dataclasses
import json
from random import Random

import pytest

from supernet.space import SearchSpace
from supernet.subnet import SubnetConfig

SPACE = SearchSpace.of_depths(
    source_layers=6,
    depths=[3, 2],
    hidden_sizes=(128, 256, 384),
    heads=(4, 8, 12),
    head_sizes=(16, 32),
    ffn_sizes=(256, 1024, 512),
    ffn_stacks=(1, 2, 4),
)


@pytest.mark.parametrize("seed", range(10))
def test_json_and_back(seed: int) -> None:
    subnet = SPACE.sample(Random(seed))
    again = SubnetConfig.from_json(json.loads(json.dumps(subnet.to_json())))
    assert again == subnet
    assert again.key == subnet.key
    assert hash(again) == hash(subnet)


def test_keys_tell_subnets_apart() -> None:
    rng = Random(0)
    some = {SPACE.sample(rng) for _ in range(500)}
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
        ({"hidden_size": 8, "layers": [{**LAYER, "ffn_stack": "2"}]}, r"layers\[0\] holds integers only"),
        ({"hidden_size": 8, "layers": [{**LAYER, "ffn_stack": 5}]}, r"ffn_stack must lie within 1\.\.4, got 5"),
        ({"hidden_size": 8, "layers": [{**LAYER, "ffn_stack": 0}]}, r"ffn_stack must lie within 1\.\.4, got 0"),
        ({"hidden_size": 8, "layers": [{"source": 0, "heads": 2}]}, r"layers\[0\] has"),
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
    assert not SubnetConfig.uniform(hidden_size=384, depth=3, heads=12, ffn_size=512, ffn_stack=2).is_stock_bert


def test_renumbered_keeps_the_shape() -> None:
    subnet = SPACE.sample(Random(1))
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
    for change in ({"source": 6}, {"heads": 13}, {"head_size": 33}, {"ffn_size": 1537}, {"ffn_stack": 2}):
        layers = (part.layers[0], dataclasses.replace(part.layers[1], **change))
        assert not dataclasses.replace(part, layers=layers).fits(whole)


def test_it_reads_well() -> None:
    subnet = SubnetConfig.uniform(hidden_size=384, depth=2, heads=8, head_size=32, ffn_size=512, sources=(1, 5))
    assert str(subnet) == "2L-384 [1:8x32/512 5:8x32/512]"
    second = dataclasses.replace(subnet.layers[1], ffn_stack=3)
    assert str(dataclasses.replace(subnet, layers=(subnet.layers[0], second))) == "2L-384 [1:8x32/512 5:8x32/512*3]"


def test_a_stack_of_one_is_not_written_so_that_old_keys_stay() -> None:
    subnet = SubnetConfig.uniform(hidden_size=312, depth=4, heads=12, ffn_size=1200)
    assert subnet.key == "f8d6b611d525"
    assert all("ffn_stack" not in layer for layer in subnet.to_json()["layers"])
    spelt = {"hidden_size": 312, "layers": [layer | {"ffn_stack": 1} for layer in subnet.to_json()["layers"]]}
    assert SubnetConfig.from_json(spelt) == subnet
    stacked = SubnetConfig.uniform(hidden_size=312, depth=4, heads=12, ffn_size=1200, ffn_stack=2)
    assert [layer["ffn_stack"] for layer in stacked.to_json()["layers"]] == [2] * 4
    assert stacked.key != subnet.key
    assert SubnetConfig.from_json(stacked.to_json()) == stacked
