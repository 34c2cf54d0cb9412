"""The space subnets are drawn from. Standard library only, so that any floor can name one."""

from __future__ import annotations

import hashlib
import itertools
import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from random import Random
from typing import Any, Literal, TypeAlias

from supernet.cells import PLAIN, Cell
from supernet.subnet import MAX_FFN_STACK, LayerConfig, SubnetConfig, check

__all__ = ["DIMENSIONS", "LayerConfig", "SearchSpace", "Slicing", "SubnetConfig"]

Genes = tuple[int, int, int, int, Cell]
"""What a layer chooses: its sizes, in the order of `LayerConfig.sizes`, and what its cells compute."""

Slicing: TypeAlias = Literal["heads", "dims", "both"]
"""How attention is cut: AutoTinyBERT keeps first whole heads (MLM) or the first dims of every head (KD). A cut here is
the first dims of the first heads, of which these are the ends; nets trained one way and cut the other are wrong."""

# The fields of a space that list sizes; the last four are those of a layer, in the order of `LayerConfig.sizes`.
DIMENSIONS = ("hidden_sizes", "heads", "head_sizes", "ffn_sizes", "ffn_stacks")


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """For every dimension the allowed choices.

    `source_layers` is the depth of the supernet; `layer_sets` the sets of its layers that may be kept
    (every subset of an allowed depth when built by `of_depths`, the first ones by `first_layers`). With
    `per_layer` each layer chooses its own sizes and cell, else all layers are alike. The smallest and the largest
    subnet have the first of `cells`.
    """

    source_layers: int
    layer_sets: tuple[tuple[int, ...], ...]
    hidden_sizes: tuple[int, ...]
    heads: tuple[int, ...]
    head_sizes: tuple[int, ...]
    ffn_sizes: tuple[int, ...]
    ffn_stacks: tuple[int, ...] = (1,)
    cells: tuple[Cell, ...] = (PLAIN,)
    per_layer: bool = True

    def __post_init__(self) -> None:
        for name in ("layer_sets", "cells", *DIMENSIONS):
            choices = getattr(self, name)
            check(isinstance(choices, tuple), f"{name} is a tuple, got {type(choices).__name__}")
            check(len(choices) > 0, f"{name} needs at least one choice")
            if len(set(choices)) != len(choices):
                raise ValueError(f"{name} repeats a choice: {tuple(map(str, choices)) if name == 'cells' else choices}")
            if name in DIMENSIONS and min(choices) < 1:
                raise ValueError(f"{name} must be positive, got {choices}")
        check(max(self.ffn_stacks) <= MAX_FFN_STACK, f"ffn_stacks are 1 to {MAX_FFN_STACK}, got {max(self.ffn_stacks)}")
        for kept in self.layer_sets:
            check(
                len(kept) > 0 and list(kept) == sorted(set(kept)) and kept[0] >= 0 and kept[-1] < self.source_layers,
                f"layer set {kept} must ascend within 0..{self.source_layers - 1}",
            )

    # --- making one ----------------------------------------------------------------------------------------------

    @classmethod
    def of_depths(cls, *, source_layers: int, depths: Sequence[int], **choices: Any) -> SearchSpace:
        """The space whose layer sets are all subsets of the supernet's layers with an allowed depth."""
        _check_depths(source_layers, depths)
        sets = (kept for d in sorted(set(depths)) for kept in itertools.combinations(range(source_layers), d))
        return cls(source_layers=source_layers, layer_sets=tuple(sets), **choices)

    @classmethod
    def first_layers(cls, *, source_layers: int, depths: Sequence[int], **choices: Any) -> SearchSpace:
        """The space whose subnets keep the supernet's first layers, as AutoTinyBERT's do."""
        _check_depths(source_layers, depths)
        sets = (tuple(range(d)) for d in sorted(set(depths)))
        return cls(source_layers=source_layers, layer_sets=tuple(sets), **choices)

    def within(self, whole: SubnetConfig) -> SearchSpace:
        """The part of this space that can be cut from `whole`, the largest subnet of a supernet.

        Where the layers of `whole` differ, what all of them have counts; any cell can be computed with the linears of
        any other. Raises `ValueError` naming the dimension that is left without a choice.
        """
        least = tuple(min(sizes) for sizes in zip(*(layer.sizes for layer in whole.layers), strict=True))
        kept: dict[str, Any] = {}
        for name, limit in zip(DIMENSIONS, (whole.hidden_size, *least), strict=True):
            choices = getattr(self, name)
            kept[name] = tuple(x for x in choices if x <= limit)
            check(bool(kept[name]), f"{name} start at {min(choices)}, but no more than {limit} can be cut from {whole}")
        sources = set(whole.sources)
        sets = tuple(x for x in self.layer_sets if sources.issuperset(x))
        fewest = min(self._sets_by_depth)
        check(
            bool(sets),
            f"layer_sets: none of them ({fewest} layers or more) is among the {whole.depth} layers of {whole}",
        )
        return replace(self, source_layers=max(sources) + 1, layer_sets=sets, **kept)

    def check_slicing(self, slicing: Slicing, whole: SubnetConfig) -> None:
        """Raises `ValueError` where attention is not cut that way from `whole`: by whole heads their size is the
        supernet's, by dims of every head their number is."""
        if slicing == "both":
            return
        name = "head_sizes" if slicing == "heads" else "heads"
        own = sorted({x.head_size if slicing == "heads" else x.heads for x in whole.layers})
        choices = getattr(self, name)
        rule = "first whole heads" if slicing == "heads" else "the first dims of every head"
        check(len(own) == 1, f"slicing = {slicing!r} keeps {rule}, and the supernet's layers differ in {name}: {own}")
        check(
            list(choices) == own,
            f"slicing = {slicing!r} keeps {rule}: {name} has one choice, the supernet's {own}, got {str(choices)[:80]}",
        )

    # --- looking it up -------------------------------------------------------------------------------------------

    @cached_property
    def _sets_by_depth(self) -> dict[int, tuple[tuple[int, ...], ...]]:
        """Ascending depths."""
        found: dict[int, list[tuple[int, ...]]] = {}
        for kept in self.layer_sets:
            found.setdefault(len(kept), []).append(kept)
        return {depth: tuple(found[depth]) for depth in sorted(found)}

    @cached_property
    def _allowed(self) -> dict[str, frozenset[Any]]:
        return {name: frozenset(getattr(self, name)) for name in ("layer_sets", "cells", *DIMENSIONS)}

    @cached_property
    def _ordered(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(sorted(getattr(self, name))) for name in DIMENSIONS}

    @property
    def depths(self) -> tuple[int, ...]:
        """How many layers may be kept, ascending."""
        return tuple(self._sets_by_depth)

    def layer_sets_of(self, depth: int) -> tuple[tuple[int, ...], ...]:
        """The sets of so many layers that may be kept."""
        return self._sets_by_depth.get(depth, ())

    def contains(self, subnet: SubnetConfig) -> bool:
        """Whether `sample` could return it."""
        allowed = self._allowed
        heads, head_sizes, ffn_sizes, ffn_stacks = (allowed[name] for name in DIMENSIONS[1:])
        cells = allowed["cells"]
        return (
            subnet.hidden_size in allowed["hidden_sizes"]
            and subnet.sources in allowed["layer_sets"]
            and (self.per_layer or len({(x.sizes, x.cell) for x in subnet.layers}) == 1)
            and all(
                x.heads in heads and x.head_size in head_sizes and x.ffn_size in ffn_sizes and x.ffn_stack in ffn_stacks
                for x in subnet.layers
            )
            and all(x.cell in cells for x in subnet.layers)
        )

    def size(self) -> int:
        """How many subnets it holds."""
        sizes = len(self.heads) * len(self.head_sizes) * len(self.ffn_sizes) * len(self.ffn_stacks) * len(self.cells)
        sets = sum(
            len(kept) * (sizes**depth if self.per_layer else sizes) for depth, kept in self._sets_by_depth.items()
        )
        return len(self.hidden_sizes) * sets

    # --- drawing from it -----------------------------------------------------------------------------------------

    def _extreme(self, choose: Callable[[Iterable[int]], int]) -> SubnetConfig:
        kept = self._sets_by_depth[choose(self._sets_by_depth)][-1]
        hidden, *sizes = (choose(getattr(self, name)) for name in DIMENSIONS)
        return _build(kept, hidden, [(sizes[0], sizes[1], sizes[2], sizes[3], self.cells[0])] * len(kept))

    def smallest(self) -> SubnetConfig:
        """The least choice of every dimension."""
        return self._extreme(min)

    def largest(self) -> SubnetConfig:
        """The greatest choice of every dimension."""
        return self._extreme(max)

    def _genes(self, rng: Random) -> Genes:
        return (
            rng.choice(self.heads),
            rng.choice(self.head_sizes),
            rng.choice(self.ffn_sizes),
            rng.choice(self.ffn_stacks),
            # without a choice nothing is drawn, so that seeds from before there were cells draw what they did
            rng.choice(self.cells) if len(self.cells) > 1 else self.cells[0],
        )

    def sample(self, rng: Random) -> SubnetConfig:
        """One subnet, every dimension drawn uniformly; depth first, so that no depth crowds out another."""
        kept = rng.choice(self._sets_by_depth[rng.choice(self.depths)])
        layers = [self._genes(rng) for _ in kept] if self.per_layer else [self._genes(rng)] * len(kept)
        return _build(kept, rng.choice(self.hidden_sizes), layers)

    def mutate(self, subnet: SubnetConfig, rng: Random, *, rate: float = 0.2) -> SubnetConfig:
        """A neighbour: every gene is redrawn with probability `rate`, at least one gene always.

        Genes are the hidden size, the set of layers and the sizes and cell of each layer, as far as they have a choice.
        Layers that stay keep their sizes; a layer that enters takes the sizes of its nearest kept layer. The set of
        layers may be drawn as it was, and sizes may be those of a layer that leaves, so the neighbour may equal the
        subnet.
        """
        layers = subnet.depth if self.per_layer else 1
        free = [i for i, name in enumerate((*DIMENSIONS[1:], "cells")) if len(getattr(self, name)) > 1]
        genes: list[tuple[str, int, int]] = [("sizes", row, i) for row in range(layers) for i in free]
        genes += [("hidden", 0, 0)] * (len(self.hidden_sizes) > 1) + [("layers", 0, 0)] * (len(self.layer_sets) > 1)
        if not genes:
            return subnet
        hidden, kept, sizes = subnet.hidden_size, subnet.sources, [list(x.sizes) for x in subnet.layers[:layers]]
        cells = [x.cell for x in subnet.layers[:layers]]
        for gene, row, i in [x for x in genes if rng.random() < rate] or [rng.choice(genes)]:
            if gene == "sizes" and i == len(DIMENSIONS) - 1:
                cells[row] = rng.choice([x for x in self.cells if x != cells[row]])
            elif gene == "sizes":
                sizes[row][i] = _step(self._ordered[DIMENSIONS[1 + i]], sizes[row][i], rng)
            elif gene == "hidden":
                hidden = _step(self._ordered["hidden_sizes"], hidden, rng)
            else:
                kept = rng.choice(self.layer_sets)
        drawn: list[Genes] = [(a, b, c, d, cell) for (a, b, c, d), cell in zip(sizes, cells, strict=True)]
        if not self.per_layer:
            return _build(kept, hidden, drawn * len(kept))
        old = subnet.sources
        nearest = [min(range(len(old)), key=[abs(source - i) for source in old].__getitem__) for i in kept]
        return _build(kept, hidden, [drawn[j] for j in nearest])

    def crossover(self, a: SubnetConfig, b: SubnetConfig, rng: Random) -> SubnetConfig:
        """A child with the layers of one parent; sizes and cells come from either, layer by layer or, alike, one by
        one."""
        child, other = (a, b) if rng.random() < 0.5 else (b, a)
        hidden = rng.choice((a.hidden_size, b.hidden_size))
        if not self.per_layer:
            mine, its = child.layers[0], other.layers[0]
            h, d, f, k = (rng.choice(pair) for pair in zip(mine.sizes, its.sizes, strict=True))
            cell = rng.choice((mine.cell, its.cell)) if len(self.cells) > 1 else mine.cell
            return _build(child.sources, hidden, [(h, d, f, k, cell)] * child.depth)
        by_source = {x.source: x for x in other.layers}
        donors = (by_source.get(x.source, x) if rng.random() < 0.5 else x for x in child.layers)
        return _build(child.sources, hidden, [(*donor.sizes, donor.cell) for donor in donors])

    # --- naming it -----------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain data, without `cells` where it is the plain one only; `from_json` reads it back to an equal object."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        found |= {name: list(found[name]) for name in DIMENSIONS}
        cells = [cell.text for cell in found.pop("cells")]
        found |= {} if cells == [PLAIN.text] else {"cells": cells}
        return found | {"layer_sets": [list(kept) for kept in self.layer_sets]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SearchSpace:
        """Raises `ValueError` where a field is missing, unknown or of another kind."""
        known = {field.name for field in fields(cls)}
        check(isinstance(data, Mapping), f"a space is an object, got {type(data).__name__}")
        check(set(data) | {"cells"} == known, f"a space has {sorted(known)}, got {sorted(map(str, data))}")
        check(type(data["source_layers"]) is int, f"source_layers is an integer, got {data['source_layers']!r}")
        check(type(data["per_layer"]) is bool, f"per_layer is true or false, got {data['per_layer']!r}")
        lists = {name: data[name] for name in DIMENSIONS}
        check(isinstance(data["layer_sets"], list), "layer_sets is a list of lists of integers")
        lists |= {f"layer_sets[{i}]": kept for i, kept in enumerate(data["layer_sets"])}
        for name, found in lists.items():
            whole = isinstance(found, list) and all(type(x) is int for x in found)
            check(whole, f"{name} is a list of integers, got {str(found)[:80]}")
        choices: dict[str, Any] = {name: tuple(data[name]) for name in DIMENSIONS}
        cells = data.get("cells", [PLAIN.text])
        check(isinstance(cells, list), f"cells is a list of feed-forward cells, got {str(cells)[:80]}")
        choices["cells"] = tuple(map(Cell.parse, cells))
        return cls(**{**data, **choices, "layer_sets": tuple(map(tuple, data["layer_sets"]))})

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 (hexadecimal) of the choices."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _check_depths(source_layers: int, depths: Sequence[int]) -> None:
    check(
        all(1 <= d <= source_layers for d in depths),
        f"depths must lie within 1..{source_layers}, got {tuple(depths)}",
    )


def _build(kept: Sequence[int], hidden: int, genes: Sequence[Genes]) -> SubnetConfig:
    layers = (
        LayerConfig(source=i, heads=h, head_size=d, ffn_size=f, ffn_stack=k, cell=cell)
        for i, (h, d, f, k, cell) in zip(kept, genes, strict=True)
    )
    return SubnetConfig(hidden_size=hidden, layers=tuple(layers))


@lru_cache(maxsize=64)
def _reach(choices: int) -> tuple[float, ...]:
    """Chances summed up to each distance in ranks: each step halves them, or every eighth of the choices if that is
    more, so that a long list is crossed in as many steps as a short one."""
    scale = max(1.0, choices / 8)
    return tuple(itertools.accumulate((0.5 ** (i / scale) for i in range(choices)), initial=0.0))


def _step(ordered: Sequence[int], value: int, rng: Random) -> int:
    """Another one of the ascending choices, a near one rather than a far one: neighbouring sizes behave alike."""
    below = bisect_left(ordered, value)
    above = len(ordered) - bisect_right(ordered, value)
    if below + above == 0:
        return value
    reach = _reach(len(ordered))
    draw = rng.random() * (reach[below] + reach[above])
    if draw < reach[below]:
        return ordered[below - min(below, bisect_right(reach, draw))]
    return ordered[len(ordered) - above - 1 + min(above, bisect_right(reach, draw - reach[below]))]
