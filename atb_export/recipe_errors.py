"""Every mistake of a recipe in one line each: the key, the value, the rule, and the nearest known key."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

_MISSING = object()
_RULE = "recipe_rule"
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """`key` is the path in the file, such as `target[0].length`; `value` is as in TOML, empty when missing."""

    key: str
    value: str
    problem: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value}: {self.problem}" if self.value else f"{self.key}: {self.problem}"


class RecipeError(Exception):
    """A recipe that cannot be run; `mistakes` holds all of them, in the order of the sections."""

    def __init__(self, path: object, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__("\n  ".join([f"{path}: {count} in the recipe", *map(str, mistakes)]))


class Section(BaseModel):
    """One table of a recipe: frozen, exact in its types and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """(key, problem) of what keys say together; `data` is as written, so any may be missing or wrong."""
        yield from ()

    def late_rules(self) -> Iterator[tuple[str, str]]:
        """The same of what shows only once every key is right by itself."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _all_at_once(cls, data: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        """Pydantic's errors and ours together; its after-validators are silent until all else is right."""
        found: list[InitErrorDetails] = []
        model = None
        try:
            model = handler(data)
        except ValidationError as error:
            found += [_again(details) for details in error.errors(include_url=False)]
        if isinstance(data, Mapping):
            late = [] if model is None else model.late_rules()
            for key, problem in (*cls.rules(data), *late):
                loc = (key,) if key else ()
                found.append({"type": broken_rule(problem), "loc": loc, "input": data.get(key, _MISSING)})
        if found:
            raise ValidationError.from_exception_data(cls.__name__, found)
        return model


def broken_rule(problem: str) -> PydanticCustomError:
    """What a validator of one value raises; the problem is told as it is."""
    return PydanticCustomError(_RULE, "{problem}", {"problem": problem})


def mistake(key: str, value: object, problem: str) -> Mistake:
    """A mistake that shows only when the recipe is used, such as a size that the teacher does not have."""
    return Mistake(key=key, value=_toml(value), problem=problem)


def repeated(items: object) -> list[Any]:
    """What a list holds more than once; a stranger's list may hold anything."""
    if not isinstance(items, list) or len(items) > 64:
        return []
    return [item for i, item in enumerate(items) if item in items[:i]]


def _again(details: Any) -> InitErrorDetails:
    """The details of an error in the form it can be raised in again."""
    kind: Any = details["type"]
    if kind == _RULE:
        kind = broken_rule(details["ctx"]["problem"])
    return {"type": kind, "loc": details["loc"], "input": details["input"], "ctx": details.get("ctx", {})}


def mistakes_of(error: ValidationError, recipe: type[Section]) -> list[Mistake]:
    """Pydantic's error about a whole recipe in our own lines."""
    found = []
    for details in error.errors(include_url=False):
        value, kind = details["input"], details["type"]
        loc = details["loc"]
        if kind == "too_short" and len(value) >= details["ctx"]["min_length"]:
            continue  # an echo of wrong items, which have their own lines
        shown = "" if value is _MISSING or kind == "missing" else _toml(value)
        mistake = Mistake(key=_key(loc), value=shown, problem=_problem(details, loc, recipe))
        if mistake not in found:
            found.append(mistake)
    return found


_SAID = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text in quotes",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list in brackets",
    "dict_type": "must be a table of keys and values",
    "model_type": "must be a table of keys and values",
    "model_attributes_type": "must be a table of keys and values",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "too_short": "needs at least {min_length} item(s)",
    "too_long": "takes at most {max_length} items",
    "string_too_short": "must not be empty",
    "string_too_long": "takes at most {max_length} characters",
    "string_pattern_mismatch": "is not of the right form",
}


def _problem(details: Any, loc: Sequence[int | str], recipe: type[Section]) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == _RULE:
        return str(context["problem"])
    return _builtin_problem(kind, value, context, loc, _section_at(recipe, loc[:-1])) or str(details["msg"])


def _builtin_problem(
    kind: str, value: Any, context: Any, loc: Sequence[int | str], section: type[Section] | None
) -> str:
    """What pydantic found wrong, in the words of a recipe; empty for a kind that has none here."""
    if kind == "extra_forbidden" and section is not None:
        known = list(section.model_fields)
        return f"unknown key{nearest_of(str(loc[-1]), known)}"
    name = next((str(part) for part in reversed(loc) if isinstance(part, str)), "")
    field = section.model_fields.get(name) if section is not None else None
    about = f" ({field.description})" if field is not None and field.description else ""
    is_table = field is not None and any(_is_section(inner) for inner in _types_in(field.annotation))
    if kind == "missing":
        if field is not None and is_table:
            heading = f"[{_key(loc)}]" if _is_section(field.annotation) else f"[[{_key(loc)}]]"
            return f"is missing: the recipe needs a table {heading}{about}"
        return f"is missing{about}"
    if kind == "literal_error":
        allowed = [str(choice) for choice in _choices(field.annotation if field is not None else None)]
        return f"must be one of {', '.join(map(_toml, allowed))}{did_you_mean(str(value), allowed)}{about}"
    if kind == "tuple_type" and is_table:
        return f"must be a list of tables: write [[{_key(loc)}]]{about}"
    return _SAID[kind].format(**context) + about if kind in _SAID else ""


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`; did you mean "..."?` with the nearest of the known names, or nothing where none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def nearest_of(name: str, known: Sequence[str]) -> str:
    """What follows "unknown ...": the nearest of the known names, and all of them."""
    return f"{did_you_mean(name, known) or ';'} known: {', '.join(known)}"


def _section_at(section: type[Section], loc: Sequence[int | str]) -> type[Section] | None:
    """The table that a path of keys and list indices leads to; a path that ends in a list, the list's table."""
    for part in loc:
        if isinstance(part, str):
            field = section.model_fields.get(part)
            inner = next((t for t in _types_in(field.annotation) if _is_section(t)), None) if field else None
            if inner is None:
                return section
            section = inner
    return section


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _types_in(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _types_in(inner)


def _choices(annotation: Any) -> Iterator[Any]:
    """The values of every `Literal` within an annotation."""
    return (kind for kind in _types_in(annotation) if isinstance(kind, str))


def _key(loc: Sequence[int | str]) -> str:
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part if _BARE_KEY.fullmatch(part) else _toml(part)
            text += f".{bare}" if text else bare
    return text or "the recipe"


def _toml(value: object, limit: int = 80) -> str:
    """A value as a recipe has it, cut at `limit` characters and safe to print."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, str):
        text = json.dumps(value[: limit + 1], ensure_ascii=not value.isprintable())
    elif isinstance(value, Mapping):
        pairs = (f"{_key([key])} = {_toml(inner)}" for key, inner in list(value.items())[:limit])
        text = "{ " + ", ".join(pairs) + " }" if value else "{}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(_toml(inner) for inner in value[:limit]) + "]"
    else:
        text = hex(value) if isinstance(value, int) and abs(value) > 2**64 else str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
