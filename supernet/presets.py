"""Spaces others have searched, and one of our own, by name. Standard library only.

- `autotinybert-mlm`, `autotinybert-kd`: AutoTinyBERT (Yin et al., ACL 2021, "AutoTinyBERT: Automatic Hyper-parameter
  Optimization for Efficient Pre-trained Language Models"), table of search spaces: the first layers, all alike. For the
  masked language model the width of queries, keys and values follows from heads of 64, for distillation it is free.
- `efficientbert`: EfficientBERT (Dong et al., Findings of EMNLP 2021, "EfficientBERT: Progressively Searching
  Multilayer Perceptron via Warm-up Knowledge Distillation"): six layers, whose feed-forward cells differ in width and
  are stacked: what its third stage searches. What a cell computes is one more choice, `cells`, of one's own.
- `per-layer`: any subset of the layers, each with its own attention and feed-forward sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from supernet.cells import PLAIN, Cell
from supernet.space import DIMENSIONS, SearchSpace
from supernet.subnet import check


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The choices of a space before it is known how many layers the supernet has."""

    about: str
    depths: tuple[int, ...]
    hidden_sizes: tuple[int, ...]
    heads: tuple[int, ...]
    head_sizes: tuple[int, ...]
    ffn_sizes: tuple[int, ...]
    ffn_stacks: tuple[int, ...] = (1,)
    cells: tuple[Cell, ...] = (PLAIN,)
    first_layers: bool = False
    per_layer: bool = True

    @property
    def source_layers(self) -> int:
        """Layers of the supernet it was made for."""
        return max(self.depths)

    def space(self, source_layers: int | None = None) -> SearchSpace:
        """The space in a supernet of so many layers; depths beyond them are left out.

        Raises `ValueError` where no depth is left.
        """
        layers = self.source_layers if source_layers is None else source_layers
        depths = [depth for depth in self.depths if depth <= layers]
        check(bool(depths), f"depths start at {min(self.depths)}, but the supernet has {layers} layers")
        make = SearchSpace.first_layers if self.first_layers else SearchSpace.of_depths
        choices = {name: getattr(self, name) for name in DIMENSIONS}
        return make(source_layers=layers, depths=depths, per_layer=self.per_layer, cells=self.cells, **choices)


def _range(least: int, most: int, step: int = 1) -> tuple[int, ...]:
    return tuple(range(least, most + 1, step))


_AUTOTINYBERT = Preset(
    about="AutoTinyBERT's space for masked language models: the first layers, all alike, heads of 64",
    depths=_range(1, 8),
    hidden_sizes=_range(128, 768, 4),
    heads=_range(1, 12),
    head_sizes=(64,),
    ffn_sizes=_range(128, 3072, 4),
    first_layers=True,
    per_layer=False,
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "autotinybert-mlm": _AUTOTINYBERT,
        "autotinybert-kd": replace(
            _AUTOTINYBERT,
            about="AutoTinyBERT's space for distilled models: the first layers, all alike, 12 heads of any size",
            heads=(12,),
            head_sizes=_range(15, 64),
        ),
        "efficientbert": Preset(
            about="EfficientBERT's feed-forward cells: 6 layers, each of 1 to 4 cells of 1, 1/2, 1/3 or 1/4 of hidden",
            depths=(6,),
            hidden_sizes=(540,),
            heads=(12,),
            head_sizes=(45,),
            ffn_sizes=(540, 270, 180, 135),
            ffn_stacks=_range(1, 4),
        ),
        "per-layer": Preset(
            about="any up to 8 layers kept, each with its own heads, head size and feed-forward size",
            depths=_range(1, 8),
            hidden_sizes=_range(128, 768, 4),
            heads=_range(1, 12),
            head_sizes=_range(16, 64, 4),
            ffn_sizes=_range(128, 3072, 4),
        ),
    }
)


def preset(name: str) -> SearchSpace:
    """The named space in a supernet of its own depth; raises `ValueError` for a name there is none of."""
    check(name in PRESETS, f"the presets are {', '.join(PRESETS)}; got {name!r}")
    return PRESETS[name].space()


def aligned(space: SearchSpace, multiples: Mapping[str, int]) -> SearchSpace:
    """The part of a space whose sizes are multiples of what a target's tiles like, such as `{"ffn_sizes": 32}`.

    Attention is as wide as heads times head size: a multiple asked of `head_sizes` holds for the products of every
    number of heads. Raises `ValueError` for an unknown dimension, or one that is left without a choice.
    """
    known = DIMENSIONS[:4]
    kept: dict[str, Any] = {}
    for name, multiple in multiples.items():
        check(name in known, f"the dimensions to align are {', '.join(known)}; got {name!r}")
        check(multiple > 0, f"{name} are aligned to multiples of a positive number, got {multiple}")
        choices = getattr(space, name)
        kept[name] = tuple(x for x in choices if x % multiple == 0)
        check(bool(kept[name]), f"no choice of {name} is a multiple of {multiple}: {str(choices)[:80]}")
    return replace(space, **kept)
