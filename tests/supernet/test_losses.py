from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from supernet.losses import (
    LossWeights,
    attention_mse,
    distillation_loss,
    hard_label,
    hidden_mse,
    soft_label,
    stands_in_for,
)
from supernet.model import Supernet, SupernetOutput
from supernet.space import SubnetConfig

Make = Callable[..., Any]

MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_soft_label_by_hand() -> None:
    student, teacher = torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])
    assert soft_label(student, teacher).item() == pytest.approx(math.log(2))
    # a teacher of (3/4, 1/4) against a student of (1/4, 3/4)
    swapped = teacher.flip(-1)
    wanted = -0.75 * math.log(0.25) - 0.25 * math.log(0.75)
    assert soft_label(swapped, teacher).item() == pytest.approx(wanted)
    # temperature 2 flattens log 9 to log 3, and is paid back squared
    assert soft_label(2 * swapped, 2 * teacher, temperature=2.0).item() == pytest.approx(4 * wanted)
    two = soft_label(torch.cat([student, swapped]), torch.cat([teacher, teacher]))
    assert two.item() == pytest.approx((math.log(2) + wanted) / 2)


def test_soft_label_is_least_at_the_teacher() -> None:
    teacher = random(5, 4)
    student = teacher.clone().requires_grad_()
    soft_label(student, teacher, temperature=3.0).backward()
    assert student.grad.abs().max() < 1e-7


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_soft_label_gradient(temperature: float) -> None:
    """T (softmax(s/T) - softmax(t/T)) / B: squaring T keeps it of the size that a hard label gives."""
    student, teacher = random(5, 4).requires_grad_(), random(5, 4, seed=1)
    soft_label(student, teacher, temperature=temperature).backward()
    difference = (student.detach() / temperature).softmax(-1) - (teacher / temperature).softmax(-1)
    torch.testing.assert_close(student.grad, temperature * difference / 5)


def test_a_regression_head_gets_squared_errors() -> None:
    student = torch.tensor([[1.0], [4.0]])
    assert soft_label(student, torch.tensor([[0.0], [2.0]]), temperature=7.0).item() == pytest.approx(2.5)
    assert hard_label(student, torch.tensor([3.0, 3.0])).item() == pytest.approx(2.5)
    assert hard_label(student, torch.tensor([3.0, 3.0], dtype=torch.float64)).dtype == torch.float32


def test_hard_label_by_hand() -> None:
    logits = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
    wanted = (-math.log(0.25) + math.log(2)) / 2
    assert hard_label(logits, torch.tensor([1, 0])).item() == pytest.approx(wanted)


def test_hidden_mse_by_hand() -> None:
    student = torch.zeros(2, 3, 2)
    teacher = torch.tensor([[[1.0, 3.0], [2.0, 0.0], [9.0, 9.0]], [[0.0, 4.0], [9.0, 9.0], [9.0, 9.0]]])
    # kept tokens: (1 + 9)/2 = 5, (4 + 0)/2 = 2, (0 + 16)/2 = 8; their mean is 5
    assert hidden_mse(student, teacher, MASK).item() == pytest.approx(5.0)


def test_attention_mse_by_hand() -> None:
    student, teacher = torch.zeros(2, 1, 3, 3), torch.full((2, 1, 3, 3), 9.0)
    teacher[0, 0, :2, :2] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    teacher[1, 0, 0, 0] = 0.0
    # five pairs of kept tokens: 1, 4, 9, 16 and 0
    assert attention_mse(student, teacher, MASK).item() == pytest.approx(6.0)


def test_a_smaller_student_is_held_to_the_teachers_first_dims_and_heads() -> None:
    teacher = random(2, 3, 8)
    assert hidden_mse(teacher[..., :5], teacher, MASK) == 0
    assert hidden_mse(teacher[..., 3:], teacher, MASK) > 0
    scores = random(2, 4, 3, 3)
    assert attention_mse(scores[:, :2], scores, MASK) == 0
    assert attention_mse(scores[:, 2:], scores, MASK) > 0


def test_padding_never_counts() -> None:
    student, teacher = random(2, 3, 8), random(2, 3, 8, seed=1)
    noise = random(2, 3, 8, seed=2) * (1 - MASK)[:, :, None] * 1e3
    assert hidden_mse(student + noise, teacher - noise, MASK) == hidden_mse(student, teacher, MASK)
    scores, wanted = random(2, 4, 3, 3), random(2, 4, 3, 3, seed=1)
    pairs = MASK[:, None, :, None] * MASK[:, None, None, :]
    noise = random(2, 4, 3, 3, seed=2) * (1 - pairs) * 1e3
    assert attention_mse(scores + noise, wanted - noise, MASK) == attention_mse(scores, wanted, MASK)


def test_padding_gets_no_gradient_and_every_kept_token_does() -> None:
    student = random(2, 3, 8).requires_grad_()
    hidden_mse(student, random(2, 3, 8, seed=1), MASK).backward()
    assert torch.equal((student.grad.abs().sum(-1) > 0).long(), MASK)
    scores = random(2, 4, 3, 3).requires_grad_()
    attention_mse(scores, random(2, 4, 3, 3, seed=1), MASK).backward()
    assert torch.equal((scores.grad.abs().sum(1) > 0).long(), MASK[:, :, None] * MASK[:, None, :])


@pytest.mark.parametrize(
    ("sources", "targets"),
    [([0, 1, 2, 3], [0, 1, 2, 3]), ([0, 3], [2, 3]), ([1, 2], [1, 3]), ([0], [3]), ([3], [3]), ([0, 2], [1, 3])],
)
def test_a_kept_layer_stands_in_for_the_dropped_ones_after_it(sources: list[int], targets: list[int]) -> None:
    subnet = SubnetConfig.uniform(hidden_size=8, depth=len(sources), heads=2, ffn_size=8, sources=sources)
    assert stands_in_for(subnet, 4) == targets


def outputs(model: Supernet, batch: dict[str, Tensor], subnet: SubnetConfig | None = None) -> SupernetOutput:
    output: SupernetOutput = model(**batch, subnet=subnet, hidden_states=True, attention_scores=True)
    return output


def test_the_sum_is_weighted_and_a_term_of_weight_0_is_not_computed(make_supernet: Make, make_batch: Make) -> None:
    model, batch = make_supernet(), make_batch()
    mask, labels = batch["attention_mask"], torch.tensor([0, 1, 2, 0])
    subnet = SubnetConfig.uniform(hidden_size=30, depth=2, heads=3, head_size=7, ffn_size=21, sources=[0, 2])
    teacher, student = outputs(model, batch), outputs(model, batch, subnet)

    def loss(**terms: float) -> float:
        weights = LossWeights(**({"soft_label": 0.0, "hidden": 0.0, "attention": 0.0} | terms))
        asked = SupernetOutput(
            logits=student.logits,
            hidden_states=student.hidden_states if "hidden" in terms else (),
            attention_scores=student.attention_scores if "attention" in terms else (),
        )
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
    ],
)
def test_weights_that_make_no_loss_are_refused(terms: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossWeights(**terms)
