"""Shapes designed by hand, to set beside a searched one."""

from __future__ import annotations

from atb_export.errors import AtbError
from supernet.space import SubnetConfig

DESCRIPTIONS = {
    "tinybert4": "TinyBERT4's shape: 4 layers, hidden 312, 12 heads, feed-forward 1200",
    "cut3": "the teacher cut to 3 layers",
    "cut2": "the teacher cut to 2 layers: its second and its last",
}


def spread(depth: int, source_layers: int) -> tuple[int, ...]:
    """Which layers a plain cut keeps: the second, the last, and even steps between them (1, 3, 5 of 6)."""
    first = min(1, source_layers - depth)
    steps = max(1, depth - 1)
    return tuple(first + round(i * (source_layers - 1 - first) / steps) for i in range(depth))


def baseline(name: str, whole: SubnetConfig) -> SubnetConfig:
    """The named shape as a subnet of a teacher; raises `ValueError` where the teacher is too small for it."""
    layer = whole.layers[0]
    if name == "tinybert4":
        subnet = SubnetConfig.uniform(
            hidden_size=312,
            depth=4,
            heads=12,
            ffn_size=1200,
            # Even steps from the bottom, as in TinyBERT's layer map g(m) = m * teacher / student.
            sources=[(i + 1) * whole.depth // 4 - 1 for i in range(4)] if whole.depth >= 4 else range(4),
        )
    else:
        depth = int(name.removeprefix("cut"))
        subnet = SubnetConfig.uniform(
            hidden_size=whole.hidden_size,
            depth=depth,
            heads=layer.heads,
            head_size=layer.head_size,
            ffn_size=layer.ffn_size,
            sources=spread(depth, whole.depth) if depth <= whole.depth else range(depth),
        )
    if not subnet.fits(whole):
        raise AtbError(f"the baseline {name} ({subnet}) does not fit in the teacher {whole}; drop it from [compare]")
    return subnet
