"""Cells against plain modules written by hand: what an expression says is what torch computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from supernet.cells import PLAIN, Cell
from supernet.layer import SupernetLayer, compute
from supernet.model import Supernet
from supernet.published import EFFICIENTBERT_CELLS
from supernet.space import LayerConfig, SubnetConfig

Make = Callable[..., Any]


class Written(nn.Module):
    """A feed-forward cell of fixed sizes; each subclass says what it computes."""

    def __init__(self, n: int, f: int) -> None:
        super().__init__()
        self.n, self.f = n, f
        self.linear1, self.linear2 = nn.Linear(n, f), nn.Linear(f, n)


class First(Written):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear2(nn.GELU()(self.linear1(x))))


class Second(Written):
    def forward(self, x: Tensor) -> Tensor:
        return nn.ELU()(self.linear2(nn.GELU()(self.linear1(x))))


class Third(Written):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear2(self.linear1(x).clamp(min=0))
        return 1 / (1 + torch.exp(-y))


class Fourth(Written):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear2(nn.GELU()(self.linear1(torch.maximum(x, torch.tanh(x)))))
        return y


class Fifth(Written):
    """EfficientBERT drops the last dims of the wider operand."""

    def forward(self, x: Tensor) -> Tensor:
        grown = self.linear1(x)
        gate = torch.zeros_like(grown)
        for i in range(min(self.n, self.f)):
            gate[..., i] = x[..., i]
        y: Tensor = self.linear2(nn.ReLU()(grown * gate))
        return y


class Sixth(Written):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear2(nn.GELU()(self.linear1(x)))
        return torch.where(y > 0, y, 0.01 * y)


class Gated(Written):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear2(nn.SiLU()(self.linear1(x + x * x)))
        return torch.sigmoid(x) * y + x


CASES: list[tuple[Cell, type[Written]]] = [
    *zip(EFFICIENTBERT_CELLS, (First, Second, Third, Fourth, Fifth, Sixth), strict=True),
    (Cell("add(mul(sigmoid(x), linear2(swish(linear1(add(mul(x, x), x))))), x)"), Gated),
]


@torch.no_grad()
@pytest.mark.parametrize(("n", "f"), [(12, 7), (12, 12), (7, 12), (1, 1)])
@pytest.mark.parametrize(("cell", "kind"), CASES, ids=lambda x: x.text if isinstance(x, Cell) else "")
def test_a_cell_computes_what_the_plain_module_computes(
    randomise: Make, cell: Cell, kind: type[Written], n: int, f: int
) -> None:
    """Cut from a larger layer: the module holds the first rows and columns."""
    layer = SupernetLayer(16, LayerConfig(source=0, heads=2, head_size=4, ffn_size=20, ffn_stack=2), 1e-12).double()
    randomise(layer)
    plain, x = kind(n, f).double(), torch.randn(3, 5, n, generator=torch.Generator().manual_seed(1)).double() * 2
    whole = layer.stack[1]
    for mine, its in ((plain.linear1, whole.intermediate), (plain.linear2, whole.output)):
        rows, columns = mine.weight.shape
        mine.weight.copy_(its.weight[:rows, :columns])
        mine.bias.copy_(its.bias[:rows])
    found = compute(cell, x, whole.weights(n, f))
    torch.testing.assert_close(found, plain(x), rtol=1e-12, atol=1e-13)
    assert found.std() > 0


@torch.no_grad()
def test_residual_and_layer_norm_stand_around_each_stacked_cell(
    make_supernet: Make, make_batch: Make, stacked: SubnetConfig
) -> None:
    model, batch = make_supernet(shape=stacked).double(), make_batch(3, 7)
    cell = Cell("max(linear2(relu(linear1(x))), tanh(x))")
    sizes = {"hidden_size": 30, "depth": 1, "heads": 3, "head_size": 7, "ffn_size": 21, "sources": [3]}
    one, three = (
        model(**batch, subnet=SubnetConfig.uniform(**sizes, ffn_stack=k, cell=cell), hidden_states=True).hidden_states[
            1
        ]
        for k in (1, 3)
    )
    for each in model.encoder[3].stack[1:3]:
        w = each.weights(30, 21)
        grown = functional.linear(functional.relu(functional.linear(one, *w.intermediate)), *w.output)
        one = one + torch.maximum(grown, torch.tanh(one))
        one = functional.layer_norm(one, (30,), *w.output_norm, eps=model.facts.layer_norm_eps)
    torch.testing.assert_close(three, one, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_the_same_weights_answer_otherwise_under_another_cell(make_supernet: Make, make_batch: Make) -> None:
    model, batch = make_supernet(), make_batch()
    sizes = {"hidden_size": 30, "depth": 2, "heads": 3, "head_size": 7, "ffn_size": 21}
    cells = [PLAIN, Cell("relu"), Cell("linear2(linear1(x))"), Cell("add(linear2(gelu(linear1(x))), x)")]
    answers = [model(**batch, subnet=SubnetConfig.uniform(**sizes, cell=cell)).logits for cell in cells]
    for i, a in enumerate(answers):
        assert all(not torch.allclose(a, b, atol=1e-3) for b in answers[:i])


def test_gradients_reach_both_linears_of_any_cell(make_supernet: Make, make_batch: Make, shape: SubnetConfig) -> None:
    for cell, _ in CASES:
        model: Supernet = make_supernet()
        sizes = {"hidden_size": 48, "depth": 4, "heads": 4, "ffn_size": 40}
        model(**make_batch(), subnet=SubnetConfig.uniform(**sizes, cell=cell)).logits.square().sum().backward()
        for layer in model.encoder[:-1]:
            for linear in (layer.stack[0].intermediate, layer.stack[0].output):
                assert linear.weight.grad is not None
                assert linear.weight.grad.abs().sum() > 0
