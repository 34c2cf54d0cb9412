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
def test_parameters_are_those_of_the_slice(
    make_supernet: Make, draw_subnet: Make, stacked: SubnetConfig, seed: int
) -> None:
    model, subnet = make_supernet(shape=stacked), draw_subnet(seed, stacked)
    assert parameters(subnet, model.facts) == sum(p.numel() for p in model.slice(subnet).parameters())


@pytest.mark.parametrize(("labels", "types"), [(1, 1), (7, 2)])
def test_parameters_follow_the_facts(make_supernet: Make, shape: SubnetConfig, labels: int, types: int) -> None:
    facts = ModelFacts(vocab_size=50, max_position_embeddings=10, num_labels=labels, type_vocab_size=types)
    model = make_supernet(facts=facts)
    assert parameters(shape, facts) == sum(p.numel() for p in model.parameters())


def test_flops_scale_with_the_batch(shape: SubnetConfig) -> None:
    assert flops(shape, length=16, batch=8) == 8 * flops(shape, length=16)


@pytest.mark.parametrize("name", ["hidden_size", "heads", "head_size", "ffn_size", "ffn_stack", "depth"])
def test_flops_grow_with_every_dimension(name: str) -> None:
    sizes = {"hidden_size": 16, "depth": 2, "heads": 2, "head_size": 4, "ffn_size": 8, "ffn_stack": 1}
    small, large = SubnetConfig.uniform(**sizes), SubnetConfig.uniform(**(sizes | {name: sizes[name] + 1}))
    assert flops(small, length=16) < flops(large, length=16)
    assert flops(small, length=16) < flops(small, length=17)
    assert flops(small, length=16, num_labels=5) - flops(small, length=16) == 2 * 16 * 3


BERT = ModelFacts(vocab_size=30522, max_position_embeddings=512, num_labels=2)


@pytest.mark.parametrize(
    ("depth", "hidden", "heads", "head_size", "ffn", "exact", "published"),
    [
        (4, 312, 12, 26, 1200, 14_350_248, 14.5),  # TinyBERT4; its paper counts what fits it to the teacher's width too
        (5, 564, 12, 44, 1024, 29_585_252, 29.6),  # AutoTinyBERT-KD-S1
        (4, 256, 12, 16, 480, 9_791_360, 9.8),  # AutoTinyBERT-KD-S4
        (12, 768, 12, 64, 3072, 109_482_240, 109.5),  # BERT-base, as `transformers` counts it
    ],
)
def test_published_shapes_count_what_is_published(
    depth: int, hidden: int, heads: int, head_size: int, ffn: int, exact: int, published: float
) -> None:
    """Published counts are of the encoder: embeddings and pooler included, the classifier not."""
    subnet = SubnetConfig.uniform(hidden_size=hidden, depth=depth, heads=heads, head_size=head_size, ffn_size=ffn)
    encoder = parameters(subnet, BERT) - (hidden * BERT.num_labels + BERT.num_labels)
    assert encoder == exact
    assert encoder / 1e6 == pytest.approx(published, rel=0.012)
