"""The two regressions: against explicit refits, and on functions whose values are known."""

from __future__ import annotations

import numpy as np
import pytest

from search.regression import Array, GaussianProcess, RelativeLeastSquares


def costs(seed: int, *, rows: int = 40, noise: float = 0.02) -> tuple[Array, Array, Array]:
    """(rows, values, true weights): costs that add up, one of them nothing, on columns of very unlike sizes."""
    rng = np.random.default_rng(seed)
    table = rng.uniform(0.1, 1.0, (rows, 5)) * np.array([1.0, 1e6, 1e-3, 50.0, 1.0])
    weights = np.array([2.0, 3e-6, 1e3, 0.0, 0.5])
    return table, table @ weights * np.exp(noise * rng.normal(size=rows)), weights


# --- relative least squares -------------------------------------------------------------------------------------------


def test_it_recovers_costs_that_add_up() -> None:
    rows, values, weights = costs(0, noise=0.0)
    model = RelativeLeastSquares.fit(rows, values, penalty=1e-9)
    assert model.weights / model.scale == pytest.approx(weights, rel=1e-3, abs=1e-3)
    assert model(rows) == pytest.approx(values, rel=1e-4)
    assert model.error < 1e-4


def test_no_cost_is_negative() -> None:
    rng = np.random.default_rng(1)
    rows = rng.uniform(0.5, 1.0, (30, 4))
    values = rows @ np.array([3.0, 1.0, -0.8, 0.5])  # plain least squares would find the -0.8
    model = RelativeLeastSquares.fit(rows, values)
    assert (model.weights >= 0).all()
    assert model.weights[2] == 0
    assert (model(rng.uniform(0, 9, (50, 4))) >= 0).all()


def test_small_and_large_values_weigh_the_same() -> None:
    rows = np.ones((20, 1)) * np.r_[np.full(10, 1.0), np.full(10, 1000.0)][:, None]
    values = rows[:, 0] * np.r_[np.full(10, 0.5), np.full(10, 1.5)]
    model = RelativeLeastSquares.fit(rows, values, penalty=1e-9, rounds=1)
    # The least sum of squares of 1 - w / 0.5 and 1 - w / 1.5.
    assert model.weights[0] / model.scale[0] == pytest.approx((1 / 0.5 + 1 / 1.5) / (1 / 0.5**2 + 1 / 1.5**2), rel=1e-3)


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_the_unit_of_values_changes_nothing(unit: float) -> None:
    rows, values, _ = costs(2)
    model, other = RelativeLeastSquares.fit(rows, values), RelativeLeastSquares.fit(rows, unit * values)
    assert other(rows) == pytest.approx(unit * model(rows), rel=1e-6)
    assert other.held_out == pytest.approx(model.held_out, rel=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_held_out_errors_are_those_of_refits_without_the_row(seed: int) -> None:
    """Allen's formula, for the columns in use: against solving the penalised normal equations again for each row."""
    rows, values, _ = costs(seed, rows=25, noise=0.1)
    penalty = 1e-3
    model = RelativeLeastSquares.fit(rows, values, penalty=penalty, rounds=1)
    used = model.weights > 0
    x = (rows / model.scale / values[:, None])[:, used]
    for i in range(len(values)):
        kept = np.arange(len(values)) != i
        gram = x[kept].T @ x[kept] + penalty * np.eye(x.shape[1])
        refitted = np.linalg.solve(gram, x[kept].T @ np.ones(len(values) - 1))
        assert model.held_out[i] == pytest.approx(1.0 - x[i] @ refitted, rel=1e-6, abs=1e-9)


def test_held_out_errors_are_larger_than_those_of_the_fit() -> None:
    rows, values, _ = costs(3, rows=14, noise=0.1)
    model = RelativeLeastSquares.fit(rows, values, rounds=1)
    assert np.abs(model.held_out).mean() > 1.1 * np.abs(model(rows) / values - 1).mean()


def test_one_outlier_counts_little() -> None:
    rows, values, weights = costs(4)
    values[7] *= 5
    truth = rows @ weights
    robust, plain = (RelativeLeastSquares.fit(rows, values, rounds=x)(rows) / truth - 1 for x in (3, 1))
    assert np.abs(robust).mean() < 0.03
    assert np.abs(robust).mean() < 0.6 * np.abs(plain).mean()
    assert RelativeLeastSquares.fit(rows, values).error < 0.06  # clipped, so that it cannot choose between two forms


def test_a_column_of_nothing_costs_nothing() -> None:
    rows, values, _ = costs(5)
    with_nothing = np.column_stack([rows, np.zeros(len(values))])
    model = RelativeLeastSquares.fit(with_nothing, values)
    assert model.weights[-1] == 0
    assert model(with_nothing) == pytest.approx(RelativeLeastSquares.fit(rows, values)(rows))


# --- Gaussian process -------------------------------------------------------------------------------------------------


def smooth(x: Array) -> Array:
    values: Array = np.sin(2 * x[:, 0]) + 0.5 * np.cos(3 * x[:, 1]) + 7
    return values


@pytest.fixture(scope="module")
def fitted() -> tuple[GaussianProcess, Array]:
    x = np.random.default_rng(0).uniform(-1, 1, (60, 2))
    return GaussianProcess.fit(x, smooth(x)), x


def test_it_interpolates_a_smooth_function(fitted: tuple[GaussianProcess, Array]) -> None:
    process, x = fitted
    assert np.abs(process(x)[0] - smooth(x)).mean() < 0.02
    between = np.random.default_rng(1).uniform(-0.9, 0.9, (200, 2))
    assert np.abs(process(between)[0] - smooth(between)).mean() < 0.03
    assert process.noise == pytest.approx(1 / 30)  # the least of the grid: there is none


def test_it_doubts_what_is_far_from_all_it_saw(fitted: tuple[GaussianProcess, Array]) -> None:
    process, x = fitted
    near, far = process(x)[1], process(np.array([[4.0, 4.0], [-5.0, 0.0]]))[1]
    assert far.min() > 5 * near.max()
    assert (process(np.array([[0.0, t] for t in np.linspace(1, 4, 8)]))[1][1:] > near.mean()).all()


def test_its_doubt_is_of_the_size_of_its_errors() -> None:
    """Of standardised errors of held-out points a standard deviation near 1, and not many beyond 3."""
    rng = np.random.default_rng(2)
    errors = []
    for _ in range(20):
        x = rng.uniform(-1, 1, (50, 3))
        y = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.1 * rng.normal(size=50)
        new = rng.uniform(-1, 1, (40, 3))
        mean, std = GaussianProcess.fit(x, y)(new)
        errors.append((np.sin(2 * new[:, 0]) + new[:, 1] * new[:, 2] - mean) / std)
    standardised = np.concatenate(errors)
    assert 0.6 < standardised.std() < 1.6
    assert (np.abs(standardised) > 3).mean() < 0.05


def test_the_likelihood_chooses_the_form() -> None:
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, (80, 3))
    straight = GaussianProcess.fit(x, x @ np.array([3.0, -2.0, 1.0]) + 0.05 * rng.normal(size=80))
    assert straight.linear == 3.0
    assert straight(np.array([[2.0, 0.0, 0.0]]))[0] == pytest.approx(6.0, abs=0.5)  # carried on beyond the data
    noise = GaussianProcess.fit(x, rng.normal(size=80))
    assert noise.noise >= 1.0
    wavy = GaussianProcess.fit(x, np.sin(6 * x[:, 0]))
    slow = GaussianProcess.fit(x, np.sin(1.5 * x[:, 0]))
    assert wavy.length < slow.length


