"""Every mistake of a recipe in one line each: the key, the value, the rule, and the nearest known key."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

_MISSING = object()
_RULE = "recipe_rule"


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """`key` is the path in the file, such as `target[0].length`; `value` is written as TOML, empty when missing."""

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

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    # What a missing key is, told to the user; keys without an entry are described by their type's own message.
    expects: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """(key, problem) of what several keys say together. `data` is as written: any key may be missing or wrong."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _all_at_once(cls, data: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        """Pydantic's own errors and ours together: its after-validators would stay silent until the rest is right."""
        found: list[InitErrorDetails] = []
        model = None
        try:
            model = handler(data)
        except ValidationError as error:
            found += [_again(details) for details in error.errors(include_url=False)]
        if isinstance(data, Mapping):
            for key, problem in cls.rules(data):
                kind = PydanticCustomError(_RULE, "{problem}", {"problem": problem})
                loc = (key,) if key else ()
                found.append({"type": kind, "loc": loc, "input": data.get(key, _MISSING)})
        if found:
            raise ValidationError.from_exception_data(cls.__name__, found)
        return model


def _again(details: Any) -> InitErrorDetails:
    """The details of an error in the form it can be raised in again."""
    kind: Any = details["type"]
    if kind == _RULE:
        kind = PydanticCustomError(_RULE, "{problem}", details["ctx"])
    return {"type": kind, "loc": details["loc"], "input": details["input"], "ctx": details.get("ctx", {})}
