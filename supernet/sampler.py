"""Which subnets a training step updates."""

from __future__ import annotations

from random import Random

from supernet.space import SearchSpace, SubnetConfig


def sandwich(space: SearchSpace, *, random_subnets: int, rng: Random) -> list[SubnetConfig]:
    """The largest, the smallest and `random_subnets` drawn ones (Yu & Huang 2019): the extremes bound all others.

    Which layers the extremes keep is drawn too: any set of the greatest or least depth is equally extreme.
    """
    chosen = []
    for extreme in (space.largest(), space.smallest()):
        first = extreme.layers[0]
        chosen.append(
            SubnetConfig.uniform(
                hidden_size=extreme.hidden_size,
                depth=extreme.depth,
                heads=first.heads,
                head_size=first.head_size,
                ffn_size=first.ffn_size,
                ffn_stack=first.ffn_stack,
                sources=rng.choice(space.layer_sets_of(extreme.depth)),
            )
        )
    return chosen + [space.sample(rng) for _ in range(random_subnets)]
