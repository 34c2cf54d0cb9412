"""The sum of losses that a student is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from supernet.layer_map import LayerMap
from supernet.losses import (
    UNLABELLED,
    attention_kl,
    attention_mse,
    hard_label,
    hard_span,
    hard_tokens,
    hidden_mse,
    relation_kl,
    soft_label,
    soft_span,
    soft_tokens,
)
from supernet.model import Supernet, SupernetOutput
from supernet.objective import (
    LossWeights,
    Paired,
    Questions,
    Shares,
    distillation_loss,
    paired,
    paired_in_place,
    weighted_sum,
)
from supernet.projection import Projector
from supernet.space import SubnetConfig

Make = Callable[..., Any]


def outputs(model: Supernet, batch: dict[str, Tensor], subnet: SubnetConfig | None = None) -> SupernetOutput:
    output: SupernetOutput = model(**batch, subnet=subnet, hidden_states=True, attention_scores=True, projections=True)
    return output


def test_the_sum_is_weighted_and_a_term_of_weight_0_is_not_computed(make_supernet: Make, make_batch: Make) -> None:
    model, batch = make_supernet(), make_batch()
    mask, labels = batch["attention_mask"], torch.tensor([0, 1, 2, 0])
    subnet = SubnetConfig.uniform(hidden_size=30, depth=2, heads=3, head_size=7, ffn_size=21, sources=[0, 2])
    teacher, student = outputs(model, batch), outputs(model, batch, subnet)

    def loss(**terms: float) -> float:
        weights = LossWeights(**({"soft_label": 0.0, "hidden": 0.0, "attention": 0.0} | terms))
        asked: SupernetOutput = model(**batch, subnet=subnet, **weights.asks)
        total = distillation_loss(
            asked, teacher, subnet=subnet, teacher_depth=4, mask=mask, weights=weights, labels=labels
        )
        return total.item()

    # the layers kept are 0 and 2: they stand in for the teacher's 1 and 3 but attend as its 0 and 2
    hidden = [hidden_mse(student.hidden_states[i + 1], teacher.hidden_states[j + 1], mask) for i, j in ((0, 1), (1, 3))]
    attention = [
        attention_mse(student.attention_scores[i], teacher.attention_scores[j], mask) for i, j in ((0, 0), (1, 2))
    ]
    soft = soft_label(student.logits, teacher.logits, temperature=2.0).item()
    hard = hard_label(student.logits, labels).item()
    assert loss(soft_label=1.0, temperature=2.0) == pytest.approx(soft)
    assert loss(hard_label=1.0) == pytest.approx(hard)
    assert loss(hidden=1.0) == pytest.approx((hidden[0] + hidden[1]).item() / 2)
    assert loss(attention=1.0) == pytest.approx((attention[0] + attention[1]).item() / 2)
    kl = [attention_kl(student.attention_scores[i], teacher.attention_scores[j], mask) for i, j in ((0, 0), (1, 2))]
    assert loss(attention_kl=1.0) == pytest.approx((kl[0] + kl[1]).item() / 2)
    embedding = hidden_mse(student.hidden_states[0], teacher.hidden_states[0], mask)
    assert loss(embedding=1.0) == pytest.approx(embedding.item())
    # 21 dims of the student and 44 of the teacher have no common part: one relation head
    pairs = zip(student.projections[-1], teacher.projections[-1], strict=True)
    relations = [relation_kl(x, y, mask, heads=math.gcd(12, 21, y.shape[-1])).item() for x, y in pairs]
    assert loss(relations=1.0) == pytest.approx(sum(relations) / 3)
    total = loss(soft_label=3.0, hidden=0.5, attention=0.25, hard_label=2.0, temperature=2.0)
    parts = 3 * soft + 0.5 * loss(hidden=1.0) + 0.25 * loss(attention=1.0) + 2 * hard
    assert total == pytest.approx(parts, rel=1e-5)


def test_the_whole_network_is_its_own_perfect_student(make_supernet: Make, make_batch: Make) -> None:
    model, batch = make_supernet(), make_batch()
    output = outputs(model, batch)
    weights = LossWeights(soft_label=0.0, hidden=1.0, attention=1.0)
    loss = distillation_loss(
        output, output, subnet=model.shape, teacher_depth=4, mask=batch["attention_mask"], weights=weights
    )
    assert loss == 0


def test_more_padding_changes_no_distillation_loss(make_supernet: Make, make_batch: Make, draw_subnet: Make) -> None:
    model, batch = make_supernet(), make_batch(4, 9)
    wider = {name: torch.nn.functional.pad(ids, (0, 6)) for name, ids in batch.items()}
    for seed in range(5):
        subnet = draw_subnet(seed)
        losses = []
        for inputs in (batch, wider):
            losses.append(
                distillation_loss(
                    outputs(model, inputs, subnet),
                    outputs(model, inputs),
                    subnet=subnet,
                    teacher_depth=4,
                    mask=inputs["attention_mask"],
                    weights=LossWeights(),
                )
            )
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"soft_label": 0.0, "hidden": 0.0, "attention": 0.0}, "one of them positive"),
        ({"hidden": -0.5}, "0 or more"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"relation_heads": 0}, "relation_heads must be 1 or more"),
    ],
)
def test_weights_that_make_no_loss_are_refused(terms: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossWeights(**terms)


ONLY = {"soft_label": 0.0, "hidden": 0.0, "attention": 0.0}


@pytest.fixture
def small(make_supernet: Make) -> Supernet:
    """A network of another width, depth and number of heads: a cut of nothing."""
    shape = SubnetConfig.uniform(hidden_size=20, depth=2, heads=5, head_size=4, ffn_size=16)
    found: Supernet = make_supernet(3, shape=shape)
    return found


def test_a_projection_and_a_map_compare_any_two_networks(
    make_supernet: Make, small: Supernet, make_batch: Make
) -> None:
    teacher, batch = make_supernet(), make_batch()
    mask = batch["attention_mask"]
    wanted, got = outputs(teacher, batch), outputs(small, batch)
    for shared, count in ((True, 1), (False, 3)):
        projector = Projector(student_size=20, teacher_size=48, depth=2, shared=shared, seed=0)
        assert len(projector.maps) == count
        maps = [projector.maps[0 if shared else m] for m in range(3)]
        pairs = {"uniform": [(1, 2), (2, 4)], "last": [(2, 4)]}
        for name, expected in pairs.items():
            loss = distillation_loss(
                got, wanted, subnet=small.shape, teacher_depth=4, mask=mask, layer_map=LayerMap(name),  # type: ignore[arg-type]
                weights=LossWeights(**ONLY | {"hidden": 2.0, "embedding": 3.0}), project=projector,
            )  # fmt: skip
            by_hand = [hidden_mse(maps[m](got.hidden_states[m]), wanted.hidden_states[t], mask) for m, t in expected]
            embedding = hidden_mse(maps[0](got.hidden_states[0]), wanted.hidden_states[0], mask)
            torch.testing.assert_close(loss, 2 * torch.stack(by_hand).mean() + 3 * embedding)


def test_a_projector_starts_near_the_identity_and_follows_from_its_seed() -> None:
    one, same, other = (Projector(student_size=6, teacher_size=9, depth=2, shared=False, seed=i) for i in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.maps[0].weight, other.maps[0].weight)
    assert (one.maps[1].weight - torch.eye(9, 6)).abs().max() < 0.1
    assert (one.maps[1].weight[7:] != 0).all()
    state = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))  # a narrower subnet
    wider = torch.nn.functional.pad(state, (0, 2))
    torch.testing.assert_close(one(state, 1), one(wider, 1))


def test_relations_are_of_the_last_pair(make_supernet: Make, small: Supernet, make_batch: Make) -> None:
    teacher, batch = make_supernet(), make_batch()
    mask, wanted, got = batch["attention_mask"], outputs(teacher, batch), outputs(small, batch)
    loss = distillation_loss(
        got, wanted, subnet=small.shape, teacher_depth=4, mask=mask, layer_map=LayerMap((0, 3)),
        weights=LossWeights(**ONLY | {"relations": 1.0}, relation_heads=4),
    )  # fmt: skip
    pairs = zip(got.projections[1], wanted.projections[2], strict=True)
    torch.testing.assert_close(loss, torch.stack([relation_kl(x, y, mask, heads=4) for x, y in pairs]).mean())


@pytest.mark.parametrize("head", ["token", "span", "mlm"])
def test_answers_of_other_heads(make_supernet: Make, make_batch: Make, facts: Any, head: Any) -> None:
    """By the losses of `supernet.losses`, padding and what has no label left out."""
    facts = replace(facts, head=head, num_labels=2)
    student, teacher, batch = make_supernet(1, facts=facts), make_supernet(2, facts=facts), make_batch()
    mask = batch["attention_mask"]
    tokens = torch.where(mask == 1, torch.arange(36).view(4, 9) % 2, UNLABELLED)
    labels = torch.zeros(4, 2, dtype=torch.long) if head == "span" else tokens
    labels[2] = UNLABELLED
    mine, its = student(**batch).logits, teacher(**batch).logits
    weights = LossWeights(**ONLY | {"soft_label": 1.0, "temperature": 2.0}, hard_label=0.0 if head == "mlm" else 3.0)
    asked = Questions(mask=mask, weights=weights, labels=labels, head=head)
    found = weighted_sum(asked, SupernetOutput(logits=mine), SupernetOutput(logits=its), pairs=Paired((), ()))
    known = torch.tensor([True, True, False, True])
    if head == "span":
        wanted = soft_span(mine, its, mask, temperature=2.0) + 3 * hard_span(mine[known], labels[known], mask[known])
    else:
        wanted = soft_tokens(mine, its, mask, temperature=2.0)
        wanted = wanted + (3 * hard_tokens(mine, labels) if head == "token" else 0)
    torch.testing.assert_close(found, wanted)


def test_masked_words_are_all_that_a_head_of_words_answers(make_supernet: Make, make_batch: Make, facts: Any) -> None:
    facts = replace(facts, head="mlm")
    student, teacher, batch = make_supernet(1, facts=facts), make_supernet(2, facts=facts), make_batch()
    mask = batch["attention_mask"]
    words = torch.where((torch.arange(9) % 3 == 0) & (mask == 1), batch["input_ids"], UNLABELLED)
    at = words != UNLABELLED
    weights = LossWeights(**ONLY | {"soft_label": 2.0}, mlm=1.0)
    every, few = (
        weighted_sum(
            Questions(mask=mask, weights=weights, words=words, head="mlm", at=chosen),
            student(**batch, at=chosen),
            teacher(**batch, at=chosen),
            pairs=Paired((), ()),
        )
        for chosen in (None, at)
    )
    torch.testing.assert_close(every, few)
    mine, its = student(**batch).logits[at], teacher(**batch).logits[at]
    wanted = torch.nn.functional.cross_entropy(mine, words[at]) + 2 * soft_label(mine, its)
    torch.testing.assert_close(few, wanted)


def test_shares_weigh_each_mean_by_what_it_is_over(make_supernet: Make, make_batch: Make) -> None:
    teacher, student, batch = make_supernet(), make_supernet(1), make_batch()
    wanted, got = outputs(teacher, batch), outputs(student, batch)
    labels = torch.tensor([0, 1, 2, 0])
    shares = Shares(rows=2.0, labelled=3.0, tokens=5.0, token_pairs=7.0, words=11.0)
    over = {
        "soft_label": 2.0, "hard_label": 3.0, "hidden": 5.0, "embedding": 5.0, "attention_kl": 5.0, "relations": 5.0,
        "attention": 7.0,
    }  # fmt: skip
    for term, factor in over.items():
        asked = Questions(mask=batch["attention_mask"], weights=LossWeights(**ONLY | {term: 1.0}), labels=labels)
        pairs = paired(LayerMap(), student.shape, 4)
        plain = weighted_sum(asked, got, wanted, pairs=pairs)
        assert plain > 0
        torch.testing.assert_close(
            weighted_sum(replace(asked, shares=shares), got, wanted, pairs=pairs), factor * plain
        )


def subnet_of(*sources: int) -> SubnetConfig:
    return SubnetConfig.uniform(hidden_size=8, depth=len(sources), heads=2, ffn_size=8, sources=sources)


@pytest.mark.parametrize(
    ("names", "mine", "largest", "hidden", "attention"),
    [
        ("span", (0, 2), (0, 1, 2, 3), ((1, 2), (2, 4)), ((1, 1), (2, 3))),  # as of the full teacher
        ("span", (1, 3), (0, 1, 3), ((1, 2), (2, 3)), ((1, 2), (2, 3))),  # 2 is missing: 1 stands for it
        ("span", (0, 2), (1, 2, 3), ((1, 1), (2, 3)), ((2, 2),)),  # 0 is missing and attends for nobody
        ("span", (3,), (0, 1), ((1, 2),), ()),
        ("uniform", (0, 3), (0, 1, 2, 3), ((1, 2), (2, 4)), ((1, 2), (2, 4))),
        ("last", (0, 3), (0, 1, 2), ((2, 3),), ((2, 3),)),
        ((2, 0, 6, 8), (0, 1, 3), (0, 1, 2, 3), ((1, 1), (3, 4)), ((1, 1), (3, 4))),  # same source, same teacher
        ((2, 4, 6, 8), (1, 2), (0, 2, 3), ((1, 1), (2, 2)), ((2, 2),)),
    ],
)
def test_pairs_within_a_supernet(names: Any, mine: Any, largest: Any, hidden: Any, attention: Any) -> None:
    assert paired_in_place(LayerMap(names), subnet_of(*mine), subnet_of(*largest)) == Paired(hidden, attention)


def test_a_subnet_copies_the_largest_perfectly_where_it_is_the_largest(make_supernet: Make, make_batch: Make) -> None:
    model, batch = make_supernet(), make_batch()
    output = outputs(model, batch)
    weights = LossWeights(soft_label=0.0, hidden=1.0, attention=1.0, attention_kl=1.0, relations=1.0, embedding=1.0)
    for names in ("span", "uniform", "last", (2, 4, 9, 12)):
        pairs = paired_in_place(LayerMap(names), model.shape, model.shape)  # type: ignore[arg-type]
        assert pairs.hidden
        loss = weighted_sum(Questions(mask=batch["attention_mask"], weights=weights), output, output, pairs=pairs)
        assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_answers_of_spans_by_hand_and_nothing_of_padding() -> None:
    """Two texts, of three and of two tokens; what stands behind their end changes nothing, and learns nothing."""
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    student, teacher = torch.zeros(2, 4, 2), torch.zeros(2, 4, 2)
    teacher[0, 1, 0] = math.log(2)  # starts at 1 with a half, ends anywhere in three
    student[1, 0, 1] = math.log(3)  # ends at 0 with three quarters; the teacher: anywhere in two
    thirds, halves = math.log(3), math.log(2)
    soft = ((thirds + thirds) + (halves - (math.log(0.75) + math.log(0.25)) / 2)) / 4
    labels = torch.tensor([[1, 2], [UNLABELLED, UNLABELLED]])

    def loss(at_student: float, at_teacher: float, **terms: float) -> Tensor:
        weights = LossWeights(**({"soft_label": 0.0, "hidden": 0.0, "attention": 0.0} | terms))
        asked = Questions(mask=mask, weights=weights, labels=labels, head="span")
        held, told = student.clone().requires_grad_(), teacher.clone()
        with torch.no_grad():
            held[mask == 0], told[mask == 0] = at_student, at_teacher
        found = weighted_sum(asked, SupernetOutput(logits=held), SupernetOutput(logits=told), pairs=Paired((), ()))
        found.backward()
        assert (held.grad[mask == 0] == 0).all()
        assert torch.isfinite(held.grad).all()
        return found.detach()

    for beside in ((0.0, 0.0), (60.0, -60.0), (-60.0, 60.0)):
        assert loss(*beside, soft_label=1.0).item() == pytest.approx(soft, rel=1e-5)
        assert loss(*beside, hard_label=2.0).item() == pytest.approx(2 * thirds, rel=1e-5)