def test_scales_and_offsets_of_inputs_and_values_change_nothing(fitted: tuple[GaussianProcess, Array]) -> None:
    process, x = fitted
    other = GaussianProcess.fit(1e3 * x - 5e4, 20 * smooth(x) + 3)
    mean, std = process(x[:9] + 0.1)
    again, spread = other(1e3 * (x[:9] + 0.1) - 5e4)
    assert again == pytest.approx(20 * mean + 3, rel=1e-6)
    assert spread == pytest.approx(20 * std, rel=1e-4)


def test_values_that_are_all_alike(fitted: tuple[GaussianProcess, Array]) -> None:
    x = fitted[1]
    mean, std = GaussianProcess.fit(x, np.full(60, 0.75))(x + 1)
    assert mean == pytest.approx(np.full(60, 0.75))
    assert (std < 1e-6).all()


def test_points_seen_twice_and_inputs_that_never_vary() -> None:
    rng = np.random.default_rng(5)
    x = np.repeat(rng.uniform(-1, 1, (15, 2)), 2, axis=0)
    x = np.column_stack([x, np.full(30, 1 / 3)])
    y = smooth(x) + 0.01 * rng.normal(size=30)
    mean, std = GaussianProcess.fit(x, y)(x)
    assert mean == pytest.approx(y, abs=0.1)
    assert np.isfinite(std).all()


@pytest.mark.parametrize("constant", [0.0, 1 / 3, 5.95])
def test_what_never_varied_is_doubted_in_proportion(constant: float) -> None:
    """A step in an input nobody varied yet is as doubtful as one in another input, not a billion times more."""
    rng = np.random.default_rng(6)
    x = rng.uniform(0, 1, (40, 3))
    y = x @ np.array([1.0, 2.0, 3.0]) + 0.01 * rng.normal(size=40)
    process = GaussianProcess.fit(np.column_stack([x, np.full(40, constant)]), y)
    assert process.linear > 0
    middle = np.array([[0.5, 0.5, 0.5, constant], [0.5, 0.5, 0.5, constant + 0.5]])
    mean, std = process(middle)
    assert mean == pytest.approx([3.0, 3.0], abs=0.3)
    assert std[0] < std[1] < 3 * y.std()
