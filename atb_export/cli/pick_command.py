"""`atb pick`: a design off the front of a search, from what is on disk. Only `--out` imports anything heavy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from atb_export.cli.front_table import show_front
from atb_export.cli.output import emit, json_option
from atb_export.errors import AtbError, WorkspaceError
from atb_export.picking import Found, Pick, at_knee, by_key, fastest_above, found_in_recipe, found_in_store, within
from atb_export.recipe import Recipe, load_recipe
from atb_export.ui import Ui
from atb_export.workspace import Stage, Workspace, fingerprint_of
from search.design import Design
from search.store import Store


@click.command("pick")
@click.argument("source", metavar="RECIPE|STORE", type=click.Path(path_type=Path))
@click.option(
    "--search", help="Another search of the store than the recipe's or the last, by its id or how that begins."
)
@click.option("--target", help="The target meant, by its label or how that begins; the first unless said.")
@click.option(
    "--max-ms",
    "limits",
    multiple=True,
    metavar="[TARGET=]MS",
    help="The most accurate within MS milliseconds; may be repeated for other targets.",
)
@click.option("--min-accuracy", type=float, help="The fastest with this accuracy (0 to 1) or more.")
@click.option("--knee", is_flag=True, help="Where more time begins to buy little accuracy.")
@click.option("--key", help="A design of the front by its key, or how that begins.")
@click.option("--store", type=click.Path(path_type=Path), help="The recipe's store, where it does not name it.")
@click.option("--out", type=click.Path(path_type=Path), help="Slice the subnet to a dense model in this new folder.")
@json_option
def pick_command(
    source: Path,
    search: str | None,
    target: str | None,
    limits: tuple[str, ...],
    min_accuracy: float | None,
    knee: bool,
    key: str | None,
    store: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Show the front of the search of a RECIPE, or of one in a STORE, and pick a design from it.

    By default the most accurate one that meets the search's limits. Works while the search is still running. --out
    slices the pick from the supernet of a RECIPE's run, with the weights it inherits.

    \b
    Example:
      atb pick recipes/quickstart.toml
      atb pick runs/store.sqlite --max-ms openvino=1.5 --max-ms tensorrt=0.4
      atb pick recipes/quickstart.toml --min-accuracy 0.85 --out runs/picked
      atb export runs/picked --target openvino --out runs/picked-bundle
    """
    asked = [bool(limits), min_accuracy is not None, knee, key is not None]
    if sum(asked) > 1:
        raise click.UsageError("--max-ms, --min-accuracy, --knee and --key are different picks; ask for one of them")
    if target is not None and not any(asked[:3]):
        raise click.UsageError("--target goes with --max-ms, --min-accuracy or --knee")
    if out is not None and out.exists():
        raise click.ClickException(f"{out} exists already; name a new folder")
    recipe: Recipe | None = None
    if _is_store(source):
        if store is not None or out is not None:
            raise click.UsageError(f"--store and --out go with a recipe, but {source} is a store")
        found = found_in_store(source, search)
    else:
        recipe = load_recipe(source)
        found = (
            found_in_recipe(recipe, store=store) if search is None else found_in_store(store or recipe.store, search)
        )
    pick = _choose(found, target=target, limits=limits, min_accuracy=min_accuracy, knee=knee, key=key)
    chosen = pick.candidate
    show_front(found, chosen)
    click.echo(f"\npicked  {chosen.design.key}  {chosen.design}")
    click.echo(f"        {pick.why}{'' if pick.note is None else f'; {pick.note}'}")
    if out is not None and recipe is not None:
        slice_dense(recipe, chosen.design, out, store=store or recipe.store)
        click.echo(f"dense   {out}")
    document = {
        "from": found.where,
        "finished": found.finished,
        "targets": list(found.targets),
        "limits_ms": list(found.limits_ms),
        "why": pick.why,
        "note": pick.note,
        "picked": {"key": chosen.design.key, **chosen.to_json()},
        "front": [{"key": x.design.key, **x.to_json()} for x in found.front],
        "dense": str(out) if out is not None else None,
    }
    emit(document, as_json=as_json)


def _is_store(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return path.suffix == ".sqlite" or file.read(16) == b"SQLite format 3\0"
    except OSError:
        return path.suffix == ".sqlite"


def _choose(
    found: Found,
    *,
    target: str | None,
    limits: tuple[str, ...],
    min_accuracy: float | None,
    knee: bool,
    key: str | None,
) -> Pick:
    which = 0 if target is None else found.target(target)
    if key is not None:
        return by_key(found, key)
    if knee:
        return at_knee(found, target=which)
    if min_accuracy is not None:
        return fastest_above(found, min_accuracy, target=which)
    return within(found, _limits(found, limits, target) if limits else None)


def _limits(found: Found, limits: tuple[str, ...], target: str | None) -> list[float | None]:
    """What `--max-ms` asks for, by target; those it does not name have no limit."""
    wanted: list[float | None] = [None] * len(found.targets)
    for text in limits:
        label, has_label, number = text.rpartition("=")
        name = label if has_label else target
        if name is None and len(found.targets) > 1:
            raise click.UsageError(
                f"--max-ms {text}: on which target? Say LABEL={text}; there are {', '.join(found.targets)}"
            )
        try:
            ms = float(number)
        except ValueError:
            ms = 0.0
        if not 0 < ms < float("inf"):
            raise click.UsageError(f"--max-ms takes a positive number of milliseconds, or LABEL=MS, got {text!r}")
        place = 0 if name is None else found.target(name)
        if wanted[place] is not None:
            raise click.UsageError(f"--max-ms names {found.targets[place]} twice")
        wanted[place] = ms
    return wanted


# --- the dense model -------------------------------------------------------------------------------------------------


class _FinishedStages(Workspace):
    """Reads stages back and makes none."""

    def stage(
        self, name: str, inputs: object, make: Callable[[Path], dict[str, Any]], *, together: bool = False
    ) -> Stage:
        stage = self._finished(name, self.folder / "stages" / name, fingerprint_of(name, inputs))
        if stage is None:
            raise WorkspaceError(
                f"{self.folder} has no stage {name!r} of this recipe: it is not finished, or the recipe changed since. "
                "Go on with `atb search --resume`"
            )
        return stage


def slice_dense(recipe: Recipe, design: Design, out: Path, *, store: Path) -> None:
    """The design's subnet as a dense model in the new folder `out`, from the supernet the search asked.

    Raises `WorkspaceError` where the recipe's run has no supernet, `AtbError` where it is not the one that the store's
    accuracies of the subnet are of.
    """
    with _FinishedStages.open(Path(recipe.output), resume=True) as workspace:
        from atb_export.dense import DenseModel, save_dense
        from atb_export.searching import content_hash
        from atb_export.stages import Run
        from atb_export.ui import quiet_libraries
        from runtime.files import appearing

        quiet_libraries()
        run = Run(recipe=recipe, workspace=workspace, ui=Ui())
        supernet, subnet = run.supernet, design.subnet
        with Store.open(store, create=False, readonly=True) as kept:
            scored = kept.accuracies(checkpoint=content_hash(supernet))
        if all(x.subnet != subnet.to_json() for x in scored):
            raise AtbError(
                f"the supernet in {recipe.output} is not the one that the accuracy of {design.key} is of, or {store} "
                "is not the store of its search. Search again, or name its store by --store"
            )
        teacher = run.teacher
        model = DenseModel(
            net=supernet.slice(subnet), tokenizer=teacher.tokenizer, labels=teacher.labels, family=teacher.family
        )
        with appearing(out) as aside:
            save_dense(model, aside)
