"""What a search found, read without its run, and the picks from it: no torch, no engine, nothing is measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atb_export.errors import AtbError
from atb_export.recipe import Recipe
from atb_export.recipe_sections import Constraint, Target
from search.candidate import Candidate
from search.errors import StoreError
from search.front import fastest, front, knee, most_accurate
from search.goals import Goals
from search.store import Store


@dataclass(frozen=True, kw_only=True)
class Found:
    """A search as far as it came.

    `targets` are labels; `limits_ms` what it is asked for. Where it is `finished` the numbers of the front are those of
    its last measurement, side by side, and `winner` is what it named under these limits. `where` says what was read.
    """

    where: str
    targets: tuple[str, ...]
    limits_ms: tuple[float | None, ...]
    candidates: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    teacher_ms: tuple[float, ...] | None = None
    finished: bool = False
    winner: Candidate | None = None

    def target(self, name: str) -> int:
        """Index of the target of that label, or of the only one that begins so. Raises `AtbError`."""
        matching = [i for i, x in enumerate(self.targets) if x.startswith(name)]
        if name in self.targets:
            return self.targets.index(name)
        if len(matching) != 1 or not name:
            what = "no target" if not matching else f"{len(matching)} targets that begin with"
            raise AtbError(f"the search has {what} {name!r}; it has {', '.join(self.targets)}")
        return matching[0]


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One design of the front, and what it was asked for in words; `note` is what a reader should know besides."""

    candidate: Candidate
    why: str
    note: str | None = None


# --- reading ---------------------------------------------------------------------------------------------------------


