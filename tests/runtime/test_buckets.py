from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from runtime.buckets import Buckets, choose_buckets


def _expected(lengths: list[int], cost: dict[int, float], chosen: tuple[int, ...]) -> float:
    """Each text goes to the shortest bucket that holds it, cut to the longest."""
    longest = max(chosen)
    return float(np.mean([cost[min(x for x in chosen if x >= min(length, longest))] for length in lengths]))


def _change(lengths: list[int], chosen: tuple[int, ...], change_ms: float) -> float:
    """What changes cost on average over all pairs of texts, one after the other."""
    went = [min(x for x in chosen if x >= min(length, max(chosen))) for length in lengths]
    return float(np.mean([change_ms * (a != b) for a in went for b in went]))


def _brute(lengths: list[int], cost: dict[int, float], max_length: int, most: int, change_ms: float = 0.0) -> float:
    others = [x for x in cost if x < max_length]
    return min(
        _expected(lengths, cost, (*some, max_length)) + _change(lengths, (*some, max_length), change_ms)
        for count in range(min(most, len(others) + 1))
        for some in combinations(others, count)
    )


def _case(seed: int) -> tuple[list[int], dict[int, float], int]:
    rng = np.random.default_rng(seed)
    max_length = int(rng.integers(1, 20))
    candidates = {int(x) for x in rng.integers(1, 22, size=rng.integers(0, 9))} | {max_length}
    cost = {x: float(rng.uniform(0.1, 5)) for x in sorted(candidates)}  # rising or not
    if seed % 2:
        cost = dict(zip(cost, sorted(cost.values()), strict=True))
    lengths = [int(x) for x in rng.integers(1, 25, size=rng.integers(1, 12))]
    return lengths, cost, max_length


@pytest.mark.parametrize("seed", range(60))
def test_nothing_is_better_than_what_is_chosen(seed: int) -> None:
    lengths, cost, max_length = _case(seed)
    for most in (1, 2, 3, 5):
        found = choose_buckets(lengths, cost, max_length=max_length, most=most, within=0)
        assert len(found.lengths) <= most
        assert found.lengths[-1] == max_length
        assert found.expected_ms == pytest.approx(_expected(lengths, cost, found.lengths))
        assert found.expected_ms == pytest.approx(_brute(lengths, cost, max_length, most))
        assert found.best_ms == pytest.approx(
            [_brute(lengths, cost, max_length, n + 1) for n in range(len(found.best_ms))]
        )
        assert found.single_ms == cost[max_length] == found.best_ms[0]


@pytest.mark.parametrize("seed", range(20))
def test_as_few_as_are_enough(seed: int) -> None:
    lengths, cost, max_length = _case(seed)
    all_of_them = _brute(lengths, cost, max_length, 5)
    found = choose_buckets(lengths, cost, max_length=max_length, most=5, within=0.1)
    assert found.expected_ms <= all_of_them * 1.1 + 1e-9
    if len(found.lengths) > 1:
        assert _brute(lengths, cost, max_length, len(found.lengths) - 1) > all_of_them * 1.1 - 1e-9


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("change_ms", [0.05, 0.5, 5.0])
def test_what_changes_cost_is_weighed_too(seed: int, change_ms: float) -> None:
    lengths, cost, max_length = _case(seed)
    for most in (1, 2, 4):
        found = choose_buckets(lengths, cost, max_length=max_length, most=most, within=0, change_ms=change_ms)
        least = _brute(lengths, cost, max_length, most, change_ms)
        assert found.expected_ms == pytest.approx(least)
        assert found.best_ms[-1] == pytest.approx(least)


def test_where_changes_are_dear_fewer_lengths_are_chosen() -> None:
    cost, lengths = {8: 1.0, 16: 1.2, 32: 1.6}, [8] * 5 + [16] * 4 + [30]
    counts = [
        len(choose_buckets(lengths, cost, max_length=32, most=3, within=0, change_ms=x).lengths) for x in (0, 0.5, 9)
    ]
    assert counts == [3, 2, 1]
    with pytest.raises(ValueError, match="change_ms"):
        choose_buckets(lengths, cost, max_length=32, change_ms=-1.0)


@pytest.mark.parametrize(("within", "count"), [(0.0, 3), (0.04, 3), (0.06, 2), (0.4, 2), (0.6, 1)])
def test_how_many_follows_from_what_more_would_bring(within: float, count: int) -> None:
    cost = {8: 1.0, 16: 1.1, 32: 1.6}  # the best 1, 2, 3 buckets are expected to take 1.6, 1.1 and 1.05
    lengths = [8] * 5 + [16] * 5
    found = choose_buckets(lengths, cost, max_length=32, most=3, within=within)
    assert found.best_ms == pytest.approx((1.6, 1.1, 1.05))
    assert len(found.lengths) == count


