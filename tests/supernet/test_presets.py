"""Presets hold what the papers say: counts, bounds, and nothing beyond a supernet."""

from __future__ import annotations

from random import Random

import pytest

from supernet.presets import PRESETS, aligned, preset
from supernet.space import SearchSpace, SubnetConfig


@pytest.mark.parametrize(
    ("name", "size"),
    [("autotinybert-mlm", 11_391_072), ("autotinybert-kd", 47_462_800), ("efficientbert", 16**6)],
)
def test_published_sizes(name: str, size: int) -> None:
    assert preset(name).size() == size


def test_per_layer_is_every_subset_of_eight() -> None:
    space, each = preset("per-layer"), 12 * 13 * 737
    assert len(space.layer_sets) == 2**8 - 1
    assert space.size() == 161 * ((1 + each) ** 8 - 1)  # every layer is left out or takes one of its sizes


def test_autotinybert_bounds() -> None:
    for name in ("autotinybert-mlm", "autotinybert-kd"):
        space = preset(name)
        assert space.layer_sets == tuple(tuple(range(k)) for k in range(1, 9))
        assert not space.per_layer
        assert (min(space.hidden_sizes), max(space.hidden_sizes)) == (128, 768)
        assert (min(space.ffn_sizes), max(space.ffn_sizes)) == (128, 3072)
    widths = [heads * size for heads in space.heads for size in space.head_sizes]
    assert widths == list(range(180, 769, 12))
    mlm = preset("autotinybert-mlm")
    assert [heads * mlm.head_sizes[0] for heads in mlm.heads] == list(range(64, 769, 64))
    published = SubnetConfig.uniform(hidden_size=564, depth=5, heads=12, head_size=44, ffn_size=1024)  # KD-S1
    assert space.contains(published)


def test_efficientbert_cells_are_fractions_of_the_hidden_size() -> None:
    space = preset("efficientbert")
    assert [540 // size for size in space.ffn_sizes] == [1, 2, 3, 4]
    assert space.ffn_stacks == (1, 2, 3, 4)
    assert {x.depth for x in (space.smallest(), space.largest(), space.sample(Random(0)))} == {6}
    assert space.largest().layers[0].qkv_size == 540


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_takes_the_depth_it_is_given(name: str) -> None:
    found = PRESETS[name]
    assert found.about
    assert preset(name) == found.space(found.source_layers)
    deep, rng = found.space(12), Random(0)
    assert deep.source_layers == 12
    assert deep.depths == found.depths
    for space in (found.space(), deep):
        subnet = space.sample(rng)
        assert space.contains(space.mutate(subnet, rng))
        assert space.contains(space.crossover(subnet, space.sample(rng), rng))
    if not found.first_layers:
        assert any(max(kept) == 11 for kept in deep.layer_sets)
    if min(found.depths) > 3:
        with pytest.raises(ValueError, match="depths start at 6, but the supernet has 3 layers"):
            found.space(3)
    else:
        assert found.space(3).depths == (1, 2, 3)


def test_cut_to_a_common_teacher() -> None:
    """MiniLM: heads of 32 leave nothing of a space whose heads are of 64."""
    minilm = SubnetConfig.uniform(hidden_size=384, depth=6, heads=12, ffn_size=1536)
    space = preset("autotinybert-kd").within(minilm)
    assert space.size() == 6 * 65 * 353 * 18
    assert space.largest().fits(minilm)
    assert PRESETS["per-layer"].space(6).within(minilm).largest() == minilm
    with pytest.raises(ValueError, match="head_sizes start at 64, but no more than 32"):
        preset("autotinybert-mlm").within(minilm)


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match=r"the presets are autotinybert-mlm, .* got 'tiny'"):
        preset("tiny")


def test_aligned_keeps_multiples_and_leaves_the_rest() -> None:
    space = preset("per-layer")
    part = aligned(space, {"hidden_sizes": 64, "head_sizes": 16, "ffn_sizes": 32})
    assert part.hidden_sizes == tuple(range(128, 769, 64))
    assert part.head_sizes == (16, 32, 48, 64)
    assert all(size % 32 == 0 for size in part.ffn_sizes)
    assert len(part.ffn_sizes) == 93
    assert (part.heads, part.layer_sets, part.per_layer) == (space.heads, space.layer_sets, space.per_layer)
    assert aligned(space, {}) == space
    assert aligned(space, {"heads": 4}).heads == (4, 8, 12)


@pytest.mark.parametrize(
    ("multiples", "message"),
    [
        ({"depths": 2}, "the dimensions to align are hidden_sizes, heads, head_sizes, ffn_sizes; got 'depths'"),
        ({"ffn_sizes": 0}, "multiples of a positive number, got 0"),
        ({"head_sizes": 128}, "no choice of head_sizes is a multiple of 128"),
    ],
)
def test_aligned_refuses(multiples: dict[str, int], message: str) -> None:
    space: SearchSpace = preset("per-layer")
    with pytest.raises(ValueError, match=message):
        aligned(space, multiples)
