"""A recipe: one TOML file that describes a whole run. All its mistakes are told at once."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from atb_export.recipe_errors import Mistake, RecipeError, Section, mistakes_of, repeated
from atb_export.recipe_sections import Compare, Constraint, Search, Target, Task, Teacher, Transfer
from atb_export.recipe_space import Space
from atb_export.recipe_student import Student
from atb_export.recipe_training import Augmentation, Distill, Engine, Supernet
from atb_export.recipe_values import Text

__all__ = [
    "BaseRecipe",
    "Mistake",
    "Recipe",
    "RecipeError",
    "StudentRecipe",
    "load_recipe",
    "load_student_recipe",
    "parse_recipe",
]

# Recipes are a few kilobytes; the time to parse one grows faster than its size.
MAX_RECIPE_BYTES = 64_000
MAX_DEPTH = 16
_PLACE = re.compile(r"^(.*) \(at (.*)\)$", re.DOTALL)


class BaseRecipe(Section):
    """What every recipe says: who teaches, which task, what is learnt. Relative paths start where a command is run."""

    name: str = Field(
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="letters, digits, dots, dashes and underscores; a letter or digit first",
    )
    seed: int = Field(default=1, ge=0, le=2**32 - 1)
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, le=2**32 - 1)], ...], Field(strict=False, max_length=64)] = Field(
        default=(), description="students that `atb distill` teaches, one a seed; seed alone if not named"
    )
    output: Text = Field(description="a folder below the current directory, such as runs/quickstart")
    teacher: Teacher
    task: Task
    transfer: Transfer | None = None
    augmentation: Augmentation | None = None
    distill: Distill = Field(default_factory=Distill)
    engine: Engine = Field(default_factory=Engine)

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """The output stays below the current directory."""
        output = data.get("output")
        if isinstance(output, str) and output and not _stays_below(output):
            yield "output", "must be a folder below the current directory: no absolute path, no .."
        if twice := repeated(data.get("seeds")):
            yield "seeds", f"names {twice} more than once"

    def late_rules(self) -> Iterator[tuple[str, str]]:
        """What stages need is there."""
        yield from _stage_needs(self, "distill", self.distill)
        if self.task.kind == "squad":
            yield from _question_limits(self)

    def stage_names(self) -> tuple[str, ...]:
        """Those that can be skipped."""
        return tuple(x.name for x in self.distill.stage)

    def fingerprint(self, *sections: str) -> str:
        """sha256 (hexadecimal) of the named sections and the seed: equal as long as a stage made from them is valid.

        Keys that are left to their defaults count with their values; where measurements are kept does not. Raises
        `ValueError` for an unknown name.
        """
        if unknown := sorted(set(sections) - set(type(self).model_fields)):
            raise ValueError(f"a recipe has {', '.join(type(self).model_fields)}; got {', '.join(unknown)}")
        data = self.model_dump(mode="json", include={*sections, "seed"})
        if "search" in data:
            del data["search"]["store"]
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class StudentRecipe(BaseRecipe):
    """Everything `atb distill` needs: a hand-written student, and nothing of a search."""

    student: Student


class Recipe(BaseRecipe):
    """Everything a run is made of."""

    space: Space
    supernet: Supernet = Field(default_factory=Supernet)
    search: Search = Field(default_factory=Search)
    constraint: Constraint
    target: tuple[Target, ...] = Field(
        strict=False, min_length=1, max_length=64, description="an engine to build; the search measures the first"
    )
    compare: Compare = Field(default_factory=Compare)
    student: Student | None = None

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Every target is another one, and there is something to search."""
        yield from super().rules(data)
        if isinstance(task := data.get("task"), Mapping) and task.get("kind") == "squad":
            yield (
                "task",
                'of kind "squad" is for `atb distill` and a [student] alone: designs are searched, built and served as '
                "classifiers of texts. Drop [space] and what goes with it",
            )
        if "student" in data and "space" not in data:
            yield "student", "is for `atb distill`; a recipe without [space] has nothing to search"
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

    def late_rules(self) -> Iterator[tuple[str, str]]:
        """What stages need is there, and names tell stages of both lists apart."""
        yield from super().late_rules()
        yield from _stage_needs(self, "supernet", self.supernet)
        attentive = any(x.sampler.kind == "attentive" for x in self.supernet.stages())
        if attentive and self.constraint.of_teacher is None:
            yield "supernet", "an attentive sampler looks at constraint.of_teacher; name it instead of max_ms"
        both = sorted({x.name for x in self.supernet.stage} & {x.name for x in self.distill.stage})
        if both:
            yield "distill", f"stages of [supernet] are named {', '.join(both)} too; --skip-stage could not tell them"

    def stage_names(self) -> tuple[str, ...]:
        """Those that can be skipped."""
        return (*(x.name for x in self.supernet.stage), *super().stage_names())

    @property
    def targets(self) -> tuple[Target, ...]:
        """All engines to build, the search's first."""
        return self.target

    @property
    def store(self) -> Path:
        """The file that keeps measurements: by default shared by all runs whose output lies in the same folder."""
        return Path(self.search.store) if self.search.store is not None else Path(self.output).parent / "store.sqlite"


