"""Architectures: one subnet, layer by layer. Standard library only, so that any floor can name one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from supernet.cells import PLAIN, Cell

# EfficientBERT's range of stacked feed-forward cells.
MAX_FFN_STACK = 4
_LAYER_FIELDS = ("source", "heads", "head_size", "ffn_size")


def check(condition: bool, message: str) -> None:
    """Raises `ValueError` with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True, order=True)
class LayerConfig:
    """One Transformer layer of a subnet.

    `source` is the index of the supernet's layer it is cut from: depth is a choice of *which* layers stay.
    A head keeps its first `head_size` dims, a layer its first `heads` heads and first `ffn_size` neurons.
    The feed-forward cell is stacked `ffn_stack` times, each with weights, residual and LayerNorm of its own
    (EfficientBERT, Dong et al. 2021); a layer keeps its first cells. What a cell computes with its two linears is
    `cell`; any cell can be computed with the linears of any other.
    """

    source: int
    heads: int
    head_size: int
    ffn_size: int
    ffn_stack: int = 1
    cell: Cell = PLAIN

    def __post_init__(self) -> None:
        check(self.source >= 0, f"source must be 0 or more, got {self.source}")
        for name in ("heads", "head_size", "ffn_size"):
            check(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        check(
            1 <= self.ffn_stack <= MAX_FFN_STACK, f"ffn_stack must lie within 1..{MAX_FFN_STACK}, got {self.ffn_stack}"
        )

    @property
    def qkv_size(self) -> int:
        """Width of the query, key and value products; independent of the hidden size."""
        return self.heads * self.head_size

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Heads, head size, feed-forward size and stack: all that is counted."""
        return self.heads, self.head_size, self.ffn_size, self.ffn_stack

    def to_json(self) -> dict[str, int | str]:
        """Plain data, without a stack of 1 and the plain cell: keys of subnets from before there were others stay."""
        data: dict[str, int | str] = {name: getattr(self, name) for name in _LAYER_FIELDS}
        data |= {"ffn_stack": self.ffn_stack} if self.ffn_stack > 1 else {}
        return data | ({} if self.cell.is_plain else {"cell": self.cell.text})

    def __str__(self) -> str:
        stack = f"*{self.ffn_stack}" if self.ffn_stack > 1 else ""
        cell = "" if self.cell.is_plain else f"={self.cell.text.replace(' ', '')}"
        return f"{self.source}:{self.heads}x{self.head_size}/{self.ffn_size}{stack}{cell}"


@dataclass(frozen=True, kw_only=True, order=True)
class SubnetConfig:
    """A BERT encoder's shape: hidden size and, per kept layer, its attention and feed-forward sizes."""

    hidden_size: int
    layers: tuple[LayerConfig, ...]

    def __post_init__(self) -> None:
        check(self.hidden_size > 0, f"hidden_size must be positive, got {self.hidden_size}")
        check(len(self.layers) > 0, "a subnet keeps at least one layer")
        sources = [layer.source for layer in self.layers]
        check(sources == sorted(set(sources)), f"layer sources must ascend without repeats, got {sources}")

    @classmethod
    def uniform(
        cls,
        *,
        hidden_size: int,
        depth: int,
        heads: int,
        ffn_size: int,
        head_size: int | None = None,
        ffn_stack: int = 1,
        cell: Cell = PLAIN,
        sources: Sequence[int] | None = None,
    ) -> SubnetConfig:
        """All layers alike; `head_size` defaults to hidden_size // heads, `sources` to the first layers."""
        size = head_size if head_size is not None else hidden_size // heads
        kept = range(depth) if sources is None else sources
        check(len(kept) == depth, f"depth is {depth} but {len(kept)} sources are named")
        layers = (
            LayerConfig(source=i, heads=heads, head_size=size, ffn_size=ffn_size, ffn_stack=ffn_stack, cell=cell)
            for i in kept
        )
        return cls(hidden_size=hidden_size, layers=tuple(layers))

    @property
    def depth(self) -> int:
        """How many layers are kept."""
        return len(self.layers)

    @property
    def sources(self) -> tuple[int, ...]:
        """Which of the supernet's layers are kept."""
        return tuple(layer.source for layer in self.layers)

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that name this architecture in files and tables."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def is_stock_bert(self) -> bool:
        """Whether `transformers`' BERT can express it: equal layers of one plain cell, hidden size = heads x head."""
        first = self.layers[0]
        alike = all(layer.sizes == first.sizes and layer.cell.is_plain for layer in self.layers)
        return alike and first.ffn_stack == 1 and first.qkv_size == self.hidden_size

    def renumbered(self) -> SubnetConfig:
        """The same shape as a network of its own, whose layers are 0, 1, 2, ..."""
        return replace(self, layers=tuple(replace(layer, source=i) for i, layer in enumerate(self.layers)))

    def fits(self, other: SubnetConfig) -> bool:
        """Whether this subnet can be cut from `other`."""
        if self.hidden_size > other.hidden_size:
            return False
        by_source = {layer.source: layer for layer in other.layers}
        return all(
            (whole := by_source.get(layer.source)) is not None
            and all(mine <= its for mine, its in zip(layer.sizes, whole.sizes, strict=True))
            for layer in self.layers
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back to an equal object."""
        return {"hidden_size": self.hidden_size, "layers": [layer.to_json() for layer in self.layers]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SubnetConfig:
        """Raises `ValueError` for a field that is missing, unknown or of another kind; `to_json` says what may miss."""
        check(isinstance(data, Mapping), f"a subnet is an object, got {type(data).__name__}")
        check(set(data) == {"hidden_size", "layers"}, f"a subnet has hidden_size and layers, got {sorted(data)}")
        fields = set(_LAYER_FIELDS)
        layers = []
        check(isinstance(data["layers"], list), f"layers is a list, got {type(data['layers']).__name__}")
        for i, layer in enumerate(data["layers"]):
            check(isinstance(layer, Mapping), f"layers[{i}] is an object, got {type(layer).__name__}")
            check(
                set(layer) - {"ffn_stack", "cell"} == fields,
                f"layers[{i}] has {sorted(fields)}, got {sorted(map(str, layer))}",
            )
            sizes = {name: value for name, value in layer.items() if name != "cell"}
            check(all(type(v) is int for v in sizes.values()), f"layers[{i}] holds integers only, got {sizes}")
            layers.append(LayerConfig(**sizes, cell=Cell.parse(layer["cell"]) if "cell" in layer else PLAIN))
        check(type(data["hidden_size"]) is int, f"hidden_size is an integer, got {data['hidden_size']!r}")
        return cls(hidden_size=data["hidden_size"], layers=tuple(layers))

    def __str__(self) -> str:
        return f"{self.depth}L-{self.hidden_size} [{' '.join(map(str, self.layers))}]"
