"""The table [space] of a recipe: a preset, choices of one's own, or a preset with some of its choices replaced."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidatorFunctionWrapHandler, WrapValidator

from atb_export.recipe_errors import Mistake, RecipeError, Section, broken_rule, did_you_mean, mistake, repeated
from supernet.cells import Cell
from supernet.presets import PRESETS, Preset
from supernet.space import DIMENSIONS, SearchSpace, Slicing
from supernet.subnet import MAX_FFN_STACK, SubnetConfig

# Beyond this a space is one that nobody means, and too large to list.
MAX_LAYER_SETS = 200_000
MAX_CHOICES = 4096
MAX_SIZE = 65_536
MAX_DEPTH = 256

_RANGE_KEYS = ("min", "max", "step")
_CHOICES = "the sizes to choose from: a list such as [256, 512], or { min = 128, max = 1536, step = 4 }"


def _range_problems(table: Mapping[Any, Any], largest: int) -> Iterator[str]:
    """What is wrong with a range as it is written."""
    for key, value in table.items():
        if key not in _RANGE_KEYS:
            yield f"unknown key {str(key)[:40]!r}{did_you_mean(str(key), _RANGE_KEYS)}"
        elif type(value) is not int or not 1 <= value <= largest:
            yield f"{key} must be a whole number from 1 to {largest}"
    for key in ("min", "max"):
        if key not in table:
            yield f"{key} is missing"


def _expand(table: Mapping[Any, Any], largest: int) -> tuple[int, ...]:
    """The choices that a range stands for."""
    problems = list(_range_problems(table, largest))
    if not problems:
        least, most = table["min"], table["max"]
        choices = range(least, most + 1, table.get("step", 1))
        if 0 < len(choices) <= MAX_CHOICES:
            return tuple(choices)
        problems = [f"has {len(choices):,} choices, at most {MAX_CHOICES:,} can be searched; take a longer step"]
        if not choices:
            problems = [f"min ({least}) exceeds max ({most})"]
    raise broken_rule(f"a range is {{ min = 128, max = 1536, step = 4 }}: {'; '.join(problems)}")


def _or_range(largest: int) -> WrapValidator:
    """Takes a range besides the list that the type says; a range may have more choices than anyone would write."""

    def listed(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return _expand(value, largest) if isinstance(value, Mapping) else handler(value)

    return WrapValidator(listed)


_WRITTEN = Field(strict=False, min_length=1, max_length=64)
Sizes = Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_SIZE)], ...], _WRITTEN, _or_range(MAX_SIZE)]
Depths = Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_DEPTH)], ...], _WRITTEN, _or_range(MAX_DEPTH)]
Stacks = Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_FFN_STACK)], ...], _WRITTEN, _or_range(MAX_FFN_STACK)]


def _cell(value: object) -> str:
    """The canonical text of a feed-forward cell."""
    try:
        return Cell(value).text  # type: ignore[arg-type]
    except ValueError as error:
        raise broken_rule(str(error)) from error


Cells = Annotated[tuple[Annotated[str, BeforeValidator(_cell)], ...], _WRITTEN]
# Literal takes no values that are computed; a test holds it to PRESETS.
PresetName = Literal["autotinybert-mlm", "autotinybert-kd", "efficientbert", "per-layer"]


class Space(Section):
    """The architectures to search among. Without a preset every list of sizes is needed."""

    preset: PresetName | None = Field(
        default=None,
        description="a space that others have searched, cut to what the teacher has; other keys replace its",
    )
    depths: Depths | None = Field(default=None, description="how many layers may be kept, such as [2, 3]")
    hidden_sizes: Sizes | None = Field(default=None, description=_CHOICES)
    heads: Sizes | None = Field(default=None, description=_CHOICES)
    head_sizes: Sizes | None = Field(default=None, description=_CHOICES)
    ffn_sizes: Sizes | None = Field(default=None, description=_CHOICES)
    ffn_stacks: Stacks | None = Field(
        default=None, description="feed-forward cells of a layer; more than [1] needs a supernet that has them"
    )
    cells: Cells | None = Field(
        default=None, description='what a cell may compute, such as ["gelu", "add(x, linear2(relu(linear1(x))))"]'
    )
    slicing: Slicing = Field(
        default="both",
        description='how attention is cut: "heads" (first whole heads), "dims" (first dims of every head) or "both"',
    )
    first_layers: bool | None = Field(default=None, description="whether only the first layers may be kept")
    per_layer: bool | None = Field(default=None, description="whether every layer chooses its own sizes")

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """No choice is named twice, and every list is there or in a preset."""
        for key in ("depths", *DIMENSIONS):
            if twice := repeated(data.get(key)):
                yield key, f"names {twice} more than once"
            if key not in data and "preset" not in data and key != "ffn_stacks":
                yield key, f"is missing ({cls.model_fields[key].description}); a preset would have it"

    def late_rules(self) -> Iterator[tuple[str, str]]:
        """No cell is there twice, in whatever form it is written."""
        yield from super().late_rules()
        if twice := repeated(list(self.cells or ())):
            yield "cells", f"names {twice} more than once"

    @property
    def written(self) -> dict[str, Any]:
        """The choices that the recipe itself names."""
        found = {key: x for key, x in self.model_dump(exclude={"preset", "slicing"}).items() if x is not None}
        return found | ({} if self.cells is None else {"cells": tuple(map(Cell, self.cells))})

    @property
    def choices(self) -> Preset:
        """Those of the preset, replaced by the written ones."""
        if self.preset is None:
            return Preset(about="", **self.written)
        return replace(PRESETS[self.preset], **self.written)

    def space(self, source_layers: int | None = None) -> SearchSpace:
        """The space as it is written, in a supernet of so many layers or just deep enough.

        Raises `RecipeError` where that is more sets of layers than can be searched, or none.
        """
        chosen = self.choices
        layers = chosen.source_layers if source_layers is None else source_layers
        sets = sum(math.comb(layers, depth) for depth in chosen.depths)
        if sets > MAX_LAYER_SETS and not chosen.first_layers:
            raise self._error(
                "depths",
                f"gives {sets:,} sets of {layers} layers, at most {MAX_LAYER_SETS:,} can be searched; "
                "allow fewer depths, or the first layers only (first_layers = true)",
            )
        try:
            return chosen.space(layers)
        except ValueError as error:
            raise self._error("depths", str(error)) from error

    def build(self, whole: SubnetConfig) -> SearchSpace:
        """The space within a teacher of this shape: a preset is cut to what the teacher has.

        Raises `RecipeError` where a choice that is written is more than the teacher has, with all of them, or where
        nothing of the preset is left.
        """
        if mistakes := list(self._misfits(whole)):
            raise RecipeError("[space]", mistakes)
        try:
            found = self.space(whole.depth).within(whole)
        except ValueError as error:
            raise self._error(
                "preset", f"{error}; write choices of your own beside it, or take another teacher"
            ) from error
        try:
            found.check_slicing(self.slicing, whole)
        except ValueError as error:
            raise RecipeError("[space]", [mistake("space.slicing", self.slicing, str(error))]) from error
        return found

    def _misfits(self, whole: SubnetConfig) -> Iterator[Mistake]:
        layer, written = whole.layers[0], self.written
        deep = [depth for depth in written.get("depths", ()) if depth > whole.depth]
        if deep:
            problem = f"the teacher has {whole.depth} layers, so depths are 1 to {whole.depth}; got {_few(deep)}"
            yield mistake("space.depths", list(written["depths"]), problem)
        for key, limit in zip(DIMENSIONS, (whole.hidden_size, *layer.sizes), strict=True):
            if large := [size for size in written.get(key, ()) if size > limit]:
                problem = (
                    f"{_few(large)} does not fit in the teacher: hidden size {whole.hidden_size}, {layer.heads} heads "
                    f"of {layer.head_size}, feed-forward {layer.ffn_size}, {layer.ffn_stack} cell(s) a layer"
                )
                yield mistake(f"space.{key}", list(written[key]), problem)

    def _error(self, key: str, problem: str) -> RecipeError:
        """About a key, or about the preset where the key is the preset's."""
        value = getattr(self, key)
        name = key if value is not None else "preset"
        shown = self.preset if name == "preset" else list(value)
        return RecipeError("[space]", [mistake(f"space.{name}", shown, problem)])


def _few(sizes: list[int]) -> str:
    """The first of many."""
    return str(sizes) if len(sizes) <= 8 else f"[{', '.join(map(str, sizes[:3]))}, ... {sizes[-1]}]"
