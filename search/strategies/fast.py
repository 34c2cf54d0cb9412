"""AutoTinyBERT's "fast" development (Yin et al., ACL 2021): random candidates of good proportions, without evolution.

Their rule: the feed-forward layer is 1.6 to 1.9 times as wide as the hidden states, queries, keys and values 0.7 to 1.0
times. Drawing only such candidates finds good ones without a search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from search.candidate import Candidate
from search.design import Design, DesignSpace
from search.plan import SearchPlan
from search.strategy import Proposal
from supernet.space import SubnetConfig

FFN_OF_HIDDEN = (1.6, 1.9)
QKV_OF_HIDDEN = (0.7, 1.0)


def _within(size: int, hidden: int, band: tuple[float, float]) -> bool:
    return band[0] * hidden <= size <= band[1] * hidden


class Fast:
    """New designs, uniform among those of good proportions; learns nothing."""

    name = "fast"

    def __init__(self, space: DesignSpace, plan: SearchPlan, rng: Random) -> None:
        """Raises `ValueError` where no subnet of the space has the proportions."""
        self._space, self._plan, self._rng = space, plan, rng
        self._seen: set[Design] = set()
        self._choices: dict[int, tuple[list[tuple[int, int]], list[int]]] = {}
        subnets = space.subnets
        for hidden in subnets.hidden_sizes:
            pairs = [(h, d) for h in subnets.heads for d in subnets.head_sizes if _within(h * d, hidden, QKV_OF_HIDDEN)]
            ffns = [f for f in subnets.ffn_sizes if _within(f, hidden, FFN_OF_HIDDEN)]
            if pairs and ffns:
                self._choices[hidden] = pairs, ffns
        if not self._choices:
            raise ValueError(
                "no subnet of the space has a feed-forward size of 1.6 to 1.9 and queries of 0.7 to 1.0 times the "
                f"hidden size: hidden sizes are {subnets.hidden_sizes}, feed-forward sizes {subnets.ffn_sizes}, heads "
                f"{subnets.heads} of {subnets.head_sizes}; widen them, or take method = 'random'"
            )

    def ask(self, count: int) -> list[Proposal]:
        """As many as were not drawn before, within the plan's patience."""
        designs: list[Design] = []
        fruitless = 0
        while len(designs) < count and fruitless < self._plan.patience:
            drawn = self._space.sample(self._rng)
            design = replace(drawn, subnet=self._shaped(drawn.subnet))
            if design in self._seen:
                fruitless += 1
                continue
            self._seen.add(design)
            designs.append(design)
            fruitless = 0
        return [Proposal(design=x) for x in designs]

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Forgets them."""

    def _shaped(self, subnet: SubnetConfig) -> SubnetConfig:
        """A drawn subnet with sizes of the rule: its layers and cells stay."""
        hidden = self._rng.choice(list(self._choices))
        pairs, ffns = self._choices[hidden]
        alike = not self._space.subnets.per_layer
        layers = []
        pair, ffn = self._rng.choice(pairs), self._rng.choice(ffns)
        for layer in subnet.layers:
            if not alike:
                pair, ffn = self._rng.choice(pairs), self._rng.choice(ffns)
            layers.append(replace(layer, heads=pair[0], head_size=pair[1], ffn_size=ffn))
        return SubnetConfig(hidden_size=hidden, layers=tuple(layers))
