from __future__ import annotations

import pytest

from atb_export.baselines import DESCRIPTIONS, baseline, spread
from supernet.space import SubnetConfig

MINILM = SubnetConfig.uniform(hidden_size=384, depth=6, heads=12, head_size=32, ffn_size=1536)
BERT = SubnetConfig.uniform(hidden_size=768, depth=12, heads=12, head_size=64, ffn_size=3072)


def test_a_plain_cut_keeps_the_second_and_the_last_layer() -> None:
    assert [spread(depth, 6) for depth in (1, 2, 3, 6)] == [(1,), (1, 5), (1, 3, 5), (0, 1, 2, 3, 4, 5)]
    assert spread(3, 12) == (1, 6, 11)
    assert spread(2, 2) == (0, 1)


@pytest.mark.parametrize("whole", [MINILM, BERT])
@pytest.mark.parametrize("depth", [2, 3])
def test_a_cut_keeps_the_layers_whole(whole: SubnetConfig, depth: int) -> None:
    cut = baseline(f"cut{depth}", whole)
    assert cut.fits(whole)
    assert cut.is_stock_bert
    assert (cut.depth, cut.hidden_size) == (depth, whole.hidden_size)
    assert {(x.heads, x.head_size, x.ffn_size) for x in cut.layers} == {
        (x.heads, x.head_size, x.ffn_size) for x in whole.layers
    }


def test_tinybert4_is_tinyberts_shape() -> None:
    for whole, kept in ((MINILM, [0, 2, 3, 5]), (BERT, [2, 5, 8, 11])):
        tiny = baseline("tinybert4", whole)
        assert (tiny.depth, tiny.hidden_size) == (4, 312)
        assert {(x.heads, x.head_size, x.ffn_size) for x in tiny.layers} == {(12, 26, 1200)}
        assert tiny.is_stock_bert
        assert [x.source for x in tiny.layers] == kept


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_teacher_too_small_is_told(name: str) -> None:
    small = SubnetConfig.uniform(hidden_size=64, depth=1, heads=2, head_size=32, ffn_size=128)
    with pytest.raises(
        Exception, match=rf"the baseline {name} .* does not fit in the teacher .*drop it from \[compare\]"
    ):
        baseline(name, small)
