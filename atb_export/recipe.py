"""A recipe: one TOML file that describes a whole run. All its mistakes are told at once."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pydantic import Field, ValidationError

from atb_export.recipe_errors import Mistake, RecipeError, Section, mistakes_of
from atb_export.recipe_sections import (
    Compare,
    Constraint,
    Distill,
    Search,
    Supernet,
    Target,
    Task,
    Teacher,
    Text,
    Transfer,
)
from atb_export.recipe_space import Space

__all__ = ["Mistake", "Recipe", "RecipeError", "load_recipe", "parse_recipe"]

# Recipes are a few kilobytes; the time to parse one grows faster than its size.
MAX_RECIPE_BYTES = 64_000
MAX_DEPTH = 16
_PLACE = re.compile(r"^(.*) \(at (.*)\)$", re.DOTALL)


class Recipe(Section):
    """Everything a run is made of. Relative paths in it start at the current directory."""

    name: str = Field(
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="letters, digits, dots, dashes and underscores; a letter or digit first",
    )
    seed: int = Field(default=1, ge=0, le=2**32 - 1)
    output: Text = Field(description="a folder below the current directory, such as runs/quickstart")
    teacher: Teacher
    task: Task
    transfer: Transfer | None = None
    space: Space
    supernet: Supernet = Field(default_factory=Supernet)
    search: Search = Field(default_factory=Search)
    constraint: Constraint
    target: tuple[Target, ...] = Field(
        strict=False, min_length=1, max_length=64, description="an engine to build; the search measures the first"
    )
    distill: Distill = Field(default_factory=Distill)
    compare: Compare = Field(default_factory=Compare)

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """The output stays below the current directory, and every target is another one."""
        output = data.get("output")
        if isinstance(output, str) and output and not _stays_below(output):
            yield "output", "must be a folder below the current directory: no absolute path, no .."
        targets = data.get("target")
        if isinstance(targets, list):
            yield from _limits(targets)
            seen: dict[str, int] = {}
            for i, target in enumerate(targets[:64]):
                if not isinstance(target, Mapping):
                    continue
                name = repr([target.get(key, field.default) for key, field in Target.model_fields.items()])
                if name in seen:
                    yield "target", f"target[{i}] repeats target[{seen[name]}]"
                seen.setdefault(name, i)

    @property
    def targets(self) -> tuple[Target, ...]:
        """All engines to build, the search's first."""
        return self.target

    @property
    def store(self) -> Path:
        """The file that keeps measurements: by default shared by all runs whose output lies in the same folder."""
        return Path(self.search.store) if self.search.store is not None else Path(self.output).parent / "store.sqlite"

    def fingerprint(self, *sections: str) -> str:
        """sha256 (hexadecimal) of the named sections and the seed: equal as long as a stage made from them is valid.

        Keys that are left to their defaults count with their values; where measurements are kept does not. Raises
        `ValueError` for an unknown name.
        """
        if unknown := sorted(set(sections) - set(type(self).model_fields)):
            raise ValueError(f"a recipe has {', '.join(type(self).model_fields)}; got {', '.join(unknown)}")
        data = self.model_dump(mode="json", include={*sections, "seed"}, exclude={"search": {"store"}})
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _limits(targets: list[Any]) -> Iterator[tuple[str, str]]:
    """The first target's limit is `[constraint]`; only searched ones have precisions to choose from."""
    for i, target in enumerate(targets[:64]):
        if not isinstance(target, Mapping):
            continue
        limits = [key for key in ("max_ms", "of_teacher") if key in target]
        if i == 0 and limits:
            yield "target", f"target[0] has its limit in [constraint]; move {limits[0]} there"
        precision = target.get("precision")
        searched = i == 0 or limits or target.get("searched")
        if isinstance(precision, list) and len(precision) > 1 and not searched:
            yield (
                "target",
                f"target[{i}] is not searched, so nobody chooses among {precision}; name one, or give it max_ms",
            )


def load_recipe(path: str | Path) -> Recipe:
    """Reads and checks a recipe file; raises `RecipeError` with all its mistakes."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_RECIPE_BYTES + 1)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise RecipeError(path, [_of_file(f"cannot be read: {said}{_beside(path)}")]) from error
    return parse_recipe(content, path=path)


def parse_recipe(content: bytes, *, path: object = "recipe") -> Recipe:
    """Checks the content of a recipe file; `path` is for messages only."""
    if len(content) > MAX_RECIPE_BYTES:
        raise RecipeError(path, [_of_file(f"takes at most {MAX_RECIPE_BYTES:,} bytes")])
    try:
        data = tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        raise RecipeError(path, [_of_file(f"is not UTF-8 text at byte {error.start}")]) from error
    except (ValueError, RecursionError) as error:
        place = _PLACE.match(str(error))
        problem = f"not TOML: {place[1] if place else error}"
        raise RecipeError(path, [Mistake(key=place[2] if place else "the file", value="", problem=problem)]) from error
    if _is_deeper(data, MAX_DEPTH):
        raise RecipeError(path, [_of_file(f"nests its tables and lists deeper than {MAX_DEPTH} levels")])
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        mistakes = mistakes_of(error, Recipe)
    raise RecipeError(path, mistakes)


def _of_file(problem: str) -> Mistake:
    return Mistake(key="the file", value="", problem=problem)


def _is_deeper(data: object, levels: int) -> bool:
    """Whether values lie more than `levels` tables or lists deep; told without recursion."""
    layer = [data]
    for _ in range(levels + 1):
        nested = [inner for inner in layer if isinstance(inner, dict | list)]
        layer = [x for inner in nested for x in (inner.values() if isinstance(inner, dict) else inner)]
    return bool(layer)


def _beside(path: Path) -> str:
    """The recipes next to a path that is none, if there are any."""
    try:
        found = sorted(other.name for other in path.parent.glob("*.toml"))
    except (OSError, ValueError):
        return ""
    return f"; {path.parent} holds {', '.join(found[:12])}" if found else ""


def _stays_below(output: str) -> bool:
    """Whether the path is relative and never climbs, as any system reads it."""
    posix, windows = PurePosixPath(output), PureWindowsPath(output)
    parts = {*posix.parts, *windows.parts}
    return not (posix.is_absolute() or windows.drive or windows.root or ".." in parts or not posix.parts)
