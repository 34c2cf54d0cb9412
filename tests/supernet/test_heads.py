"""Heads for tokens, spans and words: against `transformers`, and one encoder under another head."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from supernet.facts import Head, ModelFacts
from supernet.heads import head_axes
from supernet.model import Supernet
from supernet.space import SubnetConfig

Make = Callable[..., Any]
HEADS: tuple[Head, ...] = ("sequence", "token", "span", "mlm")


def under(facts: ModelFacts, head: Head, **changes: Any) -> ModelFacts:
    return replace(facts, head=head, num_labels=2 if head == "span" else facts.num_labels, **changes)


@torch.no_grad()
@pytest.mark.parametrize(("head", "labels"), [("token", 3), ("span", 2), ("mlm", 100)])
def test_a_head_of_tokens_answers_for_every_token(
    make_supernet: Make, make_batch: Make, facts: ModelFacts, head: Head, labels: int
) -> None:
    model, batch = make_supernet(facts=under(facts, head)).double(), make_batch(4, 9)
    output = model(**batch, hidden_states=True)
    assert output.logits.shape == (4, 9, labels) == (4, 9, model.facts.num_logits)
    last = output.hidden_states[-1]
    if head == "mlm":
        norm = nn.LayerNorm(48, eps=1e-12).double()
        norm.load_state_dict(model.transform_norm.state_dict())
        wanted = norm(nn.GELU()(model.transform(last))) @ model.word_embeddings.weight.T + model.word_bias
    else:
        wanted = model.classifier(last)
    torch.testing.assert_close(output.logits, wanted)


@torch.no_grad()
@pytest.mark.parametrize("embedding", ["table", "trigram"])
@pytest.mark.parametrize("head", ["token", "span", "mlm"])
def test_only_the_tokens_asked_for(
    make_supernet: Make, make_batch: Make, facts: ModelFacts, head: Head, embedding: Any
) -> None:
    size = {"embedding": embedding, "embedding_size": None if embedding == "table" else 10}
    model, batch = make_supernet(facts=under(facts, head, **size)), make_batch(4, 9)
    at = torch.rand(4, 9, generator=torch.Generator().manual_seed(0)) < 0.3
    found = model(**batch, at=at).logits
    assert found.shape == (int(at.sum()), model.facts.num_logits)
    torch.testing.assert_close(found, model(**batch).logits[at])
    assert model(**batch, at=torch.zeros_like(at)).logits.shape == (0, model.facts.num_logits)


def test_a_head_of_texts_answers_for_no_tokens(make_supernet: Make, make_batch: Make) -> None:
    with pytest.raises(ValueError, match="at names the tokens to answer for, and this model answers for whole texts"):
        make_supernet()(**make_batch(2, 5), at=torch.ones(2, 5).bool())


@torch.no_grad()
@pytest.mark.parametrize("old", HEADS)
@pytest.mark.parametrize("new", HEADS)
def test_another_head_on_the_same_encoder(
    make_supernet: Make, make_batch: Make, facts: ModelFacts, old: Head, new: Head
) -> None:
    model, batch = make_supernet(facts=under(facts, old)), make_batch(3, 8)
    before = copy.deepcopy(model.state_dict())
    other = model.with_head(new)
    assert other.facts == replace(facts, head=new, num_labels=2 if "span" in (old, new) else 3)
    assert (other.shape, other.training) == (model.shape, False)
    states = [x(**batch, hidden_states=True).hidden_states for x in (model, other)]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    fresh = head_axes(other.facts)
    for name, tensor in other.state_dict().items():
        if name in fresh:
            assert torch.isfinite(tensor).all()
            if tensor.dim() == 2:
                assert 0.01 < tensor.std() < 0.03
            else:
                assert set(tensor.tolist()) == {1.0 if name == "transform_norm.weight" else 0.0}
    assert all(p.requires_grad for p in other.parameters())
    for parameter in other.parameters():
        parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_new_head_follows_from_its_seed(make_supernet: Make) -> None:
    model = make_supernet()
    a, b, c = (model.with_head("sequence", num_labels=7, seed=seed) for seed in (1, 1, 2))
    assert a.facts.num_labels == 7
    assert a.classifier.weight.shape == (7, 48)
    assert torch.equal(a.classifier.weight, b.classifier.weight)
    assert not torch.equal(a.classifier.weight, c.classifier.weight)
    assert not torch.equal(a.classifier.weight[:3], model.classifier.weight)
    assert torch.equal(a.word_embeddings.weight, c.word_embeddings.weight)
    assert model.double().train().with_head("token").classifier.weight.dtype == torch.float64
    assert model.with_head("mlm").training


def test_the_word_table_learns_from_both_its_ends(make_supernet: Make, make_batch: Make, facts: ModelFacts) -> None:
    model = make_supernet(facts=under(facts, "mlm"))
    batch = make_batch(2, 6)
    unread = sorted(set(range(100)) - set(batch["input_ids"].flatten().tolist()))
    model(**batch).logits.square().sum().backward()
    assert model.word_embeddings.weight.grad[unread].abs().min() > 0
    names = {name for name, _ in model.named_parameters()}
    assert not names & {"pooler.weight", "classifier.weight"}
    assert {"transform.weight", "transform_norm.bias", "word_bias"} <= names


def test_facts_of_heads() -> None:
    facts = ModelFacts(vocab_size=9, max_position_embeddings=4, num_labels=5)
    assert (facts.num_logits, replace(facts, head="mlm").num_logits) == (5, 9)
    with pytest.raises(ValueError, match="a span has 2 labels, where it starts and where it ends; num_labels is 5"):
        replace(facts, head="span")
    with pytest.raises(ValueError, match="head is one of sequence, token, span, mlm, got 'word'"):
        replace(facts, head="word")  # type: ignore[arg-type]
    for some in (replace(facts, head="mlm"), replace(facts, embedding="trigram", embedding_size=3)):
        assert ModelFacts.from_json(some.to_json()) == some
    assert not {"head", "embedding", "embedding_size"} & set(facts.to_json())


@torch.no_grad()
def test_hidden_axes_name_every_parameter_outside_of_the_layers(
    make_supernet: Make, facts: ModelFacts, draw_subnet: Make
) -> None:
    """A slice is exactly shorter along them."""
    subnet: SubnetConfig = draw_subnet(2)
    for head in HEADS:
        for size in (None, 10):
            kind = {"embedding": "factorised" if size else "table", "embedding_size": size}
            model: Supernet = make_supernet(facts=under(facts, head, **kind))
            dense = model.slice(subnet)
            outside = {name for name, _ in model.named_parameters() if not name.startswith("layers.")}
            assert set(model.hidden_axes) == outside
            for name, axes in model.hidden_axes.items():
                whole, cut = model.get_parameter(name), dense.get_parameter(name)
                shape = [subnet.hidden_size if i in axes else size for i, size in enumerate(whole.shape)]
                assert list(cut.shape) == shape
                assert torch.equal(cut, whole[tuple(slice(size) for size in shape)])
