"""A search that narrows: some genes are free, the others are held as a design that was found before has them.

EfficientBERT's coarse-to-fine search (Dong et al., Findings of EMNLP 2021): first expression, stack and width of the
feed-forward cells together, then expressions alone, then stacks and widths alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Any

from supernet.space import LayerConfig, SearchSpace, SubnetConfig

# Gene -> what it is in a layer. The layers that are kept and the hidden size are genes of the whole subnet.
_OF_LAYER = {
    "heads": "heads",
    "head_sizes": "head_size",
    "ffn_sizes": "ffn_size",
    "ffn_stacks": "ffn_stack",
    "cells": "cell",
}
GENES = ("layers", "hidden_sizes", *_OF_LAYER)
"""What a phase may set free."""


def narrowed(space: SearchSpace, base: SubnetConfig, free: Collection[str]) -> SearchSpace:
    """The part of a space whose genes, but for the `free` ones, are those of `base`.

    Raises `ValueError` for an unknown gene, a base outside the space, or where nothing is left to choose.
    """
    if strange := sorted(set(free) - set(GENES)):
        raise ValueError(f"genes are {', '.join(GENES)}; got {', '.join(strange)}")
    if not space.contains(base):
        raise ValueError(f"what a phase holds on to lies in the space, {base} does not")
    choices: dict[str, Any] = {x.name: getattr(space, x.name) for x in fields(SearchSpace)}
    if "layers" not in free:
        choices["layer_sets"] = (base.sources,)
    if "hidden_sizes" not in free:
        choices["hidden_sizes"] = (base.hidden_size,)
    held = tuple(gene for gene in _OF_LAYER if gene not in free)
    for gene in held:
        choices[gene] = tuple(dict.fromkeys(getattr(layer, _OF_LAYER[gene]) for layer in base.layers))
    found = HeldSpace(**choices, base=base, held=held)
    if found.size() < 2:
        raise ValueError(f"{', '.join(free)} have one choice only in the space, so there is nothing to search")
    return found


@dataclass(frozen=True, kw_only=True)
class HeldSpace(SearchSpace):
    """A space whose layers have the genes `held` as those of `base` have them, each layer its own.

    Layers that `base` does not keep take what its nearest kept layer has.
    """

    base: SubnetConfig
    held: tuple[str, ...]

    def hold(self, subnet: SubnetConfig) -> SubnetConfig:
        """The same subnet with the held genes of `base`."""
        layers = []
        for layer in subnet.layers:
            theirs = _nearest(self.base, layer.source)
            names = (_OF_LAYER[gene] for gene in self.held)
            layers.append(replace(layer, **{name: getattr(theirs, name) for name in names}))
        return replace(subnet, layers=tuple(layers))

    def contains(self, subnet: SubnetConfig) -> bool:
        """Whether `sample` could return it."""
        return super().contains(subnet) and self.hold(subnet) == subnet

    def size(self) -> int:
        """How many subnets it holds."""
        choices = {x.name: getattr(self, x.name) for x in fields(SearchSpace)}
        return SearchSpace(**{**choices, **{gene: choices[gene][:1] for gene in self.held}}).size()

    def smallest(self) -> SubnetConfig:
        """The least choice of every free gene."""
        return self.hold(super().smallest())

    def largest(self) -> SubnetConfig:
        """The greatest choice of every free gene."""
        return self.hold(super().largest())

    def sample(self, rng: Random) -> SubnetConfig:
        """One subnet, every free gene drawn as the whole space draws it."""
        return self.hold(super().sample(rng))

    def mutate(self, subnet: SubnetConfig, rng: Random, *, rate: float = 0.2) -> SubnetConfig:
        """A neighbour in the free genes; often the subnet itself where few are free."""
        return self.hold(super().mutate(subnet, rng, rate=rate))

    def crossover(self, a: SubnetConfig, b: SubnetConfig, rng: Random) -> SubnetConfig:
        """A child of both, which agree in the held genes."""
        return self.hold(super().crossover(a, b, rng))

    def to_json(self) -> dict[str, Any]:
        """Plain data that tells it from other spaces; it is not read back."""
        return {**super().to_json(), "base": self.base.to_json(), "held": list(self.held)}


def _nearest(subnet: SubnetConfig, source: int) -> LayerConfig:
    """The layer cut from `source`, or from the nearest to it."""
    return min(subnet.layers, key=lambda x: (abs(x.source - source), x.source))
