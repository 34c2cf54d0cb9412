"""A guess at accuracies: of the right order, sure of what it saw, unsure of what it did not."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from search.accuracy_model import LEAST_SUBNETS, AccuracyModel, features
from search.statistics import spearman
from supernet.space import SearchSpace, SubnetConfig

STACKS = SearchSpace.of_depths(
    source_layers=5,
    depths=[1, 2, 3, 5],
    hidden_sizes=(64, 100),
    heads=(1, 2, 5),
    head_sizes=(8, 16),
    ffn_sizes=(32, 64, 128),
    ffn_stacks=(1, 2, 4),
)


def test_features_tell_subnets_apart() -> None:
    rng = Random(0)
    some = {STACKS.sample(rng) for _ in range(400)}
    rows = {tuple(features(STACKS, x)) for x in some}
    # Widths count, not how they come about: 2 heads of 8 are 1 of 16, 2 cells of 32 neurons are 1 of 64.
    widths = {(x.hidden_size, tuple((y.source, y.qkv_size, y.ffn_size * y.ffn_stack) for y in x.layers)) for x in some}
    assert len(rows) == len(widths)
    assert {len(row) for row in rows} == {2 + 3 * 5}
    assert all(0 <= x <= 1 for row in rows for x in row)
    assert features(STACKS, STACKS.largest()) == [1.0] * 17


def test_a_layer_that_is_left_out_is_nothing() -> None:
    subnet = SubnetConfig.uniform(hidden_size=64, depth=2, heads=2, head_size=8, ffn_size=32, sources=(1, 4))
    row = features(STACKS, subnet)
    assert [row[2 + 3 * i] for i in range(5)] == [0, 1, 0, 0, 1]
    assert row[2:5] == [0, 0, 0]


def test_it_ranks_subnets_it_did_not_see(make_problem: Any) -> None:
    problem, rng = make_problem(), Random(0)
    designs = [problem.space.sample(rng) for _ in range(160)]
    subnets = [x.subnet for x in designs]
    truth = [problem.accuracy(replace(x, precisions=("bf16",))) for x in designs]
    seen = [x + rng.gauss(0, 0.004) for x in truth[:60]]
    guess, doubt = AccuracyModel(problem.space.subnets, subnets[:60], seen)(subnets[60:])
    assert (spearman(guess.tolist(), truth[60:]) or 0) > 0.85
    errors = guess - np.array(truth[60:])
    assert np.abs(errors).mean() < 0.5 * np.std(truth)
    assert (np.abs(errors) < 2 * doubt + 0.01).mean() > 0.8


def test_it_doubts_more_what_is_unlike_all_it_saw(make_problem: Any) -> None:
    problem, rng = make_problem(), Random(1)
    shallow = [x for x in (problem.space.sample(rng).subnet for _ in range(200)) if x.depth < 3]
    deep = [x for x in (problem.space.sample(rng).subnet for _ in range(200)) if x.depth == 4]
    model = AccuracyModel(problem.space.subnets, shallow[:40], [0.7 + 0.05 * x.depth for x in shallow[:40]])
    assert model(deep)[1].mean() > 1.5 * model(shallow[40:])[1].mean()


def test_a_layer_nobody_kept_yet_is_no_miracle(make_problem: Any) -> None:
    problem, rng = make_problem(), Random(2)
    drawn = (problem.space.sample(rng) for _ in range(2000))
    seen = [x for x in drawn if 0 not in x.subnet.sources and x.subnet.hidden_size == 192][:40]
    scores = [problem.accuracy(x) for x in seen]
    model = AccuracyModel(problem.space.subnets, [x.subnet for x in seen], scores)
    others = [problem.space.sample(rng).subnet for _ in range(50)]
    guess, doubt = model(others)
    assert doubt.max() < 1.0
    assert guess.min() > 0
    assert guess.max() < 1.5


def test_refuses_too_few(make_problem: Any) -> None:
    space = make_problem().space.subnets
    subnets = [space.sample(Random(i)) for i in range(LEAST_SUBNETS)]
    AccuracyModel(space, subnets, [0.5] * LEAST_SUBNETS)
    with pytest.raises(ValueError, match=f"{LEAST_SUBNETS} scores or more.* got {LEAST_SUBNETS - 1} and"):
        AccuracyModel(space, subnets[1:], [0.5] * (LEAST_SUBNETS - 1))
    with pytest.raises(ValueError, match="one each; got 8 and 9"):
        AccuracyModel(space, subnets, [0.5] * 9)
