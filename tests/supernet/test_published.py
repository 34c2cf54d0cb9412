"""Published models have the parameters that their papers say."""

from __future__ import annotations

import pytest
import torch

from supernet.cost import encoder_parameters, head_parameters, linear_parameters, parameters
from supernet.facts import ModelFacts
from supernet.model import Supernet
from supernet.presets import preset
from supernet.published import EFFICIENTBERT_CELLS, PUBLISHED

BERT = ModelFacts(vocab_size=30_522, max_position_embeddings=512)


@pytest.mark.parametrize(
    ("name", "exact", "published"),
    [
        ("bert-base", 109_482_240, 109.5),
        ("tinybert4", 14_350_248, 14.4),
        ("tinybert6", 66_955_008, 67.0),
        ("autotinybert-s1", 29_573_882, 29.6),
        ("autotinybert-kd-s1", 29_585_252, 29.6),
        ("autotinybert-kd-s2", 14_222_712, 14.2),
        ("autotinybert-kd-s3", 11_763_620, 11.8),
        ("autotinybert-kd-s4", 9_791_360, 9.8),
        ("bert-tiny", 4_385_920, 4.4),
        ("bert-medium", 41_373_184, 41.4),
    ],
)
def test_encoders_with_their_pooler(name: str, exact: int, published: float) -> None:
    shape = PUBLISHED[name].shape
    n = shape.hidden_size
    counted = encoder_parameters(shape, PUBLISHED[name].facts(BERT)) + linear_parameters(n, n)
    assert counted == exact
    assert round(counted / 1e6, 1) == published
    assert parameters(shape, BERT) == counted + linear_parameters(n, 2)


def test_tinybert4_counts_what_fits_it_to_its_teacher() -> None:
    """14.5 M in its paper: with the pooler and the projection of its hidden states to 768."""
    shape = PUBLISHED["tinybert4"].shape
    fitted = encoder_parameters(shape, BERT) + linear_parameters(312, 312) + linear_parameters(312, 768)
    assert fitted == 14_590_632
    assert int(fitted / 1e5) / 10 == 14.5


@pytest.mark.parametrize(
    ("name", "exact", "published"), [("efficientbert", 15_737_724, 15.74), ("efficientbert-tiny", 9_375_144, 9.38)]
)
def test_efficientbert_with_its_projection_and_without_a_pooler(name: str, exact: int, published: float) -> None:
    found = PUBLISHED[name]
    facts, n = found.facts(BERT), found.shape.hidden_size
    assert (facts.embedding, facts.embedding_size) == ("trigram", 128)
    counted = encoder_parameters(found.shape, facts) + linear_parameters(n, 768)
    assert counted == exact
    assert round(counted / 1e6, 2) == published
    with torch.device("meta"):
        net = Supernet(shape=found.shape, facts=facts)
    encoder = sum(p.numel() for name, p in net.named_parameters() if not name.startswith(("pooler", "classifier")))
    assert encoder + linear_parameters(n, 768) == exact
    assert sum(p.numel() for p in net.parameters()) == encoder + head_parameters(n, facts)


def test_efficientbert_s_cells_are_those_it_publishes() -> None:
    layers = PUBLISHED["efficientbert"].shape.layers
    assert [(x.ffn_stack, x.ffn_size) for x in layers] == [(4, 270), (2, 540), (1, 270), (2, 270), (1, 270), (2, 180)]
    assert tuple(x.cell for x in layers) == EFFICIENTBERT_CELLS
    space = preset("efficientbert")
    plain = PUBLISHED["efficientbert"].shape
    assert not space.contains(plain)  # its third stage searches widths and stacks, of one cell each layer
    tiny = PUBLISHED["efficientbert-tiny"].shape
    assert [x.ffn_size for x in tiny.layers] == [180, 360, 180, 180, 180, 120]
    assert (tiny.hidden_size, tiny.layers[0].qkv_size) == (360, 360)


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_is_a_network_of_its_own(name: str) -> None:
    found = PUBLISHED[name]
    assert found.shape == found.shape.renumbered()
    assert found.facts(BERT).vocab_size == BERT.vocab_size
    assert preset("autotinybert-kd").contains(found.shape) == (name.startswith("autotinybert-kd") or name in TWELVE)


TWELVE = ("tinybert4", "tinybert6", "minilm-l6")  # 12 heads of 26, 64 and 32, all layers alike, up to 8 of them
