"""What a search asks for first: hand-made cuts, and what earlier searches found good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from atb_export.baselines import spread
from search.candidate import Candidate
from search.design import Design, DesignSpace
from search.front import front
from search.store import Store
from supernet.space import SearchSpace, SubnetConfig

MOST_EARLIER = 8
"""Subnets taken over from earlier searches at most."""


def hand_made_cuts(space: SearchSpace) -> list[SubnetConfig]:
    """For each depth the plain cut a person would make: evenly spread layers, everything else at its largest.

    A search that ends behind one of these has failed, so they are candidates from the start.
    """
    whole = space.largest()
    widest = whole.layers[0]
    by_depth: dict[int, SubnetConfig] = {}
    for depth in sorted({len(kept) for kept in space.layer_sets}):
        wanted = spread(depth, space.source_layers)
        sets = [kept for kept in space.layer_sets if len(kept) == depth]
        kept = min(sets, key=lambda x: (sum(abs(a - b) for a, b in zip(x, wanted, strict=True)), x))
        layers = (replace(widest, source=i) for i in kept)
        by_depth[depth] = SubnetConfig(hidden_size=whole.hidden_size, layers=tuple(layers))
    return list(by_depth.values())


def earlier_fronts(store: Store, space: DesignSpace, targets: Sequence[str], *, without: str) -> list[Design]:
    """Designs of this space on the fronts of earlier searches for the same targets, the most accurate first."""
    found: dict[Design, float] = {}
    for search, header, _, evaluations in store.searches():
        if search == without or header.get("targets") != list(targets) or evaluations == 0:
            continue
        try:
            candidates = [Candidate.from_json(x) for x in store.recorded(search).candidates]
        except ValueError:  # of another version, or a stranger's: it has nothing to offer
            continue
        for x in front(candidates):
            if space.contains(x.design):
                found[x.design] = max(found.get(x.design, 0.0), x.accuracy or 0.0)
    return sorted(found, key=lambda x: (-found[x], x.key))[:MOST_EARLIER]
