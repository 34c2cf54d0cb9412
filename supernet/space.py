"""Architectures and the space they are drawn from. Standard library only, so that any floor can name one."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True, order=True)
class LayerConfig:
    """One Transformer layer of a subnet.

    `source` is the index of the supernet's layer it is cut from: depth is a choice of *which* layers stay.
    A head keeps its first `head_size` dims, a layer its first `heads` heads and first `ffn_size` neurons.
    """

    source: int
    heads: int
    head_size: int
    ffn_size: int

    def __post_init__(self) -> None:
        _check(self.source >= 0, f"source must be 0 or more, got {self.source}")
        for name in ("heads", "head_size", "ffn_size"):
            _check(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")

    @property
    def qkv_size(self) -> int:
        """Width of the query, key and value products; independent of the hidden size."""
        return self.heads * self.head_size


@dataclass(frozen=True, kw_only=True, order=True)
class SubnetConfig:
    """A BERT encoder's shape: hidden size and, per kept layer, its attention and feed-forward sizes."""

    hidden_size: int
    layers: tuple[LayerConfig, ...]

    def __post_init__(self) -> None:
        _check(self.hidden_size > 0, f"hidden_size must be positive, got {self.hidden_size}")
        _check(len(self.layers) > 0, "a subnet keeps at least one layer")
        sources = [layer.source for layer in self.layers]
        _check(sources == sorted(set(sources)), f"layer sources must ascend without repeats, got {sources}")

    @classmethod
    def uniform(
        cls,
        *,
        hidden_size: int,
        depth: int,
        heads: int,
        ffn_size: int,
        head_size: int | None = None,
        sources: Sequence[int] | None = None,
    ) -> SubnetConfig:
        """All layers alike; `head_size` defaults to hidden_size // heads, `sources` to the first layers."""
        size = head_size if head_size is not None else hidden_size // heads
        kept = range(depth) if sources is None else sources
        _check(len(kept) == depth, f"depth is {depth} but {len(kept)} sources are named")
        return cls(
            hidden_size=hidden_size,
            layers=tuple(LayerConfig(source=i, heads=heads, head_size=size, ffn_size=ffn_size) for i in kept),
        )

    @property
    def depth(self) -> int:
        """How many layers are kept."""
        return len(self.layers)

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that name this architecture in files and tables."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def is_stock_bert(self) -> bool:
        """Whether `transformers`' BERT can express it: equal layers and hidden size = heads x head size."""
        first = self.layers[0]
        alike = all(
            (layer.heads, layer.head_size, layer.ffn_size) == (first.heads, first.head_size, first.ffn_size)
            for layer in self.layers
        )
        return alike and first.qkv_size == self.hidden_size

    def renumbered(self) -> SubnetConfig:
        """The same shape as a network of its own, whose layers are 0, 1, 2, ..."""
        layers = tuple(
            LayerConfig(source=i, heads=layer.heads, head_size=layer.head_size, ffn_size=layer.ffn_size)
            for i, layer in enumerate(self.layers)
        )
        return SubnetConfig(hidden_size=self.hidden_size, layers=layers)

    def fits(self, other: SubnetConfig) -> bool:
        """Whether this subnet can be cut from `other`."""
        if self.hidden_size > other.hidden_size:
            return False
        by_source = {layer.source: layer for layer in other.layers}
        return all(
            (whole := by_source.get(layer.source)) is not None
            and layer.heads <= whole.heads
            and layer.head_size <= whole.head_size
            and layer.ffn_size <= whole.ffn_size
            for layer in self.layers
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back to an equal object."""
        return {
            "hidden_size": self.hidden_size,
            "layers": [
                {"source": x.source, "heads": x.heads, "head_size": x.head_size, "ffn_size": x.ffn_size}
                for x in self.layers
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SubnetConfig:
        """Raises `ValueError` where a field is missing, unknown or not an integer."""
        _check(isinstance(data, Mapping), f"a subnet is an object, got {type(data).__name__}")
        _check(set(data) == {"hidden_size", "layers"}, f"a subnet has hidden_size and layers, got {sorted(data)}")
        fields = {"source", "heads", "head_size", "ffn_size"}
        layers = []
        _check(isinstance(data["layers"], list), f"layers is a list, got {type(data['layers']).__name__}")
        for i, layer in enumerate(data["layers"]):
            _check(isinstance(layer, Mapping), f"layers[{i}] is an object, got {type(layer).__name__}")
            _check(set(layer) == fields, f"layers[{i}] has {sorted(fields)}, got {sorted(layer)}")
            _check(all(type(v) is int for v in layer.values()), f"layers[{i}] holds integers only, got {layer}")
            layers.append(LayerConfig(**layer))
        _check(type(data["hidden_size"]) is int, f"hidden_size is an integer, got {data['hidden_size']!r}")
        return cls(hidden_size=data["hidden_size"], layers=tuple(layers))

    def __str__(self) -> str:
        layers = " ".join(f"{x.source}:{x.heads}x{x.head_size}/{x.ffn_size}" for x in self.layers)
        return f"{self.depth}L-{self.hidden_size} [{layers}]"


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """For every dimension the allowed choices.

    `source_layers` is the depth of the supernet; `layer_sets` the sets of its layers that may be kept
    (every subset of an allowed depth when built by `of_depths`). With `per_layer` each layer chooses its own
    sizes, else all layers are alike.
    """

    source_layers: int
    layer_sets: tuple[tuple[int, ...], ...]
    hidden_sizes: tuple[int, ...]
    heads: tuple[int, ...]
    head_sizes: tuple[int, ...]
    ffn_sizes: tuple[int, ...]
    per_layer: bool = True

    def __post_init__(self) -> None:
        for name in ("layer_sets", "hidden_sizes", "heads", "head_sizes", "ffn_sizes"):
            choices = getattr(self, name)
            _check(isinstance(choices, tuple), f"{name} is a tuple, got {type(choices).__name__}")
            _check(len(choices) > 0, f"{name} needs at least one choice")
            _check(len(set(choices)) == len(choices), f"{name} repeats a choice: {choices}")
            if name != "layer_sets":
                _check(min(choices) > 0, f"{name} must be positive, got {choices}")
        for kept in self.layer_sets:
            _check(
                len(kept) > 0 and list(kept) == sorted(set(kept)) and kept[0] >= 0 and kept[-1] < self.source_layers,
                f"layer set {kept} must ascend within 0..{self.source_layers - 1}",
            )

    @classmethod
    def of_depths(cls, *, source_layers: int, depths: Sequence[int], **choices: Any) -> SearchSpace:
        """The space whose layer sets are all subsets of the supernet's layers with an allowed depth."""
        _check(
            all(1 <= d <= source_layers for d in depths),
            f"depths must lie within 1..{source_layers}, got {tuple(depths)}",
        )
        sets = tuple(kept for d in sorted(set(depths)) for kept in itertools.combinations(range(source_layers), d))
        return cls(source_layers=source_layers, layer_sets=sets, **choices)

    def _build(self, kept: Sequence[int], hidden: int, sizes: Sequence[tuple[int, int, int]]) -> SubnetConfig:
        layers = (
            LayerConfig(source=i, heads=h, head_size=d, ffn_size=f) for i, (h, d, f) in zip(kept, sizes, strict=True)
        )
        return SubnetConfig(hidden_size=hidden, layers=tuple(layers))

    def _extreme(self, choose: Any) -> SubnetConfig:
        depth = choose(len(kept) for kept in self.layer_sets)
        kept = next(kept for kept in reversed(self.layer_sets) if len(kept) == depth)
        sizes = (choose(self.heads), choose(self.head_sizes), choose(self.ffn_sizes))
        return self._build(kept, choose(self.hidden_sizes), [sizes] * depth)

    def smallest(self) -> SubnetConfig:
        """The least choice of every dimension."""
        return self._extreme(min)

    def largest(self) -> SubnetConfig:
        """The greatest choice of every dimension."""
        return self._extreme(max)

    def _sizes(self, rng: Random) -> tuple[int, int, int]:
        return rng.choice(self.heads), rng.choice(self.head_sizes), rng.choice(self.ffn_sizes)

    def sample(self, rng: Random) -> SubnetConfig:
        """One subnet, every dimension drawn uniformly; depth first, so that no depth crowds out another."""
        depth = rng.choice(sorted({len(kept) for kept in self.layer_sets}))
        kept = rng.choice([kept for kept in self.layer_sets if len(kept) == depth])
        sizes = [self._sizes(rng)] * depth
        if self.per_layer:
            sizes = [self._sizes(rng) for _ in kept]
        return self._build(kept, rng.choice(self.hidden_sizes), sizes)

    def contains(self, subnet: SubnetConfig) -> bool:
        """Whether `sample` could return it."""
        if tuple(layer.source for layer in subnet.layers) not in self.layer_sets:
            return False
        alike = len({(x.heads, x.head_size, x.ffn_size) for x in subnet.layers}) == 1
        return (
            subnet.hidden_size in self.hidden_sizes
            and (self.per_layer or alike)
            and all(
                x.heads in self.heads and x.head_size in self.head_sizes and x.ffn_size in self.ffn_sizes
                for x in subnet.layers
            )
        )

    def size(self) -> int:
        """How many subnets it holds."""
        sizes = len(self.heads) * len(self.head_sizes) * len(self.ffn_sizes)
        per_set = (sizes ** len(kept) if self.per_layer else sizes for kept in self.layer_sets)
        return len(self.hidden_sizes) * sum(per_set)

    def mutate(self, subnet: SubnetConfig, rng: Random, *, rate: float = 0.2) -> SubnetConfig:
        """A neighbour: every gene is redrawn with probability `rate`, at least one gene always.

        A gene with a single choice stays what it is, so the neighbour may equal the subnet.

        Layers that stay keep their sizes; a layer that enters takes the sizes of its nearest kept layer.
        """
        genes = 2 + 3 * (subnet.depth if self.per_layer else 1)
        flips = {i for i in range(genes) if rng.random() < rate} or {rng.randrange(genes)}
        sizes = [(x.heads, x.head_size, x.ffn_size) for x in subnet.layers]
        for i in range(subnet.depth if self.per_layer else 1):
            heads, head_size, ffn_size = sizes[i]
            sizes[i] = (
                _step(self.heads, heads, rng) if 2 + 3 * i in flips else heads,
                _step(self.head_sizes, head_size, rng) if 3 + 3 * i in flips else head_size,
                _step(self.ffn_sizes, ffn_size, rng) if 4 + 3 * i in flips else ffn_size,
            )
        if not self.per_layer:
            sizes = [sizes[0]] * subnet.depth
        old = [x.source for x in subnet.layers]
        kept = rng.choice(self.layer_sets) if 1 in flips else tuple(old)
        nearest = [min(range(len(old)), key=[abs(source - i) for source in old].__getitem__) for i in kept]
        hidden = _step(self.hidden_sizes, subnet.hidden_size, rng) if 0 in flips else subnet.hidden_size
        return self._build(kept, hidden, [sizes[j] for j in nearest])

    def crossover(self, a: SubnetConfig, b: SubnetConfig, rng: Random) -> SubnetConfig:
        """A child with the layers of one parent; sizes come from either parent, layer by layer."""
        child, other = (a, b) if rng.random() < 0.5 else (b, a)
        by_source = {x.source: x for x in other.layers}
        sizes = []
        for x in child.layers:
            donor = by_source.get(x.source, x) if self.per_layer and rng.random() < 0.5 else x
            sizes.append((donor.heads, donor.head_size, donor.ffn_size))
        hidden = rng.choice((a.hidden_size, b.hidden_size))
        return self._build([x.source for x in child.layers], hidden, sizes)


def _step(choices: Sequence[int], value: int, rng: Random) -> int:
    """Redraws a gene: near values more often than far ones, for neighbouring sizes behave alike."""
    others = [c for c in choices if c != value]
    if not others:
        return value
    ordered = sorted(choices)
    rank = {c: i for i, c in enumerate(ordered)}
    here = rank.get(value, 0)
    return rng.choices(others, weights=[math.pow(0.5, abs(rank[c] - here) - 1) for c in others])[0]
