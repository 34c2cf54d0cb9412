from __future__ import annotations

import pytest
from transformers import BertConfig, BertForSequenceClassification

from supernet.facts import ModelFacts
from supernet.model import Supernet
from supernet.names import BERT
from supernet.space import SubnetConfig


def test_every_tensor_has_its_own_name_and_shape_in_stock_bert() -> None:
    config = BertConfig(
        vocab_size=100,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
        num_labels=3,
    )
    theirs = {name: p.shape for name, p in BertForSequenceClassification(config).named_parameters()}
    ours = Supernet(
        shape=SubnetConfig.uniform(hidden_size=16, depth=2, heads=2, ffn_size=24),
        facts=ModelFacts(vocab_size=100, max_position_embeddings=12, num_labels=3),
    )
    assert {BERT.of(name): p.shape for name, p in ours.named_parameters()} == theirs
    assert len(list(ours.named_parameters())) == len(theirs)


def test_layer_index_is_kept() -> None:
    assert BERT.of("layers.11.cells.0.output.bias") == "bert.encoder.layer.11.output.dense.bias"


@pytest.mark.parametrize(
    "name",
    [
        "layers.0.gate.weight",
        "layers.0.cells.1.output.bias",
        "layers.0.output.bias",
        "query.weight",
        "encoder.weight",
        "",
    ],
)
def test_unknown_name(name: str) -> None:
    with pytest.raises(KeyError):
        BERT.of(name)
