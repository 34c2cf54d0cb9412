"""Two small regressions for tens of points: relative least squares, and a Gaussian process with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]

_LENGTHS = (0.5, 0.7, 1.0, 1.5, 2.5, 4.0, 7.0)
_LINEAR = (0.0, 0.3, 3.0)
_SIGNAL_TO_NOISE = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class RelativeLeastSquares:
    """Least squares of relative errors with weights that are not negative (Lawson & Hanson 1974): costs only add up.

    Columns are scaled to a mean of 1 beside the values, so that a small ridge penalty is small in any unit. `held_out`
    [n] are the relative errors of each row predicted from all others, by the hat matrix of the columns in use (Allen
    1974).
    """

    weights: Array
    scale: Array
    held_out: Array

    @classmethod
    def fit(cls, rows: Array, values: Array, *, penalty: float = 1e-3, rounds: int = 3) -> RelativeLeastSquares:
        """`rows` [n, k] and positive `values` [n]. Rows far off count less each round (Huber's weights)."""
        relative = rows / values[:, None]
        shares = np.abs(relative).mean(axis=0)
        scale = np.where(shares > 0, shares, 1.0)
        relative /= scale
        columns = relative.shape[1]
        trust = np.ones(len(values))
        for _ in range(rounds):
            whole = np.vstack([relative * trust[:, None], np.sqrt(penalty) * np.eye(columns)])
            weights = nnls(whole, np.concatenate([trust, np.zeros(columns)]))[0]
            used = relative[:, weights > 0] * trust[:, None]
            inverse = np.linalg.inv(used.T @ used + penalty * np.eye(used.shape[1]))
            leverage = np.einsum("ij,jk,ik->i", used, inverse, used)
            held_out = (1.0 - relative @ weights) / np.maximum(1e-6, 1.0 - leverage)
            spread = 1.5 * np.median(np.abs(held_out)) + 1e-6
            trust = np.minimum(1.0, np.sqrt(2 * spread / np.maximum(np.abs(held_out), 1e-9)))
        return cls(weights=weights, scale=scale, held_out=held_out)

    @property
    def error(self) -> float:
        """Mean held-out error, clipped: an engine that was disturbed must not choose between two forms."""
        return float(np.minimum(np.abs(self.held_out), 0.3).mean())

    @property
    def spread(self) -> float:
        """Standard deviation of the held-out errors, by their median (Rousseeuw & Croux 1993)."""
        return 1.4826 * float(np.median(np.abs(self.held_out)))

    def __call__(self, rows: Array) -> Array:
        """Values [m] of `rows` [m, k]."""
        answer: Array = (rows / self.scale) @ self.weights
        return answer


@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianProcess:
    """A Gaussian process with a linear and a squared-exponential part (Rasmussen & Williams 2006, chapters 2 and 5).

    Inputs are standardised. Length scale, linear share and noise are those of a grid with the greatest marginal
    likelihood.
    """

    inputs: Array
    centre: Array
    scale: Array
    mean: float
    length: float
    linear: float
    variance: float
    noise: float
    solved: Array
    inverse: Array

    @classmethod
    def fit(cls, rows: Array, values: Array) -> GaussianProcess:
        """`rows` [n, k] and `values` [n]."""
        centre, spread = rows.mean(axis=0), rows.std(axis=0)
        scale = np.where(spread > 1e-9, spread, 1.0)  # one value only: a step of 1 is as far as a spread
        x = (rows - centre) / scale
        mean = float(values.mean())
        y = values - mean
        n, k = x.shape
        squared = _squared_distances(x, x)
        dot = x @ x.T / max(1, k)
        best: tuple[float, float, float, float, Array] | None = None
        for length in _LENGTHS:
            smooth = np.exp(-squared / (2 * length * length * k))
            for linear in _LINEAR:
                for ratio in _SIGNAL_TO_NOISE:
                    covariance = smooth + linear * dot + np.eye(n) / ratio
                    lower = np.linalg.cholesky(covariance)
                    half = np.linalg.solve(lower, y)
                    variance = max(float(half @ half) / n, 1e-18)
                    likelihood = -0.5 * n * np.log(variance) - float(np.log(np.diag(lower)).sum())
                    if best is None or likelihood > best[0] + 1e-9:
                        best = (likelihood, length, linear, 1 / ratio, covariance)
        assert best is not None
        _, length, linear, noise, covariance = best
        inverse: Array = np.linalg.inv(covariance).astype(np.float64)
        solved = inverse @ y
        variance = max(float(y @ solved) / n, 1e-18)
        return cls(
            inputs=x, centre=centre, scale=scale, mean=mean, length=length, linear=linear, variance=variance,
            noise=noise, solved=solved, inverse=inverse,
        )  # fmt: skip

    def __call__(self, rows: Array) -> tuple[Array, Array]:
        """Means [m] and standard deviations [m] of the noiseless values at `rows` [m, k]."""
        x = (rows - self.centre) / self.scale
        k = max(1, x.shape[1])
        smooth = np.exp(-_squared_distances(x, self.inputs) / (2 * self.length * self.length * k))
        cross = smooth + self.linear * (x @ self.inputs.T) / k
        own = 1.0 + self.linear * (x * x).sum(axis=1) / k
        left = own - np.einsum("ij,jk,ik->i", cross, self.inverse, cross)
        return self.mean + cross @ self.solved, np.sqrt(np.maximum(left, 0.0) * self.variance)


def _squared_distances(a: Array, b: Array) -> Array:
    distances: Array = np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T, 0.0)
    return distances
