"""Metrics over a whole set of rows, held to their formulas written out."""

from __future__ import annotations

import math

import pytest
import torch

from supernet.errors import DataError
from supernet.metrics import (
    METRICS,
    Metrics,
    Runs,
    metric_error,
    metrics_of,
    over_runs,
    score,
    score_error,
)

LABELS = torch.tensor([1, 1, 1, 0, 0, 1, 0, 0])
ANSWERS = torch.tensor(
    [1, 0, 1, 0, 1, 1, 0, 0]
)  # 3 true positives, 1 false positive, 1 false negative, 3 true negatives
NUMBERS = torch.tensor([0.0, 1.0, 2.5, 5.0])
GUESSES = torch.tensor([[0.5], [0.4], [3.0], [9.0]])


def logits(answers: torch.Tensor, classes: int = 2) -> torch.Tensor:
    return torch.nn.functional.one_hot(answers, classes).float()


def test_each_by_its_formula() -> None:
    found = Metrics(names=("accuracy", "f1", "macro_f1", "matthews"))(logits(ANSWERS), LABELS)
    assert found["accuracy"] == 6 / 8
    assert found["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert found["macro_f1"] == pytest.approx((6 / 8 + 6 / 8) / 2)
    assert found["matthews"] == pytest.approx((3 * 3 - 1 * 1) / math.sqrt(4 * 4 * 4 * 4))
    x, y = NUMBERS.double() - NUMBERS.mean(), GUESSES[:, 0].double() - GUESSES.double().mean()
    numbers = Metrics(names=("pearson", "spearman"))(GUESSES, NUMBERS)
    assert numbers["pearson"] == pytest.approx(((x @ y) / (x.norm() * y.norm())).item())
    assert numbers["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15)), "ranks 2 1 3 4 against 1 2 3 4"


def test_f1_asks_for_one_class_wherever_it_stands() -> None:
    swapped = Metrics(names=("f1",), positive=0)
    assert swapped.score(logits(1 - ANSWERS), 1 - LABELS) == Metrics(names=("f1",)).score(logits(ANSWERS), LABELS)
    uneven = torch.tensor([1, 1, 1, 1, 1, 1, 0, 0])
    of_each = [Metrics(names=("f1",), positive=k).score(logits(uneven), LABELS) for k in (0, 1)]
    assert of_each == pytest.approx([2 * 2 / (2 + 4), 2 * 4 / (6 + 4)])


def test_it_is_no_mean_over_batches() -> None:
    f1 = Metrics(names=("f1",))
    halves = [f1.score(logits(ANSWERS[part]), LABELS[part]) for part in (slice(0, 3), slice(3, 8))]
    assert sum(halves) / 2 != pytest.approx(f1.score(logits(ANSWERS), LABELS))


def test_nothing_to_tell_is_0() -> None:
    one = torch.zeros(8, dtype=torch.int64)
    assert Metrics(names=("matthews", "f1"))(logits(one), LABELS) == {"matthews": 0.0, "f1": 0.0}
    assert Metrics(names=("pearson", "spearman"))(torch.ones(4, 1), NUMBERS) == {"pearson": 0.0, "spearman": 0.0}


def test_accuracy_is_what_it_was() -> None:
    """The very double that stored searches hold: a count over a count."""
    rng = torch.Generator().manual_seed(0)
    for rows in (1, 7, 872, 3080):
        answers = torch.randn(rows, 5, generator=rng)
        labels = torch.randint(0, 5, (rows,), generator=rng)
        assert score(answers, labels) == (answers.argmax(-1) == labels).double().mean().item()
    assert metrics_of(5).primary == "accuracy"
    assert metrics_of(1).primary == "pearson"
    assert metrics_of(3).names == ("accuracy", "macro_f1")
    assert metrics_of(3).by_row
    assert not metrics_of(1).by_row


def test_errors_of_a_metric() -> None:
    assert metric_error("accuracy", logits(ANSWERS), LABELS) == score_error(0.75, 8, 2)
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (400,), generator=rng)
    answers = torch.where(torch.rand(400, generator=rng) < 0.8, labels, 1 - labels)
    found = metric_error("f1", logits(answers), labels)
    assert found == metric_error("f1", logits(answers), labels)
    assert 0.7 < found / score_error(0.8, 400, 2) < 1.4


def test_runs() -> None:
    found = over_runs([{"f1": 0.5, "accuracy": 1.0}, {"accuracy": 1.0, "f1": 0.7}, {"f1": 0.9, "accuracy": 1.0}])
    assert found["f1"].mean == pytest.approx(0.7)
    assert found["f1"].deviation == pytest.approx(0.2)
    assert str(found["f1"]) == "0.7000 ± 0.2000 (3 runs)"
    assert found["accuracy"].deviation == 0
    assert Runs(values=(0.25,)).deviation == 0
    assert str(Runs(values=(0.25,))) == "0.2500"


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_the_other_kind_is_refused(name: str) -> None:
    numbers = name in ("pearson", "spearman")
    rows = (logits(ANSWERS), LABELS) if numbers else (GUESSES, NUMBERS)
    with pytest.raises(DataError, match="of one number a row" if numbers else "is of classes"):
        Metrics(names=(name,))(*rows)


def test_what_is_no_metric() -> None:
    with pytest.raises(DataError, match="no metric 'acuracy'; did you mean \"accuracy\""):
        Metrics(names=("acuracy",))
    with pytest.raises(DataError, match="got both: f1, pearson"):
        Metrics(names=("f1", "pearson"))
    with pytest.raises(DataError, match="one metric at least"):
        Metrics(names=())
    with pytest.raises(DataError, match="got 0 rows, 0 answers"):
        score(torch.zeros(0, 2), torch.zeros(0))
    with pytest.raises(DataError, match="got 8 rows, 7 answers"):
        score(logits(ANSWERS)[:7], LABELS)
    with pytest.raises(DataError, match="the same metrics"):
        over_runs([{"f1": 1.0}, {"accuracy": 1.0}])
    with pytest.raises(DataError, match="one run at least"):
        Runs(values=())
