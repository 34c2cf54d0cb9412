"""More feed-forward cells than a network has, so that a supernet of stacked cells can start as its teacher."""

from __future__ import annotations

from dataclasses import replace

import torch

from supernet.layer import FeedForward
from supernet.model import Supernet
from supernet.subnet import MAX_FFN_STACK, check


@torch.no_grad()
def with_stack(source: Supernet, stack: int) -> Supernet:
    """A copy whose layers have `stack` cells or more; every cell that is added starts close to handing its input on.

    Its first linear is the last cell's, its second linear 0, so that at first only its LayerNorm changes anything. That
    one normalises what a LayerNorm with weights w and biases b made of z: mean(b) and sqrt(mean(w^2) + var(b)) are what
    the mean and the deviation of w z + b come to over many dims, and put it back.
    """
    check(1 <= stack <= MAX_FFN_STACK, f"a layer has 1 to {MAX_FFN_STACK} cells, got {stack}")
    layers = (replace(x, ffn_stack=max(stack, x.ffn_stack)) for x in source.shape.layers)
    net = Supernet(shape=replace(source.shape, layers=tuple(layers)), facts=source.facts)
    net.load_state_dict(source.state_dict(), strict=False)
    for mine, its in zip(net.encoder, source.encoder, strict=True):
        for cell in mine.stack[len(its.stack) :]:
            _pass_on(cell, after=its.stack[-1])
    return net.train(source.training)


def _pass_on(cell: FeedForward, *, after: FeedForward) -> None:
    cell.intermediate.load_state_dict(after.intermediate.state_dict())
    cell.output.weight.zero_()
    cell.output.bias.zero_()
    weight, bias = after.output_norm.weight, after.output_norm.bias
    cell.output_norm.weight.fill_((weight.square().mean() + bias.var(unbiased=False)).sqrt())
    cell.output_norm.bias.fill_(bias.mean())
