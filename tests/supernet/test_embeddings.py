"""Projected embeddings by hand: factorised, and trigrams in which padding is nobody's neighbour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from supernet.embeddings import trigrams
from supernet.facts import ModelFacts
from supernet.model import Supernet

Make = Callable[..., Any]


@pytest.fixture
def projected(facts: ModelFacts) -> Callable[[str], ModelFacts]:
    return lambda kind: replace(facts, embedding=kind, embedding_size=10)  # type: ignore[arg-type]


@torch.no_grad()
@pytest.mark.parametrize("n", [48, 17])
@pytest.mark.parametrize("kind", ["factorised", "trigram"])
def test_each_token_is_embedded_as_written_out_by_hand(
    make_supernet: Make, make_batch: Make, projected: Make, draw_subnet: Make, kind: str, n: int
) -> None:
    model: Supernet = make_supernet(facts=projected(kind)).double()
    batch = make_batch(4, 9)
    subnet = replace(draw_subnet(1), hidden_size=n)
    found = model(**batch, subnet=subnet, hidden_states=True).hidden_states[0]
    word, norm = model.word_embeddings.weight, model.embedding_norm
    projection = model.embedding_projection
    assert projection is not None
    assert word.shape == (100, 10)
    assert projection.weight.shape == (48, 30 if kind == "trigram" else 10)
    zero = torch.zeros(10, dtype=torch.float64)
    for row in range(4):
        length = int(batch["attention_mask"][row].sum())
        vectors = [word[batch["input_ids"][row, i]] for i in range(length)]
        for i in range(length):
            parts = [vectors[i]]
            if kind == "trigram":
                parts = [vectors[i - 1] if i else zero, vectors[i], vectors[i + 1] if i + 1 < length else zero]
            x = projection.weight[:n] @ torch.cat(parts) + projection.bias[:n]
            x = x + model.position_embeddings.weight[i, :n]
            x = x + model.token_type_embeddings.weight[batch["token_type_ids"][row, i], :n]
            wanted = functional.layer_norm(x, (n,), norm.weight[:n], norm.bias[:n], eps=1e-12)
            torch.testing.assert_close(found[row, i], wanted, rtol=1e-11, atol=1e-12)


def test_trigrams_by_numbers() -> None:
    words = torch.arange(1.0, 7).view(1, 3, 2)
    found = trigrams(words, torch.ones(1, 3).long())
    assert found[0].tolist() == [[0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [3, 4, 5, 6, 0, 0]]
    found = trigrams(words, torch.tensor([[1, 1, 0]]))
    assert found[0, 1].tolist() == [1, 2, 3, 4, 0, 0]
    assert trigrams(words[:, :1], torch.ones(1, 1).long()).tolist() == [[[0, 0, 1, 2, 0, 0]]]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["factorised", "trigram"])
def test_law_4_holds_for_them(make_supernet: Make, make_batch: Make, projected: Make, kind: str) -> None:
    """Though the table's row of the padding is not zeros here."""
    model, batch = make_supernet(facts=projected(kind)), make_batch(5, 10)
    assert model.word_embeddings.weight[0].abs().max() > 0
    together = model(**batch).logits
    for row in range(5):
        length = int(batch["attention_mask"][row].sum())
        alone = {name: ids[row : row + 1, :length] for name, ids in batch.items()}
        torch.testing.assert_close(model(**alone).logits[0], together[row], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_neighbours_matter_to_trigrams_only(make_supernet: Make, projected: Make) -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    other, mask = ids.clone(), torch.ones_like(ids)
    other[0, 3] = 44
    moved = {}
    for kind in ("factorised", "trigram"):
        model = make_supernet(facts=projected(kind))
        a, b = (model(x, mask, hidden_states=True).hidden_states[0] for x in (ids, other))
        moved[kind] = [i for i in range(5) if not torch.allclose(a[0, i], b[0, i], atol=1e-5)]
    assert moved == {"factorised": [3], "trigram": [2, 3, 4]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"embedding": "trigram"},
        {"embedding": "factorised", "embedding_size": 0},
        {"embedding": "table", "embedding_size": 8},
    ],
)
def test_a_width_is_named_where_there_is_one(facts: ModelFacts, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="embedding_size is the width of a word table that is projected"):
        replace(facts, **wrong)
