"""Which subnets a training step updates. All follow from (seed, step), so that every process teaches the same ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from supernet.space import SearchSpace, SubnetConfig
from supernet.stage import Sampler

# Progressive shrinking opens these one after the other, each over a quarter of the steps; the last quarter has all.
_OPENED = (("layer_sets",), ("heads", "head_sizes", "ffn_sizes", "ffn_stacks", "cells"), ("hidden_sizes",))


@dataclass(frozen=True, kw_only=True)
class Front:
    """Where good subnets lie: what one costs, in any unit, and the costs asked for: a limit, or those of a front."""

    cost: Callable[[SubnetConfig], float]
    bounds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.bounds or not all(0 < x < math.inf for x in self.bounds):
            raise ValueError(f"a front has at least one bound, and they are positive and finite; got {self.bounds}")

    def distance(self, subnet: SubnetConfig) -> float:
        """The least factor to a bound, as its logarithm: half and double are equally far."""
        cost = self.cost(subnet)
        return min(abs(math.log(cost / bound)) for bound in self.bounds) if cost > 0 else math.inf


def subnets_of(
    sampler: Sampler, space: SearchSpace, *, step: int, steps: int, seed: int, front: Front | None = None
) -> list[SubnetConfig]:
    """The subnets of a step, the largest first where the sampler has it in every step.

    `front` is what an attentive sampler heeds; it raises `ValueError` without one. A whole network has no subnets:
    `whole` gives the largest of the space.
    """
    rng = Random(f"{seed}-{_STREAMS.get(sampler.kind, sampler.kind)}-{step}")
    if sampler.kind == "whole":
        return [space.largest()]
    if sampler.kind == "uniform":
        return [space.sample(rng)]
    if sampler.kind == "sandwich":
        return sandwich(space, random_subnets=sampler.random_subnets, rng=rng)
    if sampler.kind == "progressive":
        open_now = opened(space, step=step, steps=steps)
        return list(dict.fromkeys(sandwich(open_now, random_subnets=sampler.random_subnets, rng=rng)))
    if front is None:
        raise ValueError("an attentive sampler needs a front: what a subnet costs, and the costs that are asked for")
    drawn = (
        min((space.sample(rng) for _ in range(sampler.draws)), key=front.distance)
        for _ in range(sampler.random_subnets)
    )
    return [*sandwich(space, random_subnets=0, rng=rng), *drawn]


_STREAMS = {"attentive": "sandwich"}


def sandwich(space: SearchSpace, *, random_subnets: int, rng: Random) -> list[SubnetConfig]:
    """The largest, the smallest and `random_subnets` drawn ones (Yu & Huang 2019): the extremes bound all others.

    Which layers the extremes keep is drawn too: any set of the greatest or least depth is equally extreme.
    """
    chosen = []
    for extreme in (space.largest(), space.smallest()):
        kept = rng.choice(space.layer_sets_of(extreme.depth))
        layers = (replace(layer, source=source) for layer, source in zip(extreme.layers, kept, strict=True))
        chosen.append(replace(extreme, layers=tuple(layers)))
    return chosen + [space.sample(rng) for _ in range(random_subnets)]


def opened(space: SearchSpace, *, step: int, steps: int) -> SearchSpace:
    """The part of a space that progressive shrinking (Cai et al. 2020) has opened: the greatest choices first.

    Depth opens in the first quarter of the steps, heads and feed-forward in the second, hidden size in the third.
    """
    known = []
    for phase, names in enumerate(_OPENED):
        part = min(1.0, max(0.0, 4 * step / steps - phase))
        counts = (len(space.depths if name == "layer_sets" else getattr(space, name)) for name in names)
        known += [(name, max(1, math.ceil(part * number))) for name, number in zip(names, counts, strict=True)]
    return _greatest(space, tuple(known))


@lru_cache(maxsize=8)
def _greatest(space: SearchSpace, known: tuple[tuple[str, int], ...]) -> SearchSpace:
    kept: dict[str, tuple[object, ...]] = {}
    for name, number in known:
        if name == "layer_sets":
            depths = space.depths[-number:]
            kept[name] = tuple(x for x in space.layer_sets if len(x) in depths)
        elif name == "cells":  # the first is the largest subnet's
            kept[name] = space.cells[:number]
        else:
            kept[name] = tuple(sorted(getattr(space, name))[-number:])
    return replace(space, **kept)  # type: ignore[arg-type]