def test_what_is_shown() -> None:
    lengths = [5] * 6 + [12] * 3 + [40]
    found = choose_buckets(lengths, {8: 1.0, 16: 2.0, 24: 3.0, 32: 4.0}, max_length=32, most=3)
    assert found.lengths == (8, 16, 32)
    assert found.shares == pytest.approx((0.6, 0.3, 0.1))
    assert found.cost_ms == (1.0, 2.0, 4.0)
    assert found.expected_ms == pytest.approx(0.6 + 0.6 + 0.4)
    assert found.single_ms == 4.0
    assert found.best_ms == pytest.approx((4.0, 2.2, 1.6))
    assert found.padding_share == pytest.approx(1 - (30 + 36 + 32) / (48 + 48 + 32))
    assert found.single_padding_share == pytest.approx(1 - (30 + 36 + 32) / 320)
    assert [found.shortest(x) for x in (1, 8, 9, 16, 17, 32, 99)] == [8, 8, 16, 16, 32, 32, 32]


def test_json_round_trip() -> None:
    found = choose_buckets([3, 9, 30], lambda length: length / 10, max_length=32)
    plain = json.loads(json.dumps(found.to_json()))
    assert Buckets.from_json(plain) == found
    assert plain["expected_ms"] == found.expected_ms
    assert plain["single_ms"] == pytest.approx(3.2)
    del plain["shares"]
    with pytest.raises(ValueError, match="missing: shares"):
        Buckets.from_json(plain)


def test_a_callable_is_asked_about_multiples_of_eight_or_what_is_given() -> None:
    def asked(max_length: int, **more: Any) -> list[int]:
        seen: list[int] = []

        def cost(length: int) -> float:
            seen.append(length)
            return 1.0 + length

        choose_buckets([4, 9, 17], cost, max_length=max_length, **more)
        return seen

    assert asked(20) == [8, 16, 20]
    assert asked(16) == [8, 16]
    assert asked(5) == [5]
    assert asked(20, candidates=[17, 4, 9, 4, 99]) == [4, 9, 17, 20]


def test_one_length_needs_one_bucket_or_two() -> None:
    cost = {8: 1.0, 16: 2.0, 32: 4.0}
    assert choose_buckets([30] * 9, cost, max_length=32).lengths == (32,)
    one = choose_buckets([7] * 9, cost, max_length=32)
    assert one.lengths == (8, 32)  # the longest is there for texts to come
    assert one.shares == (1.0, 0.0)
    assert one.expected_ms == 1.0
    flat = choose_buckets([7, 15, 30], {8: 1.0, 16: 1.0, 32: 1.0}, max_length=32)
    assert flat.lengths == (32,)


def test_longer_texts_are_cut_to_the_longest() -> None:
    cost = {8: 1.0, 16: 2.0, 64: 9.0}
    cut = choose_buckets([4, 500, 17], cost, max_length=16)
    assert cut == choose_buckets([4, 16, 16], cost, max_length=16)
    assert cut.lengths == (8, 16)


def test_a_longer_bucket_may_be_the_cheaper_one() -> None:
    found = choose_buckets([5, 5, 20], {6: 3.0, 8: 1.0, 24: 2.0}, max_length=24)
    assert found.lengths == (8, 24)


def test_many_texts_and_candidates_take_no_time() -> None:
    lengths = np.random.default_rng(0).integers(1, 600, size=200_000)
    found = choose_buckets(lengths, lambda x: 1 + x, max_length=512, most=8, candidates=range(1, 513))  # type: ignore[arg-type]
    assert sum(found.shares) == pytest.approx(1)
    assert list(found.best_ms) == sorted(found.best_ms, reverse=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lengths": []}, "no lengths"),
        ({"lengths": [3, 0]}, "lengths are whole numbers"),
        ({"lengths": [3.5]}, "lengths are whole numbers"),
        ({"lengths": [[3]]}, "lengths are whole numbers"),
        ({"max_length": 0}, "max_length"),
        ({"max_length": 16}, "no cost of length 16; there are those of 8, 32"),
        ({"most": 0}, "most"),
        ({"most": True}, "most"),
        ({"within": -0.1}, "within"),
        ({"within": float("nan")}, "within"),
        ({"candidates": [0]}, "candidate"),
        ({"candidates": [12]}, "no cost of length 12"),
        ({"cost_ms": {8: 0.0, 32: 1.0}}, "cost of length 8"),
        ({"cost_ms": {8: float("nan"), 32: 1.0}}, "cost of length 8"),
        ({"cost_ms": lambda _: float("inf")}, "cost of length 8"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {"lengths": [3, 9], "cost_ms": {8: 1.0, 32: 2.0}, "max_length": 32}
    given |= changes
    with pytest.raises(ValueError, match=says):
        choose_buckets(given.pop("lengths"), given.pop("cost_ms"), **given)


@pytest.mark.parametrize(
    "changes", [{"lengths": ()}, {"lengths": (8, 8)}, {"lengths": (16, 8)}, {"lengths": (0, 8)}, {"shares": (1.0,)}]
)
def test_impossible_buckets_are_refused(changes: dict[str, Any]) -> None:
    found = choose_buckets([3, 9], {8: 1.0, 32: 2.0}, max_length=32).to_json()
    with pytest.raises(ValueError, match=r"lengths|shares"):
        Buckets.from_json({**found, **changes})
