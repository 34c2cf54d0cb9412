from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from supernet.losses import (
    UNLABELLED,
    attention_kl,
    attention_mse,
    hard_label,
    hard_span,
    hard_tokens,
    hidden_mse,
    labelled,
    relation_kl,
    soft_label,
    soft_span,
    soft_tokens,
)

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


def test_attention_kl_by_hand() -> None:
    """Two kept keys: the teacher attends (3/4, 1/4), the student (1/2, 1/2); one kept key teaches nothing."""
    student, teacher = torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)
    teacher[0, 0, :2, 0] = math.log(3)
    student[:, :, :, 2] = teacher[:, :, 2] = 50.0  # what padding is asked and answers
    each = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert attention_kl(student, teacher, MASK).item() == pytest.approx(2 * each / 3)
    assert attention_kl(teacher, teacher, MASK).item() == pytest.approx(0.0, abs=1e-7)


def test_relation_kl_by_hand() -> None:
    """Vectors (1, 0) and (0, 2) of one head: products 1, 0, 0, 4 over sqrt(2)."""
    teacher = torch.zeros(2, 3, 2)
    teacher[0, 0, 0], teacher[0, 1, 1] = 1.0, 2.0
    student = torch.zeros(2, 3, 4)

    def against_even(product: float) -> float:
        p = 1 / (1 + math.exp(-product / math.sqrt(2)))
        return p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))

    wanted = (against_even(1.0) + against_even(4.0) + 0.0) / 3
    assert relation_kl(student, teacher, MASK, heads=1).item() == pytest.approx(wanted, rel=1e-5)


def test_relations_are_of_each_head_alone() -> None:
    student, teacher = random(2, 3, 8), random(2, 3, 12, seed=1)
    halves = [relation_kl(s, t, MASK, heads=1) for s, t in zip(student.chunk(2, -1), teacher.chunk(2, -1), strict=True)]
    torch.testing.assert_close(relation_kl(student, teacher, MASK, heads=2), torch.stack(halves).mean())
    with pytest.raises(ValueError, match="5 relation heads do not divide vectors of 8"):
        relation_kl(student, teacher, MASK, heads=5)


@pytest.mark.parametrize("turned", [False, True])
def test_relations_know_no_basis(turned: bool) -> None:
    """A rotation of all vectors of a head changes no product: any student of any width can learn them."""
    teacher = random(2, 3, 6)
    q, _ = torch.linalg.qr(random(6, 6, seed=3))
    student = teacher @ q if turned else torch.cat([teacher, torch.zeros(2, 3, 0)], -1)
    assert relation_kl(student, teacher, MASK, heads=1).item() == pytest.approx(0.0, abs=1e-6)


def test_padding_never_counts_in_a_divergence() -> None:
    scores, wanted = random(2, 4, 3, 3), random(2, 4, 3, 3, seed=1)
    pairs = MASK[:, None, :, None] * MASK[:, None, None, :]
    noise = random(2, 4, 3, 3, seed=2) * (1 - pairs) * 1e3
    assert attention_kl(scores + noise, wanted - noise, MASK) == attention_kl(scores, wanted, MASK)
    student, teacher = random(2, 3, 8), random(2, 3, 8, seed=1)
    tokens = random(2, 3, 8, seed=2) * (1 - MASK)[:, :, None] * 1e3
    plain = relation_kl(student, teacher, MASK, heads=4)
    assert relation_kl(student + tokens, teacher - tokens, MASK, heads=4) == plain
    held = student.clone().requires_grad_()
    relation_kl(held, teacher, MASK, heads=4).backward()
    assert torch.isfinite(held.grad).all()
    assert held.grad[MASK == 0].abs().max() == 0


def test_a_student_of_fewer_heads_attends_as_the_teachers_first() -> None:
    scores = random(2, 4, 3, 3)
    assert attention_kl(scores[:, :2], scores, MASK).item() == pytest.approx(0.0, abs=1e-7)
    assert attention_kl(scores[:, 2:], scores, MASK) > 0


def test_soft_labels_are_not_divided_by_the_number_of_labels() -> None:
    """Of k equal labels the cross-entropy is log k, however many they are."""
    for count in (2, 3, 77, 1000):
        even = torch.zeros(4, count)
        assert soft_label(even, even).item() == pytest.approx(math.log(count), rel=1e-5)