def found_in_result(result: Mapping[str, Any], *, where: str) -> Found:
    """A finished search from its stage's result; raises `AtbError` where that is damaged."""
    try:
        rows = [({k: v for k, v in x.items() if k != "front"}, x["front"]) for x in result["candidates"]]
        candidates = tuple(Candidate.from_json(x) for x, _ in rows)
        edge = (x for x, (_, on_front) in zip(candidates, rows, strict=True) if on_front)
        return _checked(
            Found(
                where=where,
                targets=tuple(result["targets"]),
                limits_ms=tuple(result["constraints_ms"]),
                teacher_ms=tuple(result["teacher_ms"]),
                candidates=candidates,
                front=tuple(sorted(edge, key=lambda x: (x.ms, x.design.key))),
                finished=True,
                winner=Candidate.from_json(result["winner"]),
            )
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise AtbError(f"{where} holds no readable result of a search: {error}. Delete it and search again") from error


def found_in_store(path: Path, search: str | None = None) -> Found:
    """The search of that id (or the only one whose id begins so), or the last one begun that evaluated anything."""
    with Store.open(path, create=False, readonly=True) as store:
        known = [x for x in store.searches() if search is None or x[0].startswith(search)]
        if search is None:
            known = [x for x in known if x[3]][-1:]
        exact = [x for x in known if x[0] == search]
        if len(exact or known) != 1:
            ids = [x[0] for x in known or store.searches()]
            what = f"{len(known)} searches that begin with" if known else "no search"
            name = f" {search!r}" if search is not None else " with an evaluation"
            listed = f"; it has {', '.join(ids[-8:])}" if ids else ""
            raise AtbError(f"{path} has {what}{name}{listed}")
        name, header, _, _ = (exact or known)[0]
        rows = store.recorded(name).candidates
    where = f"search {name} of {path}"
    try:
        candidates = tuple(map(Candidate.from_json, rows))
        return _checked(
            Found(
                where=where,
                targets=tuple(header["targets"]),
                limits_ms=tuple(header["constraints_ms"]),
                candidates=candidates,
                front=front(candidates),
            )
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{where} is not one that this version of atb can read: {error}") from error


def found_in_recipe(recipe: Recipe, *, store: Path | None = None) -> Found:
    """The search of the recipe's output folder under the recipe's limits of now: its result where it is finished,
    else what the store has of it so far. `store` is where that lies if the recipe does not say so."""
    folder = Path(recipe.output) / "stages" / "search"
    # A search in phases has a start for each of them: the last one begun is what there is of it so far.
    starts = sorted((*folder.glob("start.json"), *folder.glob("*/start.json")), key=lambda path: path.stat().st_mtime)
    start = _json(starts[-1]) if starts else None
    if start is None:
        raise AtbError(f"{recipe.output} holds no search yet; `atb search` with this recipe makes one")
    done = _json(folder / "done.json")
    if done is not None:
        found = found_in_result(done.get("result", {}), where=str(folder))
    else:
        found = _so_far(start, store or recipe.store, folder)
    return _under(found, recipe)


def _so_far(start: Mapping[str, Any], store: Path, folder: Path) -> Found:
    try:
        search, references = str(start["search"]), [float(x["ms"]) for x in start["references"]]
    except (KeyError, TypeError, ValueError) as error:
        raise AtbError(f"{folder / 'start.json'} is damaged: {error}. Delete {folder} and search again") from error
    try:
        found = found_in_store(store, search)
    except (AtbError, StoreError) as error:
        raise AtbError(
            f"the search in {folder} is not finished and has no record yet ({error}). Go on with "
            "`atb search --resume`, or name its store by --store"
        ) from error
    return replace(found, teacher_ms=tuple(references))


def _under(found: Found, recipe: Recipe) -> Found:
    """The same under the recipe's limits of now, where it still names the same targets; other limits have no winner."""
    searched = [x for i, x in enumerate(recipe.targets) if i == 0 or x.is_searched]
    if tuple(x.build().label for x in searched) != found.targets or found.teacher_ms is None:
        return found
    limits: list[Constraint | Target] = [recipe.constraint, *searched[1:]]
    wanted = tuple(
        x.max_ms if x.max_ms is not None else None if x.of_teacher is None else x.of_teacher * teacher_ms
        for x, teacher_ms in zip(limits, found.teacher_ms, strict=True)
    )
    return found if wanted == found.limits_ms else replace(found, limits_ms=wanted, winner=None)


def _checked(found: Found) -> Found:
    """Raises `ValueError` where the parts do not belong together."""
    # A store may come from a stranger, and what is not printable may speak to the terminal.
    for name in {*found.targets, *(p for x in found.candidates for p in x.design.precisions)}:
        if not isinstance(name, str) or not name.isprintable():
            raise ValueError(f"targets and precisions have printable names, got {name!r}")
    Goals(constraints_ms=found.limits_ms)
    counts = {len(found.targets), len(found.limits_ms), *(len(x.design.precisions) for x in found.candidates)}
    if len(counts | ({len(found.teacher_ms)} if found.teacher_ms is not None else set())) != 1:
        raise ValueError("targets, limits and candidates count differently")
    return found


def _json(path: Path) -> dict[str, Any] | None:
    """None where there is no such file."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise AtbError(f"{path} cannot be read: {error}. Delete {path.parent} and search again") from error
    if not isinstance(data, dict):
        raise AtbError(f"{path} is damaged. Delete {path.parent} and search again")
    return data


# --- choosing --------------------------------------------------------------------------------------------------------


def within(found: Found, limits_ms: Sequence[float | None] | None = None) -> Pick:
    """The most accurate that meets the limits, by default the search's own. Raises `NothingFits`.

    As the search itself does, it prefers those whose whole interval meets them.
    """
    goals = Goals(constraints_ms=found.limits_ms if limits_ms is None else tuple(limits_ms))
    limits = [
        f"{ms:g} ms on {label}" for ms, label in zip(goals.constraints_ms, found.targets, strict=True) if ms is not None
    ]
    why = f"the most accurate within {', '.join(limits)}" if limits else "the most accurate"
    pool = found.front or found.candidates
    likely = most_accurate(pool, goals)
    if limits_ms is None and found.winner is not None:
        chosen = found.winner
    else:
        sure = [x for x in pool if goals.fits(x) and goals.violation([t.ci_ms[1] for t in x.latencies]) == 0]
        chosen = most_accurate(sure, goals) if any(x.is_scored for x in sure) else likely
    note = None
    if (chosen.accuracy or 0.0) < (likely.accuracy or 0.0):
        note = f"{likely.design.key} is more accurate, but its interval reaches beyond the limit"
    elif goals.violation([t.ci_ms[1] for t in chosen.latencies]) > 0:
        note = "its interval reaches beyond the limit"
    return Pick(candidate=chosen, why=why, note=note)


def fastest_above(found: Found, accuracy: float, *, target: int = 0) -> Pick:
    """The fastest on one target of those at least that accurate. Raises `NothingFits`."""
    chosen = fastest(found.front or found.candidates, accuracy=accuracy, target=target)
    return Pick(candidate=chosen, why=f"the fastest on {found.targets[target]} with {accuracy:g} or more")


def at_knee(found: Found, *, target: int = 0) -> Pick:
    """Where accuracy against the latency on one target bends. Raises `NothingFits`."""
    chosen = knee(found.front or found.candidates, target=target)
    return Pick(candidate=chosen, why=f"where accuracy against the latency on {found.targets[target]} bends")


def by_key(found: Found, key: str) -> Pick:
    """The design of the front whose key begins so. Raises `AtbError` where it is none, or not the only one."""
    matching = [x for x in found.front if key and x.design.key.startswith(key)]
    if len(matching) != 1:
        keys = ", ".join(x.design.key for x in matching or found.front)
        what = f"{len(matching)} designs of the front have keys" if matching else "no design of the front has a key"
        raise AtbError(f"{what} that begin{'' if matching else 's'} with {key!r}: {keys or 'it is empty'}")
    return Pick(candidate=matching[0], why=f"the one you named, {matching[0].design.key}")
