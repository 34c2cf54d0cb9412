"""What models guess about designs nobody measured, and which of them are worth an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from search.accuracy_model import LEAST_SUBNETS, AccuracyModel
from search.candidate import Candidate
from search.design import Design
from search.front import area
from search.goals import Goals
from search.latency_model import LEAST_ENGINES, LatencyModel, weights
from search.regression import Array
from supernet.space import SearchSpace, SubnetConfig

Known = Mapping[tuple[int, str], Sequence[tuple[SubnetConfig, float]]]
"""(index of the target, precision) -> subnets with the ms measured there: what the store holds from before."""

Latency = Callable[[Sequence[SubnetConfig]], tuple[Array, Array]]
"""Subnets [m] -> guessed ms [m] and their standard deviations [m]."""

FEW = 4
"""Engines of a precision that tell how it relates to another, or to a rough guess."""
_ROUGH = 0.15  # relative: how far operations miss latencies at least, however well they fit a few
_MOST_ENGINES = 160  # a fit takes the cube of it; what the search measured itself comes last and stays
_EDGE = 1.1  # the load from which on a design adds nothing; beyond the limit, for the most accurate lie close to it
_OPTIMISM = 1.0  # standard deviations added to a guessed accuracy: what is uncertain may be better than it looks


class Guide:
    """The models of one moment of a search: fitted to `told` and to what is `known` from before.

    Until there are engines enough for a model, latency is taken to go with `rough`: a subnet's operations, say.
    """

    def __init__(
        self,
        space: SearchSpace,
        goals: Goals,
        told: Sequence[Candidate],
        known: Known,
        rough: Callable[[SubnetConfig], float] = weights,
    ) -> None:
        self._goals = goals = _bounded(goals, told)
        self._front = sorted(
            (goals.load(x.ms), x.accuracy or 0.0) for x in told if x.is_scored and goals.violation(x.ms) == 0
        )
        self._latency = _latency_models(told, known, rough)
        scored = [(x.subnet, x.accuracy) for x in told if x.complete and x.accuracy is not None]
        self._scores = [score for _, score in scored]
        self._accuracy: AccuracyModel | None = None
        if len(scored) >= LEAST_SUBNETS:
            self._accuracy = AccuracyModel(space, [x for x, _ in scored], self._scores)

    @property
    def is_ready(self) -> bool:
        """Whether enough was measured to guess accuracies and the latencies of at least one precision per target."""
        targets = {target for target, _ in self._latency}
        return self._accuracy is not None and len(targets) == len(self._goals.constraints_ms)

    def latencies(self, designs: Sequence[Design]) -> tuple[Array, Array] | None:
        """Guessed ms and standard deviations, [designs, targets] each; None where a target has too few engines.

        A precision that was hardly measured yet is guessed to be as fast as the fastest that was, with a doubt of half.
        """
        targets = len(self._goals.constraints_ms)
        means, spreads = np.zeros((len(designs), targets)), np.zeros((len(designs), targets))
        for target in range(targets):
            known = {precision: model for (t, precision), model in self._latency.items() if t == target}
            if not known:
                return None
            for precision in sorted({x.precisions[target] for x in designs}):
                rows = [i for i, x in enumerate(designs) if x.precisions[target] == precision]
                subnets = [designs[i].subnet for i in rows]
                if precision in known:
                    means[rows, target], spreads[rows, target] = known[precision](subnets)
                else:
                    means[rows, target] = np.min([model(subnets)[0] for model in known.values()], axis=0)
                    spreads[rows, target] = 0.5 * means[rows, target]
        return means, spreads

    def choose(self, designs: Sequence[Design], count: int) -> list[int]:
        """Indices of the `count` designs expected to add most to the front within the constraints.

        One after the other: each is counted as if the hope for it had come true, so that the next one looks elsewhere.
        Empty where a model is missing.
        """
        judged = self._judged(designs)
        if judged is None:
            return []
        loads, feasible, hoped, worst = judged
        # Faster than `focus` buys nothing; slightly over the limit counts as at it: `feasible` carries the doubt.
        places = np.clip(loads, self._goals.focus, 1.0).tolist()
        front = [(max(load, self._goals.focus), score) for load, score in self._front]
        points = list(zip(places, hoped.tolist(), strict=True))
        chosen: list[int] = []
        for _ in range(min(count, len(designs))):
            now = area(sorted(front), accuracy=worst, latency_ms=_EDGE)
            gains = np.array([area(sorted([*front, x]), accuracy=worst, latency_ms=_EDGE) - now for x in points])
            # Where nothing gains, the most accurate guess that fits goes first.
            gains = gains * feasible + 1e-9 * feasible * (hoped - worst)
            gains[chosen] = -1.0
            best = int(np.argmax(gains))
            chosen.append(best)
            front.append(points[best])
        return chosen

    def most_accurate(self, designs: Sequence[Design], count: int) -> list[int]:
        """Indices of the `count` designs hoped to be most accurate, each hope weighted by how likely it fits.

        The front is wide, but a search is asked for one winner. Empty where a model is missing.
        """
        judged = self._judged(designs)
        if judged is None:
            return []
        _, feasible, hoped, worst = judged
        found: list[int] = np.argsort(-feasible * (hoped - worst), kind="stable")[:count].tolist()
        return found

    def _judged(self, designs: Sequence[Design]) -> tuple[Array, Array, Array, float] | None:
        """Of each design its load, how likely it fits, its hoped accuracy; and an accuracy that is worse than all."""
        timed = self.latencies(designs) if designs else None
        if timed is None or self._accuracy is None:
            return None
        ms, spread = timed
        loads = np.array([self._goals.load(row) for row in ms])
        # How likely each limit is met, from how far the guess is from it; a logistic stands in for the normal.
        certainty = np.array([self._goals.load(row) for row in ms + spread]) - loads + 1e-9
        feasible = 1 / (1 + np.exp(np.clip(1.7 * (loads - 1.0) / certainty, -50, 50)))
        guess, doubt = self._accuracy([x.subnet for x in designs])
        worst = min([*self._scores, float(guess.min())]) - 1e-6
        return loads, feasible, guess + _OPTIMISM * doubt, worst


def _bounded(goals: Goals, told: Sequence[Candidate]) -> Goals:
    """An objective without a limit counts up to the slowest scored so far, and all the way down."""
    scored = [x.ms for x in told if x.is_scored]
    if None not in goals.constraints_ms or not scored:
        return goals
    slowest = [max(column) for column in zip(*scored, strict=True)]
    limits = tuple(most if x is None else x for x, most in zip(goals.constraints_ms, slowest, strict=True))
    return replace(goals, constraints_ms=limits, focus=0.0)


def _latency_models(
    told: Sequence[Candidate], known: Known, rough: Callable[[SubnetConfig], float]
) -> dict[tuple[int, str], Latency]:
    measured: dict[tuple[int, str], dict[SubnetConfig, float]] = {
        key: {subnet.renumbered(): ms for subnet, ms in pairs} for key, pairs in known.items()
    }
    for x in told:
        for target, (precision, timing) in enumerate(zip(x.design.precisions, x.latencies, strict=False)):
            mine = measured.setdefault((target, precision), {})
            mine.pop(shape := x.subnet.renumbered(), None)  # what is measured again moves to the end
            mine[shape] = timing.ms
    models: dict[tuple[int, str], Latency] = {}
    for key, pairs in measured.items():
        newest = list(pairs.items())[-_MOST_ENGINES:]
        if len(newest) >= LEAST_ENGINES:
            models[key] = LatencyModel([x for x, _ in newest], [ms for _, ms in newest])
    for target in {t for t, _ in measured}:
        few = {p: x for (t, p), x in measured.items() if t == target and (t, p) not in models and len(x) >= FEW}
        if few and not any(t == target for t, _ in models):
            models |= {(target, p): x for p, x in _shared(few, rough).items()}
        elif few:
            base = models[max((k for k in models if k[0] == target), key=lambda k: len(measured[k]))]
            models |= {(target, p): _Scaled.fit(base, x) for p, x in few.items()}
    return models


@dataclass(frozen=True, kw_only=True)
class _Scaled:
    """A precision with few engines: another's latencies times a factor, as its own engines show it."""

    base: Latency
    factor: float
    spread: float  # relative, of its engines about that

    @classmethod
    def fit(cls, base: Latency, pairs: Mapping[SubnetConfig, float], *, least: float = 0.0) -> _Scaled:
        left = np.log(np.array(list(pairs.values())) / base(list(pairs))[0])
        return cls(base=base, factor=float(np.exp(np.median(left))), spread=max(least, float(left.std())))

    def __call__(self, subnets: Sequence[SubnetConfig]) -> tuple[Array, Array]:
        ms, spread = self.base(subnets)
        return ms * self.factor, np.hypot(spread * self.factor, ms * self.factor * self.spread)


def _shared(
    few: Mapping[str, Mapping[SubnetConfig, float]], rough: Callable[[SubnetConfig], float]
) -> Mapping[str, Latency]:
    """One model for precisions that have too few engines each, every one times its own factor."""

    def by_size(subnets: Sequence[SubnetConfig]) -> tuple[Array, Array]:
        sizes = np.array([rough(x) for x in subnets], dtype=np.float64)
        return sizes, np.zeros_like(sizes)

    alone = {p: _Scaled.fit(by_size, x, least=_ROUGH) for p, x in few.items()}
    if sum(map(len, few.values())) < LEAST_ENGINES:
        return alone
    usual = max(x.factor for x in alone.values())  # so that the base is in ms
    scaled = [(subnet, ms * usual / alone[p].factor) for p, x in few.items() for subnet, ms in x.items()]
    base = LatencyModel([subnet for subnet, _ in scaled], [ms for _, ms in scaled])
    return {p: _Scaled.fit(base, x) for p, x in few.items()}
