"""The sum of losses that a student is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from supernet.losses import attention_kl, attention_mse, hard_label, hidden_mse, relation_kl, soft_label
from supernet.model import Supernet, SupernetOutput
from supernet.objective import LossWeights, distillation_loss, stands_in_for
from supernet.space import SubnetConfig

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("sources", "targets"),
    [([0, 1, 2, 3], [0, 1, 2, 3]), ([0, 3], [2, 3]), ([1, 2], [1, 3]), ([0], [3]), ([3], [3]), ([0, 2], [1, 3])],
)
def test_a_kept_layer_stands_in_for_the_dropped_ones_after_it(sources: list[int], targets: list[int]) -> None:
    subnet = SubnetConfig.uniform(hidden_size=8, depth=len(sources), heads=2, ffn_size=8, sources=sources)
    assert stands_in_for(subnet, 4) == targets


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
