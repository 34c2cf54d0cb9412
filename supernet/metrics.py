"""How good predictions are, over a whole set of rows at once: scikit-learn's and SciPy's metrics by name."""

from __future__ import annotations

import difflib
import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supernet.errors import DataError

Array = NDArray[Any]


def _accuracy(labels: Array, answers: Array, positive: int) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, answers))


def _f1(labels: Array, answers: Array, positive: int) -> float:
    """Of the class `positive` against all others; 0 where it neither occurs nor is answered."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels == positive, answers == positive, zero_division=0.0))


def _macro_f1(labels: Array, answers: Array, positive: int) -> float:
    """The mean of every class's F1, classes that are only answered included."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, answers, average="macro", zero_division=0.0))


def _matthews(labels: Array, answers: Array, positive: int) -> float:
    from sklearn.metrics import matthews_corrcoef

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of one class only, which it scores 0
        return float(matthews_corrcoef(labels, answers))


def _pearson(labels: Array, answers: Array, positive: int) -> float:
    return _correlation("pearsonr", labels, answers)


def _spearman(labels: Array, answers: Array, positive: int) -> float:
    return _correlation("spearmanr", labels, answers)


def _correlation(name: str, labels: Array, answers: Array) -> float:
    """Constant values correlate with nothing: 0."""
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (stats.ConstantInputWarning, stats.NearConstantInputWarning))
        value = float(getattr(stats, name)(labels, answers).statistic) if len(labels) > 1 else math.nan
    return 0.0 if math.isnan(value) else value


# Of classes: int64 labels and answers; of numbers: float64 ones. Each 1 at best; 0 is chance for the correlations.
_OF_CLASSES: Mapping[str, Callable[[Array, Array, int], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
}
_OF_NUMBERS: Mapping[str, Callable[[Array, Array, int], float]] = {"pearson": _pearson, "spearman": _spearman}
METRICS = (*_OF_CLASSES, *_OF_NUMBERS)


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What a task is scored by: `names` of `METRICS`, of which the first is the one to compare models by.

    `positive` is the place among the logits of the class that F1 asks for.
    """

    names: tuple[str, ...]
    positive: int = 1

    def __post_init__(self) -> None:
        if not self.names:
            raise DataError(f"a task is scored by one metric at least: {', '.join(METRICS)}")
        for name in self.names:
            if name not in METRICS:
                near = difflib.get_close_matches(name, METRICS, n=1)
                hint = f'; did you mean "{near[0]}"?' if near else ""
                raise DataError(f"there is no metric {name!r}{hint} Known are {', '.join(METRICS)}")
        if len({name in _OF_NUMBERS for name in self.names}) > 1:
            raise DataError(f"metrics are of classes ({', '.join(_OF_CLASSES)}) or of numbers "
                            f"({', '.join(_OF_NUMBERS)}), got both: {', '.join(self.names)}")  # fmt: skip

    @property
    def primary(self) -> str:
        """The metric models are compared by."""
        return self.names[0]

    @property
    def by_row(self) -> bool:
        """Whether the primary metric is a share of rows, so that rows can be compared one by one."""
        return self.primary == "accuracy"

    def __call__(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Every metric of float logits [rows, classes] against int64 classes, or of [rows, 1] against floats."""
        return {name: _metric(name, logits, labels, self.positive) for name in self.names}

    def score(self, logits: Tensor, labels: Tensor) -> float:
        """The primary metric alone."""
        return _metric(self.primary, logits, labels, self.positive)


def _metric(name: str, logits: Tensor, labels: Tensor, positive: int) -> float:
    if len(labels) == 0 or len(logits) != len(labels):
        raise DataError(f"a metric needs rows, and an answer for each: got {len(labels)} rows, {len(logits)} answers")
    if name in _OF_NUMBERS:
        if logits.shape[-1] != 1:
            raise DataError(f"{name} is of one number a row; these rows have {logits.shape[-1]} classes")
        return _OF_NUMBERS[name](labels.double().cpu().numpy(), logits[:, 0].double().cpu().numpy(), positive)
    if logits.shape[-1] == 1:
        raise DataError(f"{name} is of classes; these rows have numbers: use {' or '.join(_OF_NUMBERS)}")
    return _OF_CLASSES[name](labels.cpu().numpy(), logits.argmax(-1).cpu().numpy(), positive)


def metrics_of(num_labels: int) -> Metrics:
    """Of a task that names none: accuracy and the classes' mean F1, or Pearson's and Spearman's correlation."""
    return Metrics(names=("pearson", "spearman") if num_labels == 1 else ("accuracy", "macro_f1"))


def score(logits: Tensor, labels: Tensor) -> float:
    """Accuracy of float logits [rows, classes] against int64 classes, or Pearson's r of [rows, 1] against floats."""
    return metrics_of(logits.shape[-1]).score(logits, labels)


def score_error(value: float, rows: int, num_labels: int) -> float:
    """Standard error of `score`: binomial, or (1 - r^2)/sqrt(rows - 1) (Fisher 1915)."""
    if num_labels > 1:
        return math.sqrt(value * (1 - value) / rows)
    return (1 - value**2) / math.sqrt(max(1, rows - 1))


def metric_error(name: str, logits: Tensor, labels: Tensor, *, positive: int = 1, draws: int = 200) -> float:
    """Standard error of any metric: its deviation over `draws` resamplings of the rows (Efron 1979), the same each
    time it is asked; exact for what `score_error` knows."""
    if name in ("accuracy", "pearson"):
        value = _metric(name, logits, labels, positive)
        return score_error(value, len(labels), 1 if name == "pearson" else 2)
    rng = np.random.default_rng(0)
    rows = (torch.from_numpy(rng.integers(0, len(labels), len(labels))) for _ in range(draws))
    return statistics.stdev(_metric(name, logits[chosen], labels[chosen], positive) for chosen in rows)


@dataclass(frozen=True, kw_only=True)
class Runs:
    """One metric over several seeds."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise DataError("a mean needs one run at least")

    @property
    def mean(self) -> float:
        """Of all runs."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """Sample standard deviation (n - 1); 0 for a single run, which tells nothing of it."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    def __str__(self) -> str:
        spread = f" ± {self.deviation:.4f} ({len(self.values)} runs)" if len(self.values) > 1 else ""
        return f"{self.mean:.4f}{spread}"


def over_runs(scores: Sequence[Mapping[str, float]]) -> dict[str, Runs]:
    """Each metric's values over runs that all have the same metrics."""
    if not scores or any(set(x) != set(scores[0]) for x in scores):
        raise DataError(f"runs are compared by the same metrics, got {[sorted(x) for x in scores]}")
    return {name: Runs(values=tuple(x[name] for x in scores)) for name in scores[0]}
