from __future__ import annotations

from random import Random

import numpy as np
import pytest

from search.surrogate import Ridge, features
from supernet.space import SearchSpace


def test_features_tell_subnets_apart(space: SearchSpace) -> None:
    rng = Random(0)
    some = {space.sample(rng) for _ in range(300)}
    rows = {tuple(features(space, x)) for x in some}
    assert len(rows) == len(some)
    assert {len(row) for row in rows} == {2 + 3 * space.source_layers}
    assert all(0 <= x <= 1 for row in rows for x in row)


def test_ridge_solves_what_numpy_solves() -> None:
    rng = np.random.default_rng(0)
    rows, values = rng.random((12, 7)), rng.random(12)
    model = Ridge(rows.tolist(), values.tolist())
    weights = np.linalg.solve(rows.T @ rows + 0.1 * np.eye(7), rows.T @ (values - values.mean()))
    for row in rng.random((5, 7)):
        assert model(row.tolist()) == pytest.approx(values.mean() + row @ weights)


def test_ridge_of_one_point_is_its_value(space: SearchSpace) -> None:
    row = features(space, space.smallest())
    assert Ridge([row], [0.75])(features(space, space.largest())) == pytest.approx(0.75)