def test_hard_tokens_by_hand() -> None:
    """Three labelled tokens: (3/4, 1/4) right and wrong, and an even one; what has no label says nothing."""
    logits = torch.full((2, 3, 2), 50.0)
    logits[0, 0] = logits[0, 1] = torch.tensor([math.log(3), 0.0])
    logits[1, 0] = 0.0
    labels = torch.tensor([[0, 1, UNLABELLED], [1, UNLABELLED, UNLABELLED]])
    wanted = (-math.log(0.75) - math.log(0.25) + math.log(2)) / 3
    assert hard_tokens(logits, labels).item() == pytest.approx(wanted)
    held = logits.clone().requires_grad_()
    hard_tokens(held, labels).backward()
    assert torch.equal(held.grad.abs().sum(-1) > 0, labels != UNLABELLED)
    chosen = labels != UNLABELLED  # what `Supernet.forward` answers where it is asked for these tokens only
    assert hard_tokens(logits[chosen], labels[chosen]) == hard_tokens(logits, labels)


def test_soft_tokens_by_hand() -> None:
    student, teacher = torch.full((2, 3, 2), 50.0), torch.zeros(2, 3, 2)
    student[0, 0] = student[0, 1] = student[1, 0] = 0.0
    student[0, 1, 0] = math.log(3)
    teacher[:, :, 0] = math.log(3)
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert soft_tokens(student, teacher, MASK).item() == pytest.approx((math.log(2) + entropy + math.log(2)) / 3)
    assert soft_tokens(student[:, :2], teacher[:, :2], MASK[:, :2]) == soft_tokens(student, teacher, MASK)
    halves = soft_tokens(2 * student, 2 * teacher, MASK, temperature=2.0)
    assert halves.item() == pytest.approx(4 * soft_tokens(student, teacher, MASK).item())


def test_no_token_no_loss() -> None:
    logits = random(2, 3, 4).requires_grad_()
    none = torch.full((2, 3), UNLABELLED)
    for loss in (hard_tokens(logits, none), soft_tokens(logits, logits.detach(), none != UNLABELLED)):
        assert loss == 0
        loss.backward()
        assert (logits.grad == 0).all()


def test_hard_span_by_hand() -> None:
    """The first text has two positions, the second one: padding is no place to start."""
    logits = torch.full((2, 3, 2), 50.0)
    logits[0, :2, 0] = torch.tensor([math.log(3), 0.0])  # starts at 0 with 3/4
    logits[0, :2, 1] = 0.0
    logits[1, 0] = -9.0
    labels = torch.tensor([[0, 1], [0, 0]])
    wanted = ((-math.log(0.75) + math.log(2)) / 2 + 0.0) / 2
    assert hard_span(logits, labels, MASK).item() == pytest.approx(wanted)


def test_soft_span_by_hand() -> None:
    student, teacher = torch.full((2, 3, 2), 50.0), torch.full((2, 3, 2), -50.0)
    student[0, :2] = teacher[0, :2] = 0.0
    teacher[0, 0, 0] = math.log(3)  # starts at 0 with 3/4, ends anywhere
    wanted = ((math.log(2) + math.log(2)) / 2 + 0.0) / 2
    assert soft_span(student, teacher, MASK).item() == pytest.approx(wanted)
    swapped = student.clone()
    swapped[0, 1, 0] = math.log(3)
    crossed = -0.75 * math.log(0.25) - 0.25 * math.log(0.75)
    assert soft_span(swapped, teacher, MASK).item() == pytest.approx((crossed + math.log(2)) / 4)
    held = random(2, 3, 2).requires_grad_()
    soft_span(held, teacher, MASK).backward()
    assert (held.grad[MASK == 0] == 0).all()
    assert torch.isfinite(held.grad).all()


def test_which_rows_have_a_label() -> None:
    assert labelled(torch.tensor([0, UNLABELLED, 2])).tolist() == [True, False, True]
    assert labelled(torch.tensor([0.5, math.nan])).tolist() == [True, False]
    tokens = torch.tensor([[0, UNLABELLED, 1], [UNLABELLED] * 3])
    assert labelled(tokens).tolist() == [True, False]
    assert labelled(torch.tensor([[3, 4], [UNLABELLED, UNLABELLED]])).tolist() == [True, False]
