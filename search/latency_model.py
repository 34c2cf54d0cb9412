"""A guess at the latency of engines that were not built yet. It steers what is measured next, and never testifies.

The form is analytic: every product of the lean graph costs time in proportion to its size, every pass over
activations in proportion to its width, every layer something fixed; AutoTinyBERT's public timings are known to follow
eight such terms within 2 %. What a machine adds to them is learnt from its own measurements: weights beyond what its
caches hold cost more, and so do rows that do not fill its vector registers. Of a list of such effects those are taken
that lower the held-out error. What remains is smoothed by a Gaussian process over the logarithms of the sizes, whose
spread is the model's own uncertainty.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from search.regression import Array, GaussianProcess, RelativeLeastSquares
from search.statistics import spearman
from supernet.space import LayerConfig, SubnetConfig

LEAST_ENGINES = 16
"""Fewer measurements than this and there is nothing to fit."""

_CACHES = (0.25e6, 0.5e6, 1e6, 2e6, 3e6, 4e6, 6e6, 8e6, 12e6)  # weights, not bytes
_VECTORS = (8, 16, 32, 64)
_MOST_EFFECTS = 4
_LEAST_GAIN = 0.01  # of the held-out error
_MEMBERS = 8
_FAR = 4.0  # standard deviations
_FLOOR = 0.5  # of the fastest engine seen: a linear model may go below zero outside its data


def terms(subnet: SubnetConfig) -> tuple[float, ...]:
    """What the engine's time is made of on any machine: see the names in the code.

    The last layer is apart: it works for the first token only (`atb_export.onnx.graph`).
    """
    n = subnet.hidden_size
    *full, last = subnet.layers
    q = [x.qkv_size for x in full]
    f = [x.ffn_size * x.ffn_stack for x in full]
    return (
        1.0,
        n,
        len(full),
        sum(x.ffn_stack for x in full) * n,  # LayerNorm and residuals
        n * sum(q),  # attention's products with weights
        sum(q),  # products between activations
        sum(x.heads for x in full),  # softmax
        n * sum(f),  # feed-forward's products
        sum(f),  # gelu
        last.qkv_size * n,
        last.heads * n,
        last.ffn_size * last.ffn_stack * n,
    )


def weights(subnet: SubnetConfig) -> int:
    """How many weights the layers' products read for one inference."""
    n = subnet.hidden_size
    return sum(4 * n * x.qkv_size + 2 * n * x.ffn_size * x.ffn_stack for x in subnet.layers)


def effects(subnet: SubnetConfig) -> dict[str, float]:
    """What may cost more on one machine and not on another."""
    read, n, full = weights(subnet), subnet.hidden_size, subnet.depth - 1
    found = {f"more than {edge:,.0f} weights": max(0.0, read - edge) for edge in _CACHES}
    found |= {f"hidden size no multiple of {m}": float(full * n * (n % m > 0)) for m in _VECTORS}
    found["what cells compute beside their products"] = float(sum(map(partial(_beside, n), subnet.layers[:-1])))
    return found | {"a single layer": float(full == 0)}


def _beside(n: int, layer: LayerConfig) -> int:
    """Passes over activations that a layer's cells have and BERT's own has not."""
    over_hidden, over_ffn = layer.cell.passes
    return layer.ffn_stack * (over_hidden * n + (over_ffn - 1) * layer.ffn_size)


