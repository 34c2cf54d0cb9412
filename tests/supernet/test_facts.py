from __future__ import annotations

import json

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
    again = ModelFacts.from_json(json.loads(json.dumps(facts.to_json())))
    assert again == facts
    assert hash(again) == hash(facts)


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
