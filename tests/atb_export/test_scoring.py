"""Races, and short trainings before an accuracy is asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from atb_export.dense import DenseModel
from atb_export.scoring import CHUNK_ROWS, Raced, Tuning, race, unpacked
from atb_export.work import WorkInputs
from supernet.distillation import Lessons
from supernet.metrics import Metrics
from supernet.objective import LossWeights
from supernet.space import SubnetConfig

Bits = Sequence[bool]


def packed(right: Bits) -> bytes:
    """The store's order: row i is bit i % 8 of byte i // 8."""
    found = bytearray(-(-len(right) // 8))
    for i, x in enumerate(right):
        found[i // 8] |= bool(x) << (i % 8)
    return bytes(found)


def run(right: Bits, rival: Bits | None) -> tuple[Raced, list[range]]:
    """A race of a model that gets exactly these rows right; also what it was asked."""
    asked: list[range] = []
    labels = torch.arange(len(right)) % 2

    def answer(rows: range) -> torch.Tensor:
        asked.append(rows)
        said = [int(labels[i]) if right[i] else 1 - int(labels[i]) for i in rows]
        return torch.nn.functional.one_hot(torch.tensor(said), 2).float()

    return race(answer, labels, rival=None if rival is None else packed(rival)), asked


def by_hand(mine: Bits, theirs: Bits) -> int:
    """How many rows the rule asks: it looks after every chunk but the last."""
    for end in range(CHUNK_ROWS, len(mine), CHUNK_ROWS):
        only_mine = sum(a and not b for a, b in zip(mine[:end], theirs[:end], strict=True))
        only_theirs = sum(b and not a for a, b in zip(mine[:end], theirs[:end], strict=True))
        if only_theirs - only_mine > 2.6 * math.sqrt(max(1, only_mine + only_theirs)):
            return end
    return len(mine)


def drawn(rng: np.random.Generator, share: float, rows: int) -> list[bool]:
    return (rng.random(rows) < share).tolist()


@pytest.mark.parametrize("seed", range(12))
def test_the_race_ends_where_the_rule_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mine, theirs = drawn(rng, 0.6 + 0.03 * (seed % 6), 1100), drawn(rng, 0.8, 1100)
    found, asked = run(mine, theirs)
    assert found.rows == by_hand(mine, theirs)
    assert found.complete == (found.rows == 1100)
    assert found.accuracy == sum(mine[: found.rows]) / found.rows
    assert found.correct == packed(mine[: found.rows])
    assert [i for rows in asked for i in rows] == list(range(found.rows))


def test_the_rule_is_tried_on_both_sides() -> None:
    """The seeds above hold races that end early and some that do not."""
    ends = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        ends.add(by_hand(drawn(rng, 0.6 + 0.03 * (seed % 6), 1100), drawn(rng, 0.8, 1100)) == 1100)
    assert ends == {True, False}


def test_a_hopeless_one_is_stopped_at_the_first_look() -> None:
    found, asked = run([i % 2 == 0 for i in range(2000)], [True] * 2000)
    assert (found.rows, found.complete, len(asked)) == (CHUNK_ROWS, False, 1)


def test_nobody_is_stopped_without_a_rival_or_on_the_last_rows() -> None:
    assert run([False] * 600, None)[0].complete
    late = [True] * (2 * CHUNK_ROWS) + [False] * CHUNK_ROWS
    assert run(late, [True] * len(late))[0].complete, "all rows are answered by then"


def test_an_equal_is_hardly_ever_dropped() -> None:
    dropped = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        both = drawn(rng, 0.7, 1024)  # rows that either gets right: models of one task mostly agree
        mine, theirs = ([a or b for a, b in zip(both, drawn(rng, 0.3, 1024), strict=True)] for _ in range(2))
        dropped += not run(mine, theirs)[0].complete
    assert dropped <= 0.05 * 300


def test_a_regression_is_scored_whole() -> None:
    """Pearson's r has no right or wrong rows."""
    values = torch.linspace(0, 1, 700)
    asked: list[range] = []

    def answer(rows: range) -> torch.Tensor:
        asked.append(rows)
        return -values[list(rows)][:, None]

    found = race(answer, values, rival=b"\xff" * 88)
    assert found == Raced(accuracy=pytest.approx(-1.0), rows=700, complete=True, correct=None)
    assert asked == [range(700)]


def test_bitmaps_read_back() -> None:
    right = [i % 3 == 0 for i in range(21)]
    assert unpacked(packed(right), 21).tolist() == right


def test_tuning_trains_a_copy_and_the_same_one_each_time(
    make_dense: Callable[..., DenseModel], work_inputs: WorkInputs
) -> None:
    net, teacher = make_dense(seed=5).net, make_dense(seed=6).net
    tuning = Tuning(
        teacher=teacher,
        lessons=Lessons(texts=work_inputs.texts, labels=work_inputs.labels),
        weights=LossWeights(),
        steps=3,
        batch_size=8,
        learning_rate=1e-3,
        seed=1,
    )
    subnet = SubnetConfig.uniform(hidden_size=24, depth=2, heads=2, head_size=8, ffn_size=32, sources=(1, 3))
    before = {name: x.clone() for name, x in net.state_dict().items()}
    with torch.no_grad():  # as scores are asked
        first, second = tuning(net, subnet), tuning(net, subnet)
    assert all(x.equal(before[name]) for name, x in net.state_dict().items())
    assert first.shape == subnet.renumbered()
    assert not first.training
    a, b, plain = (x.state_dict() for x in (first, second, net.slice(subnet)))
    assert all(a[name].equal(b[name]) for name in a)
    assert any(not a[name].equal(plain[name]) for name in a)


def test_what_is_no_share_of_rows_is_scored_whole() -> None:
    """F1 and Matthews have no rows that are right: no rival ends their race."""
    rng = np.random.default_rng(0)
    rows = 3 * CHUNK_ROWS
    labels = torch.from_numpy(rng.integers(0, 2, rows))
    logits = torch.from_numpy(rng.normal(size=(rows, 2)))
    asked = []

    def answer(chosen: range) -> torch.Tensor:
        asked.append(chosen)
        return logits[chosen.start : chosen.stop]

    metrics = Metrics(names=("f1", "accuracy"))
    raced = race(answer, labels, rival=packed([True] * rows), metrics=metrics)
    assert raced == Raced(accuracy=metrics.score(logits, labels), rows=rows, complete=True, correct=None)
    assert asked == [range(rows)]
    plain = race(answer, labels, rival=None, metrics=Metrics(names=("accuracy", "f1")))
    assert plain == race(answer, labels, rival=None)