def _sizes(subnet: SubnetConfig) -> tuple[float, ...]:
    """Logarithms of a typical layer's sizes, of the depth and of all weights: where engines are alike."""
    full = subnet.layers[:-1] or subnet.layers
    q = sum(x.qkv_size for x in full) / len(full)
    f = sum(x.ffn_size * x.ffn_stack for x in full) / len(full)
    heads = sum(x.heads for x in full) / len(full)
    return tuple(math.log(x) for x in (subnet.depth, subnet.hidden_size, q, f, heads, weights(subnet)))


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How well engines are predicted that were left out: mean relative error (fraction) and rank correlation."""

    engines: int
    mape: float
    spearman: float

    def __str__(self) -> str:
        return f"{self.engines} engines, held-out error {self.mape:.1%}, rank correlation {self.spearman:.3f}"


class _Member:
    """One fit: the analytic part with its effects, and the process over what it leaves."""

    def __init__(self, subnets: Sequence[SubnetConfig], ms: Array) -> None:
        self.effects, self._fit = _forward_selection(subnets, ms)
        self._floor_ms = _FLOOR * float(ms.min())
        # An engine that was disturbed must not bend the process to itself.
        most = _FAR * self._fit.spread
        left = np.clip(np.log(ms / self._analytic(subnets)), -most, most)
        self._rest = GaussianProcess.fit(_size_table(subnets), left)

    def _analytic(self, subnets: Sequence[SubnetConfig]) -> Array:
        return np.maximum(self._fit(_table(subnets, self.effects)), self._floor_ms)

    def __call__(self, subnets: Sequence[SubnetConfig]) -> tuple[Array, Array]:
        """Logarithms of ms [m] and their standard deviations [m].

        The process knows how far a subnet is from those measured; the analytic part's own error is the least spread.
        """
        rest, spread = self._rest(_size_table(subnets))
        return np.log(self._analytic(subnets)) + rest, np.hypot(spread, self._fit.spread)


class LatencyModel:
    """Milliseconds of engines of one target in one precision, fitted to `ms` [n] measured for `subnets`.

    It is the mean of eight members, each fitted without one eighth of the engines. What they say of the eighth they
    have not seen is the model's `quality`, and where they disagree is part of its uncertainty (Krogh & Vedelsby 1995).
    Raises `ValueError` for fewer than `LEAST_ENGINES`, or for latencies that are not positive.
    """

    def __init__(self, subnets: Sequence[SubnetConfig], ms: Sequence[float]) -> None:
        if len(subnets) != len(ms) or len(ms) < LEAST_ENGINES:
            raise ValueError(
                f"a latency model is fitted to {LEAST_ENGINES} measured engines or more, one latency each; "
                f"got {len(subnets)} and {len(ms)}"
            )
        if not all(math.isfinite(x) and x > 0 for x in ms):
            raise ValueError("latencies are positive numbers of ms")
        self._subnets, self._ms = tuple(subnets), np.asarray(ms, dtype=np.float64)
        self._folds = np.arange(len(ms)) % _MEMBERS
        if len(ms) * (_MEMBERS - 1) // _MEMBERS < LEAST_ENGINES:
            self._members = [_Member(self._subnets, self._ms)]
        else:
            kept = [np.flatnonzero(self._folds != fold) for fold in range(_MEMBERS)]
            self._members = [_Member([self._subnets[i] for i in rows], self._ms[rows]) for rows in kept]

    @property
    def effects(self) -> tuple[str, ...]:
        """The machine's effects that most members found."""
        found = Counter(name for member in self._members for name in member.effects)
        return tuple(name for name, count in found.most_common() if count > len(self._members) / 2)

    def __call__(self, subnets: Sequence[SubnetConfig]) -> tuple[Array, Array]:
        """Predicted ms [m] and their standard deviations [m]."""
        said = [member(subnets) for member in self._members]
        logs, spreads = np.array([log for log, _ in said]), np.array([spread for _, spread in said])
        ms: Array = np.exp(logs.mean(axis=0))
        return ms, ms * np.sqrt((spreads**2).mean(axis=0) + logs.var(axis=0))

    @cached_property
    def quality(self) -> Quality | None:
        """Of every engine, what the member says that was fitted without it; None for too few engines."""
        if len(self._members) == 1:
            return None
        guesses = np.zeros(len(self._ms))
        for fold, member in enumerate(self._members):
            out = np.flatnonzero(self._folds == fold)
            guesses[out] = np.exp(member([self._subnets[i] for i in out])[0])
        return Quality(
            engines=len(self._ms),
            mape=float(np.abs(guesses / self._ms - 1).mean()),
            spearman=spearman(guesses.tolist(), self._ms.tolist()) or 0.0,
        )


def _forward_selection(subnets: Sequence[SubnetConfig], ms: Array) -> tuple[tuple[str, ...], RelativeLeastSquares]:
    """The effects that lower the held-out error, most helpful first, and the fit with them."""
    table = {name: column for name, column in _effect_table(subnets).items() if column.std() > 0}
    rows = _table(subnets, ())
    chosen: list[str] = []
    best = RelativeLeastSquares.fit(rows, ms)
    while len(chosen) < _MOST_EFFECTS:
        fits = {
            name: RelativeLeastSquares.fit(np.column_stack([rows, column]), ms)
            for name, column in table.items()
            if name not in chosen
        }
        if not fits:
            break
        name = min(fits, key=lambda x: fits[x].error)
        if fits[name].error > best.error * (1 - _LEAST_GAIN):
            break
        chosen.append(name)
        best, rows = fits[name], np.column_stack([rows, table[name]])
    return tuple(chosen), best


def _effect_table(subnets: Sequence[SubnetConfig]) -> dict[str, Array]:
    found = [effects(x) for x in subnets]
    return {name: np.array([x[name] for x in found]) for name in found[0]}


def _table(subnets: Sequence[SubnetConfig], chosen: Sequence[str]) -> Array:
    rows = np.array([terms(x) for x in subnets], dtype=np.float64)
    if not chosen:
        return rows
    columns = _effect_table(subnets)
    return np.column_stack([rows, *(columns[name] for name in chosen)])


def _size_table(subnets: Sequence[SubnetConfig]) -> Array:
    return np.array([_sizes(x) for x in subnets], dtype=np.float64)
