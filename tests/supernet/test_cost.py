"""Parameters are counted on slices here; operations on exported graphs in tests/atb_export/onnx/test_graph.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from supernet.cost import flops, parameters
from supernet.facts import ModelFacts
from supernet.space import SubnetConfig

Make = Callable[..., Any]


@pytest.mark.parametrize("seed", range(20))
def test_parameters_are_those_of_the_slice(make_supernet: Make, draw_subnet: Make, seed: int) -> None:
    model, subnet = make_supernet(), draw_subnet(seed)
    assert parameters(subnet, model.facts) == sum(p.numel() for p in model.slice(subnet).parameters())


@pytest.mark.parametrize(("labels", "types"), [(1, 1), (7, 2)])
def test_parameters_follow_the_facts(make_supernet: Make, shape: SubnetConfig, labels: int, types: int) -> None:
    facts = ModelFacts(vocab_size=50, max_position_embeddings=10, num_labels=labels, type_vocab_size=types)
    model = make_supernet(facts=facts)
    assert parameters(shape, facts) == sum(p.numel() for p in model.parameters())


def test_flops_scale_with_the_batch(shape: SubnetConfig) -> None:
    assert flops(shape, length=16, batch=8) == 8 * flops(shape, length=16)


@pytest.mark.parametrize("name", ["hidden_size", "heads", "head_size", "ffn_size", "depth"])
def test_flops_grow_with_every_dimension(name: str) -> None:
    sizes = {"hidden_size": 16, "depth": 2, "heads": 2, "head_size": 4, "ffn_size": 8}
    small, large = SubnetConfig.uniform(**sizes), SubnetConfig.uniform(**(sizes | {name: sizes[name] + 1}))
    assert flops(small, length=16) < flops(large, length=16)
    assert flops(small, length=16) < flops(small, length=17)
    assert flops(small, length=16, num_labels=5) - flops(small, length=16) == 2 * 16 * 3