def _stage_needs(recipe: BaseRecipe, name: str, section: Distill | Supernet) -> Iterator[tuple[str, str]]:
    """What stages name that the recipe lacks."""
    try:
        stages = section.stages()
    except ValueError:  # told by the section itself
        return
    for stage in stages:
        where = f"stage {stage.name!r} of [{name}]" if section.stage else f"[{name}]"
        if stage.data == "transfer" and recipe.transfer is None:
            yield name, f"{where} learns from transfer text: the recipe needs a table [transfer]"
        if stage.data == "augmented" and recipe.augmentation is None and recipe.task.kind != "squad":
            yield name, f"{where} learns from augmented rows: the recipe needs a table [augmentation]"
        if stage.teacher == "multitask" and not recipe.teacher.tasks:
            yield name, f"{where} has a teacher of several tasks: list the others as [[teacher.tasks]]"
        if stage.teacher == "pretrained" and stage.losses.soft_label:
            yield name, f"{where}: a teacher that never saw the task has no answers: set soft_label to 0"


def _question_limits(recipe: BaseRecipe) -> Iterator[tuple[str, str]]:
    """What rows with a label can do and questions about contexts cannot."""
    if recipe.teacher.tasks:
        yield "teacher", "of several tasks has rows with a label, and questions are none: drop [[teacher.tasks]]"
    if recipe.augmentation is not None:
        yield "augmentation", "replaces words of rows; of a context the answer would be lost: drop it"
    if recipe.transfer is not None and recipe.transfer.confidence_quantile:
        yield "transfer", "has a confidence_quantile, which is of classes of single texts: drop it"
    try:
        stages = recipe.distill.stages()
    except ValueError:  # told by the section itself
        return
    for stage in stages:
        where = f"stage {stage.name!r} of [distill]" if recipe.distill.stage else "[distill]"
        if stage.data == "augmented":
            yield "distill", f'{where} learns from augmented rows, of which questions have none: set data to "task"'
        if recipe.transfer is not None and stage.data in ("transfer", "all") and stage.losses.soft_label:
            what = 'of which nobody asks anything: set soft_label to 0 there, or data to "task"'
            yield "distill", f"{where}: transfer text is single sentences, {what}"


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
    return parse_recipe(_content(Path(path)), path=path)


def load_student_recipe(path: str | Path) -> StudentRecipe | Recipe:
    """The same of one that has a `[student]`, with or without a search beside it."""
    content = _content(Path(path))
    data = _data(content, path)
    if "space" not in data:
        return _checked(data, StudentRecipe, path)
    recipe = _checked(data, Recipe, path)
    if recipe.student is None:
        what = 'is missing: `atb distill` teaches a hand-written shape, such as preset = "tinybert4"'
        raise RecipeError(path, [Mistake(key="student", value="", problem=what)])
    return recipe


def parse_recipe(content: bytes, *, path: object = "recipe") -> Recipe:
    """Checks the content of a recipe file; `path` is for messages only."""
    return _checked(_data(content, path), Recipe, path)


_Kind = TypeVar("_Kind", bound=BaseRecipe)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_RECIPE_BYTES + 1)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise RecipeError(path, [_of_file(f"cannot be read: {said}{_beside(path)}")]) from error


def _data(content: bytes, path: object) -> dict[str, Any]:
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
    return data


def _checked(data: dict[str, Any], kind: type[_Kind], path: object) -> _Kind:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        mistakes = mistakes_of(error, kind)
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
