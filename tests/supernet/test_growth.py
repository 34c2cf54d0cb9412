from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from supernet.growth import with_stack
from supernet.model import Supernet
from supernet.space import SubnetConfig


def test_a_subnet_of_the_cells_there_were_computes_what_the_network_computed(
    make_supernet: Callable[..., Supernet], make_batch: Callable[..., Any]
) -> None:
    net, batch = make_supernet(), make_batch()
    grown = with_stack(net, 3)
    assert [x.ffn_stack for x in grown.shape.layers] == [3, 3, 3, 3]
    torch.testing.assert_close(grown(**batch, subnet=net.shape).logits, net(**batch).logits, rtol=0, atol=0)


def test_added_cells_hand_their_input_on_but_for_little(make_batch: Callable[..., Any], facts: Any) -> None:
    """With LayerNorms as trained networks have them; random ones of few dims leave more."""
    torch.manual_seed(0)
    shape = SubnetConfig.uniform(hidden_size=256, depth=2, heads=4, ffn_size=64)
    net = Supernet(shape=shape, facts=facts).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "norm.weight" in name:
                parameter.copy_(0.9 + 0.1 * torch.randn(parameter.shape))
            elif "norm.bias" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    batch = make_batch()
    before, after = net(**batch, hidden_states=True), with_stack(net, 2)(**batch, hidden_states=True)
    for x, y in zip(before.hidden_states[1:], after.hidden_states[1:], strict=True):
        assert (x - y).abs().mean() < 0.05 * x.abs().mean()


def test_stacks_that_there_are_stay(make_supernet: Callable[..., Supernet], stacked: SubnetConfig) -> None:
    grown = with_stack(make_supernet(shape=stacked), 2)
    assert [x.ffn_stack for x in grown.shape.layers] == [3, 2, 2, 4]
    with pytest.raises(ValueError, match="1 to 4 cells, got 5"):
        with_stack(grown, 5)
