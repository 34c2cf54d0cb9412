"""Commands that take a recipe: the whole way, or up to a stage."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from atb_export.cli.front_table import latency_models, show_front, show_latency_models
from atb_export.cli.output import emit, json_option, table
from atb_export.picking import found_in_result
from atb_export.recipe import BaseRecipe, Recipe, load_recipe
from atb_export.recipe_errors import nearest_of
from atb_export.recipe_sections import Target
from atb_export.ui import Ui
from supernet.processes import launched

AnyRecipe = TypeVar("AnyRecipe", bound=BaseRecipe)


def recipe_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Arguments all of these commands share."""
    function = json_option(function)
    function = click.option(
        "--skip-stage",
        "skipped",
        multiple=True,
        metavar="NAME",
        help="Leave a training stage of the recipe out, in an output folder of its own; may be repeated.",
    )(function)
    function = click.option(
        "--threads", type=click.IntRange(1), help="Threads of training; as many as there are CPUs by default."
    )(function)
    function = click.option("--resume", is_flag=True, help="Continue the run in the recipe's output folder.")(function)
    return click.argument("recipe", type=click.Path(path_type=Path))(function)


def search_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where the work of a search is done, and where it is kept."""
    for option in (
        click.option("--store", type=click.Path(path_type=Path), help="Another store than the recipe's."),
        click.option(
            "--time-limit",
            type=click.FloatRange(0, min_open=True),
            help="Seconds a job on the cluster may take; 600 unless said.",
        ),
        click.option(
            "--resource",
            "resources",
            multiple=True,
            metavar="BACKEND-DEVICE=NAME",
            help="The Ray resource of the nodes that have a target's device; may be repeated.",
        ),
        click.option(
            "--address", help="Of the Ray cluster: auto, HOST:PORT or ray://HOST:PORT. One is started here without."
        ),
        click.option(
            "--executor",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="Where candidates are measured and scored.",
        ),
    ):
        function = option(function)
    return function


@contextmanager
def opened(
    recipe: Path,
    *,
    resume: bool,
    threads: int | None,
    skipped: tuple[str, ...] = (),
    executor: str = "local",
    address: str | None = None,
    resources: tuple[str, ...] = (),
    time_limit: float | None = None,
    store: Path | None = None,
) -> Iterator[Any]:
    """A `Run` in its workspace. The recipe is checked whole before anything heavy is imported."""
    checked: Recipe = load_recipe(recipe)
    if store is not None:
        checked = checked.model_copy(update={"search": checked.search.model_copy(update={"store": str(store)})})
    if executor == "local" and (address is not None or resources or time_limit is not None):
        raise click.UsageError("--address, --resource and --time-limit go with --executor ray")
    named = _resources(resources, checked)
    if executor == "ray" and importlib.util.find_spec("ray") is None:  # told now, not after the training
        raise click.ClickException("the package ray is not installed: pip install 'atb-export[ray]', on every node too")
    from atb_export.stages import Run

    with working(checked, resume=resume, threads=threads, skipped=skipped) as (final, workspace):
        run = Run(recipe=final, workspace=workspace, ui=Ui(quiet=not workspace.is_main), skip=frozenset(skipped))
        if executor == "ray":
            from atb_export.executors.ray import RayExecutor
            from atb_export.searching import search_targets

            limit: dict[str, Any] = {} if time_limit is None else {"time_limit_s": time_limit}
            run.executor = partial(
                RayExecutor,
                targets=[x.target for x in search_targets(checked)],
                address=address,
                resources=named,
                **limit,
            )
        with left(run):
            yield run


@contextmanager
def left(course: Any) -> Iterator[None]:
    """Ends what training has open (trackers, a group of processes), after a failure without waiting for others."""
    try:
        yield
    except BaseException:
        course.close(failed=True)
        raise
    course.close()


@contextmanager
def working(
    recipe: AnyRecipe, *, resume: bool, threads: int | None, skipped: tuple[str, ...]
) -> Iterator[tuple[AnyRecipe, Any]]:
    """The recipe and its workspace, for each of the processes that were launched together. A run that skips stages has
    a folder of its own, and reuses what the whole run in the recipe's folder has done for the same inputs."""
    for name in skipped:
        if name not in (names := recipe.stage_names()):
            known = nearest_of(name, names) if names else "; the recipe lists none"
            raise click.UsageError(f"--skip-stage {name}: there is no such stage{known}")
    import torch

    from atb_export.ui import quiet_libraries
    from atb_export.workspace import Workspace
    from runtime.engine import usable_cpus

    quiet_libraries()
    processes = launched()
    threads = threads or max(1, usable_cpus() // processes.here)
    if processes.count > 1:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # or Accelerate would choose others
    torch.set_num_threads(threads)
    base = None
    if skipped:
        base = Path(recipe.output)
        name = "-".join(x for x in recipe.stage_names() if x in skipped)
        recipe = recipe.model_copy(update={"output": f"{recipe.output}-without-{name}"})
    with Workspace.open(Path(recipe.output), resume=resume, base=base, processes=processes) as workspace:
        yield recipe, workspace


def _resources(given: tuple[str, ...], recipe: Recipe) -> dict[str, str]:
    """Device of a searched target, such as "openvino-CPU" -> name of the Ray resource of its workers."""
    devices = list(dict.fromkeys(f"{x.backend}-{x.device}" for i, x in enumerate(recipe.targets) if _searched(i, x)))
    found: dict[str, str] = {}
    for text in given:
        device, _, name = text.rpartition("=")
        if device not in devices or not name:
            known = ", ".join(devices)
            raise click.UsageError(f"--resource takes BACKEND-DEVICE=NAME; the recipe searches {known}; got {text!r}")
        found[device] = name
    return found


def _searched(index: int, target: Target) -> bool:
    return index == 0 or target.is_searched


def _row(model: dict[str, Any], teacher: dict[str, Any]) -> list[str]:
    low, high = model["latency_ci_ms"]
    return [
        model["name"],
        f"{model['accuracy']:.4f} ± {model['accuracy_se']:.4f}",
        f"{model['accuracy'] / teacher['accuracy']:.1%}",
        f"{model['latency_ms']:.3f} [{low:.3f}, {high:.3f}]",
        f"{model['latency_of_teacher']:.3f}",
        f"{model['params'] / 1e6:.1f} M",
        f"{model['bundle_bytes'] / 1e6:.0f} MB",
    ]


def show(result: dict[str, Any], folder: Path) -> None:
    """The result as a table, and where everything is."""
    target, teacher = result["target"], result["teacher"]
    click.echo(
        f"\n{target['backend']}, the winner in {target['effective_precision']}, {target['threads']} thread(s), "
        f"batch {target['shape']['batch']}, length {target['shape']['length']}; "
        f"{result['engines_measured']} engines measured, {result['engines_failed']} failed; "
        f"accuracy on {result['task']['rows']['test']} test rows\n"
    )
    header = ["model", result["task"]["metric"], "of teacher", "p50 ms [95 %]", "of teacher", "params", "bundle"]
    table(header, [_row(x, teacher) for x in (teacher, result["winner"], *result["baselines"])])
    for pair in result["paired"]:
        click.echo(
            f"{pair['a']} - {pair['b']}: {pair['difference']:+.4f} (p = {pair['p_value']:.3f}): {pair['verdict']}"
        )
    click.echo(f"\nbundle  {folder / 'bundle'}\nreport  {folder / 'report.html'}\nresult  {folder / 'result.json'}")


def _finish(recipe: Path, *, resume: bool, threads: int | None, as_json: bool, compare: bool, **work: Any) -> None:
    with opened(recipe, resume=resume, threads=threads, **work) as run:
        from atb_export.result import finish, take_part

        if not run.workspace.is_main:
            return take_part(run, compare=compare)
        result = finish(run, compare=compare)
        show(result, run.workspace.folder)
        emit(result, as_json=as_json)


@click.command("run")
@recipe_command
@search_options
def run_command(recipe: Path, resume: bool, threads: int | None, as_json: bool, **work: Any) -> None:
    """Do everything RECIPE describes, from the teacher to the bundle and the report.

    \b
    Example:
      atb run recipes/quickstart.toml
      atb run recipes/quickstart.toml --resume      after an interruption
      atb run recipes/efficientbert.toml --skip-stage warm-up     what is a stage worth?
    """
    _finish(recipe, resume=resume, threads=threads, as_json=as_json, compare=False, **work)


@click.command("compare")
@recipe_command
@search_options
def compare_command(recipe: Path, resume: bool, threads: int | None, as_json: bool, **work: Any) -> None:
    """Continue a run with the hand-designed baselines of RECIPE, distilled like the winner, and report again.

    \b
    Example:
      atb compare recipes/quickstart.toml --resume
    """
    _finish(recipe, resume=resume, threads=threads, as_json=as_json, compare=True, **work)


@click.command("train")
@recipe_command
def train_command(recipe: Path, resume: bool, threads: int | None, as_json: bool, **more: Any) -> None:
    """Fine-tune the teacher of RECIPE and train its supernet.

    \b
    Example:
      atb train recipes/quickstart.toml
    """
    with opened(recipe, resume=resume, threads=threads, **more) as run:
        stage = run.supernet_stage
        if not run.workspace.is_main:
            return
        click.echo(f"supernet  {stage.folder / 'supernet.safetensors'}")
        emit({"supernet": str(stage.folder), "seconds": run.workspace.seconds, **stage.result}, as_json=as_json)


@click.command("search")
@recipe_command
@search_options
def search_command(recipe: Path, resume: bool, threads: int | None, as_json: bool, **work: Any) -> None:
    """Search the space of RECIPE by the measured latency of compiled engines.

    Trains what is not trained yet. Every measurement is kept in the store, for this search to go on from and for
    later ones to reuse.

    \b
    Example:
      atb search recipes/quickstart.toml --resume
      atb search my.toml --executor ray --address auto --resource openvino-CPU=openvino-spr
    """
    with opened(recipe, resume=resume, threads=threads, **work) as run:
        if not run.workspace.is_main:
            _ = run.supernet_stage  # the rest needs no training
            return
        stage = run.search_stage
        found = found_in_result(stage.result, where=str(stage.folder))
        show_front(found, found.winner)
        models = latency_models(found)
        show_latency_models(models)
        emit({**stage.result, "latency_models": models}, as_json=as_json)
