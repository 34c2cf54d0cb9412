from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from supernet.facts import ModelFacts


def test_json_reads_back_to_an_equal_object() -> None:
    facts = ModelFacts(
        vocab_size=100,
        max_position_embeddings=24,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=3,
        num_labels=5,
    )
    for some in (facts, replace(facts, pooler_activation="relu")):
        again = ModelFacts.from_json(json.loads(json.dumps(some.to_json())))
        assert again == some
        assert hash(again) == hash(some)


def test_json_of_a_bert_is_what_it_was_before_there_were_other_poolers() -> None:
    """Checkpoints, dense folders and the keys of a search's store hold it."""
    data = ModelFacts(vocab_size=100, max_position_embeddings=24).to_json()
    assert "pooler_activation" not in data
    assert ModelFacts.from_json(data | {"pooler_activation": "tanh"}) == ModelFacts.from_json(data)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"pooler_activation": "sigmoid"}, "pooler_activation is one of tanh, relu, gelu, got 'sigmoid'"),
        ({"pad_token_id": 100}, "pad_token_id must be one of the 100 words, got 100"),
        ({"pad_token_id": -1}, "pad_token_id must be one of the 100 words, got -1"),
    ],
)
def test_values_that_are_none(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ModelFacts(**({"vocab_size": 100, "max_position_embeddings": 24} | change))


@pytest.mark.parametrize("name", ["vocab_size", "max_position_embeddings", "type_vocab_size", "num_labels"])
def test_sizes_must_be_positive(name: str) -> None:
    sizes = {"vocab_size": 100, "max_position_embeddings": 24}
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        ModelFacts(**(sizes | {name: 0}))


@pytest.mark.parametrize("change", [{"dropout": 0.1}, {"num_labels": None}])
def test_json_with_an_unknown_or_a_missing_field_is_refused(change: dict[str, float | None]) -> None:
    data = ModelFacts(vocab_size=100, max_position_embeddings=24).to_json()
    for name, value in change.items():
        if value is None:
            del data[name]
        else:
            data[name] = value
    with pytest.raises(ValueError, match="model facts are"):
        ModelFacts.from_json(data)
