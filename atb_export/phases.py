"""A search in phases, each of some genes: the others are held as the phase before found them (`search.phases`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from atb_export.recipe_sections import Phase
from atb_export.workspace import write_json
from search.design import Design
from search.errors import SearchError
from search.phases import narrowed
from supernet.space import SearchSpace, SubnetConfig

Searching = Callable[[Path, str, SearchSpace, Phase, SubnetConfig], dict[str, Any]]
"""`(folder, context, space, phase, base)` to the plain-data result of one search, which asks for `base` first."""


def search_in_phases(
    phases: Sequence[Phase],
    space: SearchSpace,
    search: Searching,
    *,
    folder: Path,
    context: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The result of the last phase, with the candidates of all of them and what each found.

    A phase that is done lies in a folder of its name, and is not searched again. Raises `SearchError` where a phase has
    nothing to choose.
    """
    found: list[dict[str, Any]] = []
    base = space.largest()
    for phase in phases:
        result = _phase(
            phase, space, base, search, folder=folder / phase.name, context=f"{context} {phase.name}", say=say
        )
        base = Design.from_json(result["winner"]["design"]).subnet
        found.append(result)
    # Candidates of phases are asked in different spaces, and maybe after different training: the last has the front.
    earlier = [{**x, "front": False} for result in found[:-1] for x in result["candidates"]]
    return {
        **found[-1],
        "candidates": [*earlier, *found[-1]["candidates"]],
        "generations": sum(x["generations"] for x in found),
        "seconds": sum(x["seconds"] for x in found),
        "phases": [
            {"name": phase.name, "free": list(phase.free), "winner": x["winner"], "seconds": x["seconds"]}
            for phase, x in zip(phases, found, strict=True)
        ],
    }


def _phase(
    phase: Phase,
    space: SearchSpace,
    base: SubnetConfig,
    search: Searching,
    *,
    folder: Path,
    context: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    done = folder / "result.json"
    if done.is_file():
        kept: dict[str, Any] = json.loads(done.read_text())
        return kept
    try:
        narrow = narrowed(space, base, phase.free)
    except ValueError as error:
        raise SearchError(f"phase {phase.name!r} of [search]: {error}") from error
    say(f"search: phase {phase.name}: {', '.join(phase.free)}, {narrow.size():,} subnets")
    folder.mkdir(exist_ok=True)
    result = search(folder, context, narrow, phase, base)
    write_json(done, result)
    return result
